"""The loss on the straight way between models: from the base to each, and between each two.

    L(a) = loss of (1 - a) theta_0 + a theta_1
    barrier = max over a in [0, 1] of L(a) - ((1 - a) L(0) + a L(1))        Frankle et al., arXiv 1912.05671

Without a barrier two models lie in one basin, and averages of them are models too. From the base to a fine-tune a is
the weight that a merge of it alone would have, and may go beyond 1.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.live import BASE, AnalysedRows, LiveModel, asked_for, base_directory, load_live
from chorus.checkpoints.model import OpenOptions
from chorus.errors import CheckpointError, UsageError
from chorus.plain import JsonObject
from chorus.progress import Progress

if TYPE_CHECKING:
    import torch

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
    is loaded once and takes the others' weights.

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
    ways = [(BASE, i, [*within, *beyond]) for i in range(len(opened.labels))]
    if between:
        ways += [(i, j, within) for i, j in combinations(range(len(opened.labels)), 2)]
    total, done, paths = sum(len(grid) for *_, grid in ways), 0, []
    # ends are shared by many ways, and cost as much as any point between
    ends: dict[int, dict[str, float]] = {}
    names = [*opened.labels, opened.base]
    for start, end, grid in ways:
        measured = []
        for at, losses in _along(live, start, end, grid, ends):
            measured.append((at, losses))
            done += 1
            progress(done, total)
        paths.append(_path(names[start], names[end], measured))
    return PathAnalysis(
        opened.base, opened.labels, {d: sum(len(one.seconds) for one in given) for d, given in live.batches.items()},
        paths, wanted.by, live.warnings,
    )  # fmt: skip


def _along(
    live: LiveModel, start: int, end: int, grid: Sequence[float], ends: dict[int, dict[str, float]]
) -> Iterator[tuple[float, dict[str, float]]]:
    # read once: a recipe's tensors are computed as they are read
    first, second = live.weights(start), live.weights(end)
    for at in grid:
        known = {0.0: start, 1.0: end}.get(at)
        if known is None or known not in ends:
            live.take(blend(first, second, at))
            losses = live.losses()
            if known is not None:
                ends[known] = losses
        yield at, ends[known] if known is not None else losses


def blend(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], at: float) -> dict[str, torch.Tensor]:
    """(1 - at) first + at second; each itself at its own end, to the last bit."""
    if at in (0.0, 1.0):
        return second if at else first
    missing = set(first) ^ set(second)
    if missing:
        raise CheckpointError(f"{sorted(missing)[0]}: not in both models", "name fine-tunes of one base")
    return {name: value + at * (second[name] - value) for name, value in first.items()}


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
