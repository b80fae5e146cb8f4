"""A fine-tune and its base, side by side: which tensors are taken, and their differences."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from chorus._version import __version__
from chorus.architectures.layouts import layout_of
from chorus.architectures.roles import Layout, Role
from chorus.checkpoints.adapted import low_rank_delta, same_tensor
from chorus.checkpoints.beside import beside
from chorus.checkpoints.composite import is_part_of, part_of
from chorus.checkpoints.configs import check_configs
from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.lineage import lineage_of
from chorus.checkpoints.model import Model, OpenOptions, relabelled
from chorus.checkpoints.open import Source, open_model, reference_to
from chorus.checkpoints.reference import Reference, labelled
from chorus.checkpoints.spelling import completed, respelled
from chorus.checkpoints.ties import settled, tied_in, untied_alike
from chorus.checkpoints.vocabulary import Misfits, same_files, shown_ids, vocabulary_of
from chorus.checkpoints.vocabulary import difference as misfits
from chorus.errors import CheckpointError, UsageError, some
from chorus.lazy import lazy
from chorus.plain import JsonObject
from chorus.provenance import licence_of, versions

if TYPE_CHECKING:
    import torch

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")

BLOCK = 1 << 20
ROUNDING = 2.0**-7  # what bfloat16 may do to a value
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


class Counterparts(NamedTuple):
    """A tensor that training can have changed: its name, the fine-tune's, the base's, and its role."""

    name: str  # not the tensors' own: a head that is tied in one of the two is the embedding there
    tensor: LazyTensor
    origin: LazyTensor
    role: Role

    @property
    def shape(self) -> tuple[int, ...]:
        return self.origin.shape


@dataclass(frozen=True)
class Pair:
    """A fine-tune and its base, which fit each other: tied alike, in the one way in which neither loses anything."""

    model: Model
    base: Model
    layout: Layout
    references: tuple[Reference, Reference]
    warnings: list[str]

    def tensors(self, selection: Selection) -> Iterator[Counterparts]:
        """The tensors that training can have changed."""
        for name, role in self.layout.roles.items():
            origin = self.base.checkpoint[name]
            if role.merged and origin.dtype in FLOATS and selection.takes(name, role):
                yield Counterparts(name, self.model.checkpoint[name], origin, role)

    def copies(self, jobs: Sequence[Counterparts]) -> list[Counterparts]:
        """The tied copies of these tensors, which an adapter must change by themselves: PEFT's modules are not tied."""
        by_name = {job.name: job for job in jobs}
        pairs = {name: source for name, source in tied_in(self.base).items() if source in by_name}
        roles = layout_of(self.base.config, [*self.base.checkpoint, *pairs]).roles if pairs else {}
        return [by_name[source]._replace(name=name, role=roles[name]) for name, source in pairs.items()]

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
    # under names that tell them apart: both may lie in a checkpoint-1000
    mine, its = labelled([reference_to(model), reference_to(base)])
    opened, origin = (relabelled(open_model(one, options), one.name) for one in (mine, its))
    # a thinker of Omni beside the whole
    opened = part_of(opened) if is_part_of(origin, opened) else opened
    origin = part_of(origin) if is_part_of(opened, origin) else origin
    if opened.architecture != origin.architecture:
        raise CheckpointError(
            f"{opened.label} is a {opened.architecture or '?'}, its base {origin.label} a {origin.architecture or '?'}",
            "name the model's own base; where it is, its config.json names another class (architectures): mend that",
        )
    opened = completed(respelled(opened, origin), origin)
    opened, origin = untied_alike([settled(opened), settled(origin)], donor=1)
    missing = sorted(set(origin.checkpoint) - set(opened.checkpoint))
    if missing:
        raise CheckpointError(f"{opened.label} has no tensor {missing[0]}, its base has", "name the model's own base")
    for name, tensor in origin.checkpoint.items():
        other = opened.checkpoint.get(name)
        if other is not None and other.shape != tensor.shape:
            raise CheckpointError(
                f"{name}: {opened.label} has the shape {list(other.shape)}, {origin.label} {list(tensor.shape)}",
                "both must have the same shapes; a vocabulary that was extended has to be cut first",
            )
    problems, told = check_configs(origin, opened, stacked=False, where=f"its base, {origin.label}")
    if problems:
        raise CheckpointError("; ".join(problems), "name the model's own base, or mend the config.json that is wrong")
    layout = layout_of(origin.config, origin.checkpoint)
    told = [*told, *_tokens_apart(opened, origin), *_left_alone(opened, origin, layout)]
    warnings = list(dict.fromkeys([*opened.warnings, *origin.warnings, *told]))
    return Pair(opened, origin, layout, (mine, its), warnings)


def _left_alone(model: Model, base: Model, layout: Layout) -> list[str]:
    """Where what is computed or measured differs between the two, and so is lost with the difference."""
    differ = []
    for name, role in layout.roles.items():
        tensor, origin = model.checkpoint[name], base.checkpoint[name]
        if role.merged or origin.dtype not in FLOATS or same_tensor(tensor, origin):
            continue
        rounding = 0.0 if tensor.dtype == origin.dtype else ROUNDING
        if not torch.allclose(tensor.read().float(), origin.read().float(), rtol=rounding, atol=rounding):
            differ.append(name)
    if not differ:
        return []
    return [
        f"{model.label}: {some(differ)} are other than in {base.label}, but computed or measured, not learned: no part "
        "of what is taken, so that they stay the base's wherever it is added"
    ]


def _tokens_apart(model: Model, base: Model) -> list[str]:
    """Where the two tokenizers give one id to different words, whose rows' difference is that of neither."""
    files = [beside(one).carried for one in (base, model)]
    if same_files(*files):
        return []
    mine, theirs = map(vocabulary_of, files)
    found = misfits(mine, theirs, len(mine.tokens)) if mine and theirs else Misfits()
    different = [*found.moved, *found.renamed]
    if not different:
        return []
    told = shown_ids(different, model.label, base.label)
    return [f"{len(different)} token ids of {model.label} mean other tokens than in its base, {base.label}: {told}"]


def difference(job: Counterparts, label: str) -> Delta:
    """tensor - base: a LowRank where the one is the other with an adapter on it, else float32 in the shape of both."""
    factors = low_rank_delta(job.tensor, job.origin)
    if factors is not None:
        if not bool(torch.isfinite(factors.left).all() and torch.isfinite(factors.right).all()):
            raise _not_finite(label, job.name)
        return factors
    out = torch.empty(math.prod(job.shape))
    for start, values in blocks(job, label):
        out[start : start + values.numel()] = values
    return out.reshape(job.shape)


def change(job: Counterparts, label: str) -> float:
    """The norm of the difference, a block at a time."""
    if same_tensor(job.tensor, job.origin):
        return 0.0
    return math.sqrt(sum(float(values.double().square().sum()) for _, values in blocks(job, label)))


def blocks(job: Counterparts, label: str) -> Iterator[tuple[int, torch.Tensor]]:
    """The difference a block at a time, in float32; `CheckpointError` where a value is not finite."""
    numel = math.prod(job.shape)
    for start in range(0, numel, BLOCK):
        stop = min(start + BLOCK, numel)
        values = job.tensor.flat(start, stop).float() - job.origin.flat(start, stop).float()
        # the sum first: one pass without a mask. A sum of finite values may overflow, so it is not the last word
        if not bool(torch.isfinite(values.sum())) and not bool(torch.isfinite(values).all()):
            raise _not_finite(label, job.name)
        yield start, values


def _not_finite(label: str, name: str) -> CheckpointError:
    return CheckpointError(
        f"{label}: tensor {name} (or its base) holds NaN or infinity",
        "an overflow in float16, a training that diverged, or a damaged file",
    )
