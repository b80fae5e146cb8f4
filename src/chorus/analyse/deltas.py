"""What models learnt, side by side: of every tensor the differences to one base, a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.architectures.roles import Role
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import Source, on_its_base, reference_to
from chorus.checkpoints.reference import Reference, labelled
from chorus.checkpoints.ties import tied_in
from chorus.errors import CheckpointError, UsageError
from chorus.extract.pair import Counterparts, Pair, Selection, difference, open_pair
from chorus.transcribe.systems import role_of

if TYPE_CHECKING:
    from chorus.linalg.low_rank import Delta

Named = Mapping[str, Source] | Sequence[Source]  # sources under names of their own, or of ours


@dataclass(frozen=True)
class TensorDeltas:
    """One tensor: the base's, and every model's difference to it."""

    name: str
    role: Role
    origin: LazyTensor
    deltas: list[Delta]


@dataclass(frozen=True)
class Opened:
    """Models that fit one base, those that are merges last. `labels` tell them apart."""

    base: str
    labels: list[str]
    merges: int
    pairs: list[Pair]
    warnings: list[str]

    @property
    def places(self) -> list[Path]:
        """Every file that is read."""
        return [place for pair in self.pairs for model in (pair.model, pair.base) for place in model.places]

    def jobs(self, selection: Selection) -> list[list[Counterparts]]:
        """Of each tensor that training can have changed, the counterparts in every model."""
        each = [{job.name: job for job in pair.tensors(selection)} for pair in self.pairs]
        # a head that is tied in one model and stands by itself in another is the embedding in the first
        ties = [tied_in(pair.base) for pair in self.pairs]
        found = []
        for name in dict.fromkeys(name for jobs in each for name in jobs):
            places = [jobs.get(name, jobs.get(tied.get(name, ""))) for jobs, tied in zip(each, ties, strict=True)]
            known = [one for one in places if one is not None]
            # a tensor that one of them lacks cannot be compared
            if len(known) == len(places):
                found.append([one._replace(name=name) for one in known])
        if not found:
            raise UsageError("no tensor is selected", "widen --include, or narrow --exclude")
        return found

    def tensors(self, jobs: Sequence[Sequence[Counterparts]]) -> Iterator[TensorDeltas]:
        """The differences, read as they are wanted for: factors of adapters as factors, all else in float32."""
        for one in jobs:
            deltas = [difference(job, label) for job, label in zip(one, self.labels, strict=True)]
            # the role where it stands by itself, should a tie have hidden it in the first model
            role = next((p.layout.roles[one[0].name] for p in self.pairs if one[0].name in p.layout.roles), one[0].role)
            yield TensorDeltas(one[0].name, role, one[0].origin, deltas)


def open_all(models: Named, base: Source, merges: Named = (), options: OpenOptions | None = None) -> Opened:
    """Open all; what says of itself that it is a merge stands among the merges, wherever it was named.

    Raises `CheckpointError` where a model does not fit the base, `UsageError` where two have one name.
    """
    options = options or OpenOptions()
    named = [*_named(models), *_named(merges)]
    if not named:
        raise UsageError("no model to analyse", "name fine-tunes or adapters of the base")
    # under one set of options: a base is opened once, and adapters stand on that very one
    sources = [_on(source, base, options) for _, source in named]
    # by what was named: the base that all adapters stand on tells none of them apart
    own = labelled([reference_to(source) for _, source in named])
    labels = [label or name_of(one) for (label, _), one in zip(named, own, strict=True)]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise UsageError(f'two models are called "{sorted(twice)[0]}"', "name them: NAME=MODEL")
    pairs = [open_pair(source, base, options) for source in sources]
    given = len(named) - len(_named(merges))
    merged = [i >= given or is_merge(pair) for i, pair in enumerate(pairs)]
    order = sorted(range(len(pairs)), key=lambda i: merged[i])  # stable: otherwise as they were named
    if all(merged) and not given:
        raise UsageError("merges and no model", "name the models that were merged")
    warnings = dict.fromkeys(text for pair in pairs for text in pair.warnings)
    # models that are all merges are compared as any others
    count = sum(merged) if not all(merged) else 0
    return Opened(
        reference_to(base).name, [labels[i] for i in order], count, [pairs[i] for i in order], list(warnings)
    )  # fmt: skip


def _named(sources: Named) -> list[tuple[str, Source]]:
    if isinstance(sources, str | Path):
        raise UsageError(f"{sources}: one model where a list is wanted for", f"[{str(sources)!r}]")
    return list(sources.items()) if isinstance(sources, Mapping) else [("", source) for source in sources]


def _on(source: Source, base: Source, options: OpenOptions) -> Source:
    """An adapter that is named alone, on the base that it is compared with; everything else as it is."""
    try:
        found = on_its_base(source, options)
    except CheckpointError:  # it names no base: the one that is given will do
        found = replace(reference_to(base), adapter=reference_to(source))
    if found is source:
        return source
    # on the given one even where it names another: differences are asked for, and those are the same on either
    return replace(reference_to(base), adapter=reference_to(source))


def name_of(reference: Reference) -> str:
    """What a model is called that nobody has named."""
    return reference.name.removesuffix(".yml").removesuffix(".yaml")


def is_merge(pair: Pair) -> bool:
    """Whether a model says that it is a merge: a recipe, or what one was written to."""
    model = pair.model
    # a recipe, of which nothing is written yet
    if model.method:
        return True
    adapter = next((path.parent for path in reversed(model.adapter_paths.values())), None)
    place = adapter or model.directory
    return place is not None and role_of(place)[0] == "merge"
