"""Task overfitting over rank and merge weight: what a model keeps at home, and what it costs elsewhere.

    W = W_0 + w [D]_r      D(row) = (m(W) - m(base)) / (m(own specialist) - m(base)), m turned so that more is better

At each rank r and weight w every row is evaluated anew: the rows that the model is at home in (in-task), and all others
(off-task). It overfits where it gains at home and loses elsewhere in the mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from pydantic import TypeAdapter

from chorus.analyse.cut import Cut
from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.evaluated import EvaluatedRows, Evaluations, rows_asked
from chorus.analyse.interference import cells_of, outgoing_of, shares_of, told_of
from chorus.analyse.interference_facts import Effect, InterferenceRow, Outgoing
from chorus.checkpoints.model import OpenOptions
from chorus.errors import UsageError
from chorus.identity import fingerprint
from chorus.plain import JsonMap, JsonObject, exact
from chorus.progress import Progress
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.systems import System, open_system, unique_labels

FORMAT = 1
RANKS, WEIGHTS = (1, 4, 16), (0.5, 1.0, 1.5)
MOST_WEIGHT = 10.0


@dataclass(frozen=True)
class RankAndWeights:
    """The grid: each rank (and the whole) at each weight."""

    ranks: Sequence[int] = RANKS
    weights: Sequence[float] = WEIGHTS

    def __post_init__(self) -> None:
        for rank in self.ranks:
            if rank < 1:
                raise UsageError(f"rank {rank}: a rank is 1 or more", "--ranks 1,4,16")
        for weight in self.weights:
            if not math.isfinite(weight) or not 0 < abs(weight) <= MOST_WEIGHT:
                raise UsageError(
                    f"weight {weight}: a weight is not 0, which is the base, and at most {MOST_WEIGHT:g}",
                    "--weights 0.5,1,1.5",
                )
        if not self.weights:
            raise UsageError("no weight", "--weights 0.5,1,1.5")


@dataclass(frozen=True)
class GridPoint:
    """A model at a rank (None: whole) and a weight; `trained`: at the rank that it was trained with, not cut to it.

    `energy` is the share of its matrices' squared norm that the rank keeps. `inside` is the mean recovery of the rows
    at home; `outgoing` has the points there, and points and recoveries (`share`) elsewhere.
    """

    model: str
    label: str
    rank: int | None
    weight: float
    trained: bool
    energy: float
    effects: dict[str, Effect | None]
    inside: float | None
    outgoing: Outgoing

    @property
    def called(self) -> str:
        """The rank as tables tell it."""
        return "whole" if self.rank is None else f"{self.rank} (trained)" if self.trained else str(self.rank)


@dataclass(frozen=True)
class OverfittingAnalysis:
    """The grids of all models."""

    base: str
    rows: list[InterferenceRow]
    models: list[str]
    homes: dict[str, list[str]]
    points: list[GridPoint]
    notes: list[str] = field(default_factory=list)

    def of(self, model: str) -> list[GridPoint]:
        """The points of one model, by rank and weight."""
        return [point for point in self.points if point.model == model]

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "overfitting", **asdict(self)}


def overfitting_from(values: JsonMap) -> OverfittingAnalysis:
    """The grids of their plain values, read from JSON; `ValueError` where they are none."""
    known = {k: v for k, v in values.items() if k not in ("format", "kind")}
    return TypeAdapter(OverfittingAnalysis).validate_python(known)


def analyse_overfitting(
    models: Named,
    base: str | Path,
    recordings: EvaluatedRows | Sequence[str],
    *,
    grid: RankAndWeights | None = None,
    specialists: Mapping[str, Sequence[str]] | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> OverfittingAnalysis:
    """What each model recovers of its own task, and of the others', cut to each rank and scaled by each weight.

    `models` are as `analyse_weights` takes them; of adapters that were trained at several ranks one is called
    NAME@RANK for each. `recordings` are manifests, or say more of them; `specialists` say which rows ({label: rows}) a
    model is at home in, where its training does not.

    Raises `CheckpointError` for models that do not fit the base, `UsageError` for a model without a home.

    >>> import chorus
    >>> found = chorus.analyse_overfitting(["radio", "phone"], "whisper-tiny", ["test.csv"])  # doctest: +SKIP
    >>> [(p.rank, p.weight, p.inside, p.outgoing.others.share_mean) for p in found.of("radio")]  # doctest: +SKIP
    [(1, 0.5, 0.31, -0.02), ...]
    """
    opened = open_all(models, base, (), options)
    return overfitting_of(opened, rows_asked(recordings), grid or RankAndWeights(), specialists or {}, progress)


@dataclass(frozen=True)
class _Family:
    """One name: the model that its gain is counted by, what is cut, and what was trained at several ranks."""

    name: str
    own: int  # a place among the opened
    cut: int | None
    trained: dict[int, int]  # rank -> place

    def settings(self, grid: RankAndWeights) -> list[_Setting]:
        """Every point of the grid."""
        cuts: list[int | None] = [*sorted(set(grid.ranks)), None] if self.cut is not None else []
        weights = sorted(set(grid.weights))
        trained = [_Setting(place, rank, w, trained=True) for rank, place in self.trained.items() for w in weights]
        return trained + [
            _Setting(self.cut, rank, w) for rank in cuts for w in weights if self.cut is not None
        ]  # fmt: skip


@dataclass(frozen=True)
class _Setting:
    place: int
    rank: int | None
    weight: float
    trained: bool = False

    @property
    def cut_to(self) -> int | None:
        """The rank that there is to cut to."""
        return None if self.trained else self.rank

    def label(self, labels: Sequence[str]) -> str:
        own = labels[self.place]
        # by itself: what it is evaluated as in any case
        if self.cut_to is None and self.weight == 1:
            return own
        return f"{own} {'whole' if self.cut_to is None else f'rank {self.cut_to}'} at {exact(self.weight)}"


def overfitting_of(
    opened: Opened, wanted: EvaluatedRows, grid: RankAndWeights, specialists: Mapping[str, Sequence[str]],
    progress: Progress,
) -> OverfittingAnalysis:  # fmt: skip
    """The same of models that are open."""
    families = _families(opened.labels)
    systems = [open_system(pair.model, label=label) for pair, label in zip(opened.pairs, opened.labels, strict=True)]
    base = replace(open_system(opened.pairs[0].base, label=opened.base), role="base", home={})
    # before the first recording: two under one name would share a folder
    unique_labels([*systems, base])
    labels = {one.label(opened.labels) for family in families for one in family.settings(grid)}
    notes = list(opened.warnings)
    with Evaluations(wanted, 1 + len(labels | set(opened.labels)), progress) as evaluations:
        homes = evaluations.homes([replace(systems[one.own], label=one.name) for one in families], specialists)
        for system in (base, *systems):
            evaluations.of(system)
        energies = {}
        for family in families:
            energies[family.name] = _evaluate(family, opened, systems, grid, evaluations, notes)
        cells, more = cells_of(evaluations.every, wanted.by, CLEAN, opened.base, None, common=False)
    # one of each family: gains of adapters of other ranks are no denominators
    own = {opened.labels[one.own]: homes[one.name] for one in families}
    rows, _, shared = shares_of(cells, list(evaluations.done), own)
    points = []
    for family in families:
        at_home = homes[family.name]
        for one, energy in energies[family.name].items():
            label = one.label(opened.labels)
            effects = shared[label]
            found = [e.share for row in at_home if (e := effects[row]) is not None and e.share is not None]
            points.append(GridPoint(
                family.name, label, one.rank, one.weight, one.trained, energy, effects,
                sum(found) / len(found) if found else None, outgoing_of(label, at_home, cells, effects),
            ))  # fmt: skip
    return OverfittingAnalysis(
        opened.base, rows, [one.name for one in families], homes, points,
        [*notes, *evaluations.notes, *more, *told_of(cells, rows)],
    )  # fmt: skip


def _families(labels: Sequence[str]) -> list[_Family]:
    """NAME and NAME@RANK by name; `UsageError` for a rank that is none."""
    found: dict[str, tuple[list[int], dict[int, int]]] = {}
    for place, label in enumerate(labels):
        name, at, rank = label.rpartition("@")
        if at and not (rank.isascii() and rank.isdigit() and int(rank) > 0 and name):
            raise UsageError(f"{label}: behind the @ stands the rank that it was trained with", "NAME@16=ADAPTER")
        whole, trained = found.setdefault(name if at else label, ([], {}))
        if at:
            trained[int(rank)] = place
        else:
            whole.append(place)
    made = []
    for name, (whole, trained) in found.items():
        # without a model of no rank the largest is what the others are cut from
        own = whole[0] if whole else trained[max(trained)]
        made.append(_Family(name, own, whole[0] if whole else None, dict(sorted(trained.items()))))
    return made


def _evaluate(
    family: _Family, opened: Opened, systems: Sequence[System], grid: RankAndWeights, evaluations: Evaluations,
    notes: list[str],
) -> dict[_Setting, float]:  # fmt: skip
    """Evaluate every point of a family; returns which those are, and the energy that each keeps."""
    places = dict.fromkeys(one.place for one in family.settings(grid))
    most = max(grid.ranks, default=None)
    # matrices are decomposed once for the whole grid; of what is not cut nothing is
    cuts = {
        place: Cut(opened.pairs[place], opened.labels[place], most if place == family.cut else None) for place in places
    }
    found, same = {}, []
    for one in family.settings(grid):
        cut, pair = cuts[one.place], opened.pairs[one.place]
        if one.cut_to is not None and cut.whole_at(one.cut_to):
            same.append(one.cut_to)
            continue
        found[one] = cut.energy(one.cut_to)
        label = one.label(opened.labels)
        # the whole at 1 is the model itself, which stands there already
        if label not in evaluations.done:
            # by content: another model under the same name is another point
            identity = fingerprint(
                base=pair.base.fingerprint(), model=pair.model.fingerprint(), rank=one.cut_to, weight=one.weight
            )
            evaluations.of(replace(
                systems[one.place], label=label, kind="merge", role="merge", home={}, identity=identity,
                tensors=cut.tensors(one.cut_to, one.weight), parameters={"rank": one.cut_to, "weight": one.weight},
            ), weights=True)  # fmt: skip
    if same:
        notes.append(f"{family.name}: rank {', '.join(map(str, dict.fromkeys(same)))} keeps all of it, as whole does")
    return found
