"""A fine-tune and its base, side by side: which tensors are taken, and their differences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus._version import __version__
from chorus.architectures.layouts import layout_of
from chorus.architectures.roles import Layout, Role
from chorus.checkpoints.adapted import low_rank_delta, same_tensor
from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.lineage import lineage_of
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import Source, open_model
from chorus.checkpoints.spelling import completed, respelled
from chorus.errors import CheckpointError, UsageError
from chorus.lazy import lazy
from chorus.plain import JsonObject
from chorus.provenance import licence_of, versions

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")

BLOCK = 1 << 20
# cross-attention belongs to the decoder; mergekit's Whisper script loses it, by excluding every name with `encoder`
PARTS = {"all": None, "encoder": ("encoder",), "decoder": ("decoder", "cross_attention", "language_model")}


@dataclass(frozen=True)
class Selection:
    """Which tensors are taken: of a part ("encoder", "decoder", "all"), by regular expressions on their names."""

    part: str = "all"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise UsageError(f"no part is called {self.part}", f"one of {', '.join(PARTS)}")
        for pattern in (*self.include, *self.exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(f"{pattern!r} is not a regular expression ({error})", "see Python's re") from None

    def takes(self, name: str, role: Role) -> bool:
        components = PARTS[self.part]
        if components is not None and role.component not in components and role.module not in components:
            return False
        if self.include and not any(re.search(p, name) for p in self.include):
            return False
        return not any(re.search(p, name) for p in self.exclude)


@dataclass(frozen=True)
class Pair:
    """A fine-tune and its base, which fit each other."""

    model: Model
    base: Model
    layout: Layout

    def tensors(self, selection: Selection) -> Iterator[tuple[LazyTensor, LazyTensor, Role]]:
        """The tensors that training can have changed: of the fine-tune, of the base, and their role."""
        for name, role in self.layout.roles.items():
            # a head that is stored though it is tied: its difference is the embedding's, and would be added twice
            copy = self.layout.tied.get(name) in self.layout.roles
            origin = self.base.checkpoint[name]
            if role.learned and not copy and origin.dtype in FLOATS and selection.takes(name, role):
                yield self.model.checkpoint[name], origin, role

    def provenance(self, kind: str, **facts: object) -> JsonObject:
        """`chorus.json` of what was taken."""
        models = zip((self.model, self.base), ("model", "base_model"), strict=True)
        return {
            "chorus": __version__,
            "kind": kind,
            **{
                part: {
                    "model": model.label,
                    **({"revision": model.revision} if model.revision else {}),
                    "files": {n: p.stat().st_size for n, p in sorted(model.paths.items())},
                    "license": licence_of(model.directory),
                }
                for model, part in models
            },
            "trained_on": lineage_of(self.model),
            **facts,
            "versions": versions(),
        }


def open_pair(model: Source, base: Source, options: OpenOptions | None = None) -> Pair:
    """Open both; `CheckpointError` where they are not of one architecture and the same shapes."""
    opened, origin = open_model(model, options), open_model(base, options)
    mine, theirs = opened.architecture, origin.architecture
    if mine != theirs:
        raise CheckpointError(
            f"{opened.label} is a {mine or '?'}, its base {origin.label} a {theirs or '?'}", "name the model's own base"
        )
    opened = completed(respelled(opened, origin), origin)
    missing = sorted(set(origin.checkpoint) - set(opened.checkpoint))
    layout = layout_of(origin.config, origin.checkpoint)
    # one of the two may store the tied head and the other not: save_pretrained drops it, trainers' own files keep it
    missing = [n for n in missing if n not in layout.tied]
    if missing:
        raise CheckpointError(f"{opened.label} has no tensor {missing[0]}, its base has", "name the model's own base")
    for name, tensor in origin.checkpoint.items():
        other = opened.checkpoint.get(name)
        if other is not None and other.shape != tensor.shape:
            raise CheckpointError(
                f"{name}: {opened.label} has the shape {list(other.shape)}, {origin.label} {list(tensor.shape)}",
                "both must have the same shapes; a vocabulary that was extended has to be cut first",
            )
    return Pair(opened, origin, layout)


def difference(tensor: LazyTensor, base: LazyTensor, label: str) -> Delta:
    """tensor - base: a LowRank where the one is the other with an adapter on it, else float32 in the shape of both."""
    factors = low_rank_delta(tensor, base)
    if factors is not None:
        if not bool(torch.isfinite(factors.left).all() and torch.isfinite(factors.right).all()):
            raise _not_finite(label, tensor.name)
        return factors
    numel = math.prod(base.shape)
    out = torch.empty(numel)
    for start, values in blocks(tensor, base, label):
        out[start : start + values.numel()] = values
    return out.reshape(base.shape)


def change(tensor: LazyTensor, base: LazyTensor, label: str) -> float:
    """The norm of the difference, a block at a time."""
    if same_tensor(tensor, base):
        return 0.0
    return math.sqrt(sum(float(values.double().square().sum()) for _, values in blocks(tensor, base, label)))


def blocks(tensor: LazyTensor, base: LazyTensor, label: str) -> Iterator[tuple[int, torch.Tensor]]:
    """The difference a block at a time, in float32; `CheckpointError` where a value is not finite."""
    numel = math.prod(base.shape)
    for start in range(0, numel, BLOCK):
        stop = min(start + BLOCK, numel)
        values = tensor.flat(start, stop).float() - base.flat(start, stop).float()
        # the sum first: one pass without a mask. A sum of finite values may overflow, so it is not the last word
        if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            raise _not_finite(label, tensor.name)
        yield start, values


def _not_finite(label: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"{label}: tensor {name} (or its base) holds NaN or infinity",
        "its training has diverged, or the file is damaged",
    )
