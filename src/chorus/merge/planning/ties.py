"""Tied or not: in the result only what is tied in every model; else a copy is a tensor like any other."""

from __future__ import annotations

from chorus.architectures.layouts import layout_of
from chorus.checkpoints.ties import declared, settled, tied_in, untied_alike
from chorus.merge.planning.inputs import Inputs


def tie_inputs(inputs: Inputs) -> None:
    """Give every model the copies that are tensors of their own in one of them, and the donor a config that says so."""
    opened = inputs.models
    inputs.models = [settled(model) for model in opened]
    for model, found in zip(opened, inputs.models, strict=True):
        if found.config is not model.config:
            differ = sorted(set(declared(model)) & set(model.checkpoint))
            inputs.warnings.append(
                f"{model.label}: its config ties {', '.join(differ)}, its file holds other values: they are taken as "
                "they are stored"
            )
    before = inputs.models
    if len({model.architecture for model in before}) > 1:
        return  # refused later
    ties = [tied_in(model, before[inputs.donor]) for model in before]
    inputs.models = untied_alike(before, inputs.donor)
    inputs.layouts = [
        layout if new is old else layout_of(new.config, new.checkpoint)
        for old, new, layout in zip(opened, inputs.models, inputs.layouts, strict=True)
    ]
    pairs = {name: source for tied in ties for name, source in tied.items()}
    groups: dict[tuple[str, ...], list[str]] = {}
    for name in sorted(set(pairs) - set(tied_in(inputs.models[inputs.donor]))):
        having = [model.label for model, tied in zip(before, ties, strict=True) if name not in tied]
        groups.setdefault(tuple(having), []).append(name)
    for labels, names in groups.items():
        where = f"not in {', '.join(labels)}" if labels else "by a setting that others do without"
        more = f" (and {len(names) - 1} more)" if len(names) > 1 else ""
        inputs.warnings.append(f"some models tie {names[0]} to {pairs[names[0]]}{more}, {where}: the result does not")
