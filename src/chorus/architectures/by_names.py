"""The layout of a model whose class nobody here knows (its code comes with it): stacks, as far as names tell them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from chorus.architectures.roles import Layout, Role, Stack, layer_index, relative_depth


def layout_by_names(names: Sequence[str]) -> Layout:
    """Runs of layers numbered from 0; every tensor's component is "other"."""
    stacks = _stacks(names)
    return Layout("unknown", {name: _role(name, stacks) for name in names}, stacks)


def _stacks(names: Sequence[str]) -> tuple[Stack, ...]:
    numbers: dict[str, set[int]] = defaultdict(set)
    for name in names:
        parts = name.split(".")
        for i, part in enumerate(parts[:-1]):
            if part.isdigit():
                numbers[".".join(parts[:i]) + "."].add(int(part))
                break  # the outermost: experts and heads are numbered within their layers
    runs = {prefix: len(found) for prefix, found in numbers.items() if found == set(range(len(found)))}
    several = [prefix for prefix, count in runs.items() if count > 1]
    # no key is known by which the model's code reads the count
    return tuple(Stack("default" if len(several) == 1 else p.rstrip("."), p, runs[p], None) for p in several)


def _role(name: str, stacks: Sequence[Stack]) -> Role:
    module, _, leaf = name.rpartition(".")
    kind = "norm" if "norm" in module.lower() else "bias" if leaf == "bias" else "other"
    for stack in stacks:
        found = layer_index(name, stack.prefix)
        if found:
            return Role("other", kind, stack.module, found[0], relative_depth(found[0], stack.count), "layer")
    return Role("other", kind, stacks[0].module if len(stacks) == 1 else "default")
