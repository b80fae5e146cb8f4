"""The loss on the straight way between models: from the base to each, and between each two.

    L(a) = loss of W_0 + (1 - a) D_0 + a D_1               D = W - W_0, of the base itself nothing
    barrier = max over a in [0, 1] of L(a) - ((1 - a) L(0) + a L(1))        Frankle et al., arXiv 1912.05671

Without a barrier two models lie in one basin, and averages of them are models too. From the base to a fine-tune a is
the weight that a merge of it alone would have, and may go beyond 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.live import AnalysedRows, asked_for, base_directory, load_live
from chorus.checkpoints.model import OpenOptions
from chorus.errors import UsageError
from chorus.plain import JsonObject
from chorus.progress import Progress

FORMAT = 1
POINTS = 11


@dataclass(frozen=True)
class Barrier:
    """How far the loss rises above the line between both ends, and where; 0 at an end where it never does."""

    height: float
    at: float


@dataclass(frozen=True)
class LossPath:
    """The losses by row of the tables at each weight `at`, and their mean; barriers are within [0, 1]."""

    start: str
    end: str
    at: list[float]
    losses: dict[str, list[float]]
    mean: list[float]
    barriers: dict[str, Barrier]
    barrier: Barrier  # of the mean

    @property
    def name(self) -> str:
        return f"{self.start} to {self.end}"


@dataclass(frozen=True)
class PathAnalysis:
    """Everything that `analyse_path` found."""

    base: str
    models: list[str]
    domains: dict[str, int]  # utterances by row of the tables, whatever these are by
    paths: list[LossPath]
    by: str = "domain"
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "path", **asdict(self)}


def analyse_path(
    models: Named,
    base: str | Path,
    recordings: AnalysedRows | Sequence[str],
    *,
    points: int = POINTS,
    until: float = 1.0,
    between: bool = True,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> PathAnalysis:
    """The loss on recordings with their texts, on the way from `base` to each model and `between` each two.

    `points` lie evenly from 0 to 1, both among them; from the base the same steps go on up to `until`. `recordings` are
    manifests, or say more of them. Models are as `analyse_weights` takes them; the base is a directory or hub id, which
    is loaded once. Adapters stay factors beside it; what others add is read at every point, a tensor at a time, so that
    no further model is held (of a recipe it is computed anew).

    Raises `CheckpointError` for models that do not fit the base, `DataError` for rows that have no loss.

    >>> import chorus
    >>> found = chorus.analyse_path(["radio", "phone"], "whisper-tiny", ["dev.csv"])  # doctest: +SKIP
    >>> found.paths[-1].barrier  # doctest: +SKIP
    Barrier(height=0.02, at=0.5)
    """
    wanted = asked_for(recordings)
    check_points(points, until)
    opened = open_all(models, base, (), options)
    return path_of(opened, base, wanted, points=points, until=until, between=between, progress=progress)


def check_points(points: int, until: float) -> None:
    """`UsageError` for a grid that is none."""
    if points < 2:
        raise UsageError(f"{points} points: a way has two ends", "--points 2 or more")
    if not 1 <= until <= 10:
        raise UsageError(f"until {until}: the way goes from 0 to 1 and perhaps on, to at most 10", "--until 1.5")


def path_of(
    opened: Opened, base: str | Path, wanted: AnalysedRows, *, points: int, until: float, between: bool,
    progress: Progress,
) -> PathAnalysis:  # fmt: skip
    """The same of models that are open."""
    live = load_live(opened, base_directory(base), wanted)
    within = [i / (points - 1) for i in range(points)]
    # the same steps further: a grid of its own would not show where the ends are
    beyond = [i / (points - 1) for i in range(points, int(until * (points - 1) + 1e-9) + 1)]
    count = len(opened.labels)
    ways: list[tuple[int | None, int, list[float]]] = [(None, i, [*within, *beyond]) for i in range(count)]
    if between:
        ways += [(i, j, within) for i, j in combinations(range(count), 2)]
    total, done, paths = sum(len(grid) for *_, grid in ways), 0, []
    # ends are shared by many ways, and cost as much as any point between
    known: dict[tuple[tuple[int, float], ...], dict[str, float]] = {}
    names: dict[int | None, str] = {None: opened.base, **dict(enumerate(opened.labels))}
    for start, end, grid in ways:
        measured = []
        for at in grid:
            weights = weights_at(start, end, at)
            point = tuple(weights.items())
            if point not in known:
                live.put(weights)
                known[point] = live.losses()
            measured.append((at, known[point]))
            done += 1
            progress(done, total)
        paths.append(_path(names[start], names[end], measured))
    return PathAnalysis(
        opened.base, opened.labels, {d: sum(len(one.seconds) for one in given) for d, given in live.batches.items()},
        paths, wanted.by, live.warnings,
    )  # fmt: skip


def weights_at(start: int | None, end: int, at: float) -> dict[int, float]:
    """What the differences of the models at both ends weigh there; those of None, the base, are nothing.

    >>> weights_at(0, 1, 0.25), weights_at(None, 1, 1.5), weights_at(0, 1, 1.0)
    ({0: 0.75, 1: 0.25}, {1: 1.5}, {1: 1.0})
    """
    both = ((start, 1 - at), (end, at))
    # what weighs nothing is not there: so the end of one way is that of another
    return {place: weight for place, weight in both if place is not None and weight}


def _path(start: str, end: str, measured: Sequence[tuple[float, dict[str, float]]]) -> LossPath:
    at = [one for one, _ in measured]
    losses = {domain: [found[domain] for _, found in measured] for domain in measured[0][1]}
    mean = [sum(found.values()) / len(found) for _, found in measured]
    return LossPath(
        start, end, at, losses, mean, {domain: barrier(at, values) for domain, values in losses.items()},
        barrier(at, mean),
    )  # fmt: skip


def barrier(at: Sequence[float], losses: Sequence[float]) -> Barrier:
    """The highest point above the straight line between the losses at 0 and at 1.

    >>> barrier([0, 0.5, 1, 1.5], [1.0, 4.0, 2.0, 9.0])
    Barrier(height=2.5, at=0.5)
    """
    # beyond 1 there is no line to rise above
    within = [(a, loss) for a, loss in zip(at, losses, strict=True) if a <= 1]
    first, last = within[0][1], within[-1][1]
    # at the ends it is 0 by definition, and not by what rounding leaves of it
    heights = [(0.0 if a in (0, 1) else loss - ((1 - a) * first + a * last), a) for a, loss in within]
    height, where = max(heights, key=lambda one: one[0])
    return Barrier(height, where)
