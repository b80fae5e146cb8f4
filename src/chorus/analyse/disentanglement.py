"""Weight disentanglement: whether two models, added to one base, leave each other's answers alone.

    xi(a1, a2) = sum over t of E_{x in task t} dist(f(x; W_0 + a_t D_t), f(x; W_0 + a1 D_1 + a2 D_2))

(Ortiz-Jimenez et al., arXiv 2305.12827, equation 4.) Of labels dist is 1 where another label is the likeliest of all
that there are, else 0; of texts it is the edits that lead from one to the other over the units of the longer one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from chorus.analyse.cut import MovedTensor
from chorus.analyse.deltas import Named, Opened, open_all
from chorus.analyse.evaluated import EvaluatedRows, Evaluations, rows_asked
from chorus.analyse.interference import MeasuredCell, cells_of
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import OpenOptions
from chorus.errors import UsageError
from chorus.extract.pair import Selection
from chorus.identity import fingerprint
from chorus.plain import JsonObject, exact
from chorus.progress import Progress
from chorus.tasks.counts import align
from chorus.tasks.label_metrics import likeliest
from chorus.tasks.protocol import Chooses
from chorus.tasks.scored import Scored
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.systems import System, open_system, unique_labels

FORMAT = 1
WEIGHTS = (0.5, 1.0)
MOST_WEIGHT = 10.0
LABELS, TEXTS = "another label is the likeliest", "edits over the units of the longer text"


@dataclass(frozen=True)
class Disentanglement:
    """xi on the grid `weights` x `weights`, first model first; `parts` are its terms, and `distances` by row."""

    base: str
    models: list[str]
    homes: dict[str, list[str]]
    distances: dict[str, str]
    utterances: dict[str, int]  # by model, in its rows
    weights: list[float]
    errors: list[list[float]]
    parts: dict[str, list[list[float]]]
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "disentanglement", **asdict(self)}


def analyse_disentanglement(
    models: Named,
    base: str | Path,
    recordings: EvaluatedRows | Sequence[str],
    *,
    weights: Sequence[float] = WEIGHTS,
    specialists: Mapping[str, Sequence[str]] | None = None,
    options: OpenOptions | None = None,
    progress: Progress = lambda done, total: None,
) -> Disentanglement:
    """How often two models change each other's answers when both are added to `base`, at every pair of `weights`.

    `models` are two, as `analyse_weights` takes them; `specialists` say which rows each is at home in, where its
    training does not. 0 is always among the weights: with it stand the answers of one model alone.

    Raises `CheckpointError` for models that do not fit the base, `UsageError` for more or fewer than two.

    >>> import chorus
    >>> chorus.analyse_disentanglement(["radio", "phone"], "whisper-tiny", ["test.csv"]).errors  # doctest: +SKIP
    [[0.0, 0.0, 0.0], [0.0, 0.02, 0.06], [0.0, 0.05, 0.13]]
    """
    grid = check_grid(weights)
    opened = open_all(models, base, (), options)
    return disentanglement_of(opened, rows_asked(recordings), grid, specialists or {}, progress)


def check_grid(weights: Sequence[float]) -> list[float]:
    """The weights with 0, in order; `UsageError` for what is none."""
    for weight in weights:
        if not math.isfinite(weight) or abs(weight) > MOST_WEIGHT:
            raise UsageError(f"weight {weight}: at most {MOST_WEIGHT:g}", "--weights 0.5,1")
    if not any(weights):
        raise UsageError("no weight but 0, at which nothing is added", "--weights 0.5,1")
    return sorted({0.0, *map(float, weights)})


def disentanglement_of(
    opened: Opened, wanted: EvaluatedRows, grid: Sequence[float], specialists: Mapping[str, Sequence[str]],
    progress: Progress,
) -> Disentanglement:  # fmt: skip
    """The same of models that are open."""
    if len(opened.labels) != 2:
        raise UsageError(f"{len(opened.labels)} models: disentanglement is of two", "name two")
    owns = [open_system(pair.model, label=label) for pair, label in zip(opened.pairs, opened.labels, strict=True)]
    base = replace(open_system(opened.pairs[0].base, label=opened.base), role="base", home={})
    # each sum once: both models alone stand at the grid's edges
    labels = {(a, b): _label(opened, a, b) for a in grid for b in grid}
    unique_labels([replace(base, label=label) for label in labels.values()])
    with Evaluations(wanted, len(labels), progress) as evaluations:
        homes = evaluations.homes(owns, specialists)
        # the base itself first: whatever cannot be evaluated at all is told at once
        evaluations.of(base)
        for (a, b), label in labels.items():
            if label != opened.base:
                evaluations.of(_sum(opened, base, label, (a, b)), weights=True)
    cells, notes = cells_of(evaluations.every, wanted.by, CLEAN, opened.base, None, common=False)
    # its own rows are the support of a task: what a model does elsewhere is interference, and no entanglement
    own = {model: [cell for cell in cells if cell.name in homes[model]] for model in opened.labels}
    first, second = opened.labels
    parts = {
        first: [[_mean(own[first], labels[a, 0.0], labels[a, b]) for b in grid] for a in grid],
        second: [[_mean(own[second], labels[0.0, b], labels[a, b]) for b in grid] for a in grid],
    }
    errors = [[x + y for x, y in zip(*rows, strict=True)] for rows in zip(parts[first], parts[second], strict=True)]
    return Disentanglement(
        opened.base, [first, second], homes,
        {cell.name: LABELS if isinstance(cell.task, Chooses) else TEXTS for cell in cells},
        {model: sum(len(cell.rows[opened.base]) for cell in rows) for model, rows in own.items()},
        list(grid), errors, parts,
        [*opened.warnings, *evaluations.notes, *notes, *_failed([*own[first], *own[second]])],
    )  # fmt: skip


def _label(opened: Opened, a: float, b: float) -> str:
    if not a and not b:
        return opened.base
    return f"{exact(a)} {opened.labels[0]} and {exact(b)} {opened.labels[1]}"


def _sum(opened: Opened, base: System, label: str, weights: tuple[float, float]) -> System:
    """The base with both differences added."""
    tensors: dict[str, LazyTensor] = dict(opened.pairs[0].base.checkpoint)
    for jobs in opened.jobs(Selection()):
        # what weighs nothing is not read: alone means alone
        added = [(weight, job) for weight, job in zip(weights, jobs, strict=True) if weight]
        tensors[jobs[0].name] = MovedTensor(jobs[0], added, label)
    identity = fingerprint(
        base=opened.pairs[0].base.fingerprint(), models=[pair.model.fingerprint() for pair in opened.pairs],
        weights=list(weights),
    )  # fmt: skip
    return replace(base, label=label, kind="merge", role="merge", identity=identity, tensors=tensors)


def _failed(cells: Sequence[MeasuredCell]) -> list[str]:
    """Which sums were silent because they could not be decoded: two that fail alike are no two that agree."""
    counts: dict[str, int] = {}
    # a row may be the home of both
    for cell in {cell.name: cell for cell in cells}.values():
        for label, rows in cell.rows.items():
            counts[label] = counts.get(label, 0) + sum(bool(row.failed) for row in rows)
    told = [f"{label} ({count})" for label, count in counts.items() if count]
    return [f"decodes failed, which count as silence, and as alike where both are: {', '.join(told)}"] if told else []


def _mean(cells: Sequence[MeasuredCell], one: str, other: str) -> float:
    """The mean distance of two systems' answers over the utterances of some rows."""
    found = [
        distance(x, y, labels=isinstance(cell.task, Chooses))
        for cell in cells
        for x, y in zip(cell.rows[one], cell.rows[other], strict=True)
    ]
    # over utterances and not over rows: an expectation over the task's inputs
    return sum(found) / len(found)


def distance(one: Scored, other: Scored, *, labels: bool) -> float:
    """How far two answers to one utterance lie apart, from 0 to 1; the same both ways."""
    if labels:
        # by the odds of all labels: what is written may be none of them
        both = [likeliest(answer) or answer.hypothesis for answer in (one, other)]
        return float(both[0] != both[1])
    # in the row's unit: of Chinese in characters, as its error rate counts
    counts = align([one.hypothesis], [other.hypothesis], one.unit)[0].counts
    # over the longer one, since over either alone the distance would not be the same both ways
    longer = max(counts.length, counts.length - counts.deletions + counts.insertions)
    return counts.errors / longer if longer else 0.0
