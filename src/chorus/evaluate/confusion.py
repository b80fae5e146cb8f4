"""Which label was answered with which: the confusion matrix of an evaluation, as numbers, a table, a picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from chorus.errors import MisfitError
from chorus.evaluate.results import Evaluation
from chorus.evaluate.summary import main_rows
from chorus.tables import Table
from chorus.tasks.protocol import Chooses
from chorus.tasks.scored import Scored

NONE = "(none)"  # answers that are no label


@dataclass(frozen=True)
class Confusion:
    """Rows are references, columns answers: `counts[i][j]` rows of labels[i] were answered with answers[j]."""

    labels: tuple[str, ...]
    answers: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    def shares(self) -> list[list[float]]:
        """Each row in percent of its references; zeros of a label that no row has."""
        return [[100 * n / max(1, sum(row)) for n in row] for row in self.counts]


def confusion(evaluation: Evaluation) -> Confusion:
    """The confusion matrix under the evaluation's first condition; `MisfitError` where answers are no labels.

    Labels stand in alphabetical order; answers that no reference is come behind them, and last those that are none.
    """
    rows = main_rows(evaluation.scored, evaluation.summary["conditions"])
    if not isinstance(evaluation.task, Chooses):
        raise MisfitError(
            f"{evaluation.label}: answers of the task {evaluation.task.name} are no labels",
            "name one of `chorus tasks`",
        )
    return confusion_of(rows)


def confusion_of(rows: Sequence[Scored]) -> Confusion:
    """As `confusion`, of rows."""
    labels = sorted({row.reference for row in rows})
    others = sorted({row.hypothesis for row in rows} - {*labels, ""})
    answers = [*labels, *others, *([NONE] if any(not row.hypothesis for row in rows) else [])]
    seen = Counter((row.reference, row.hypothesis or NONE) for row in rows)
    counts = tuple(tuple(seen[label, answer] for answer in answers) for label in labels)
    return Confusion(tuple(labels), tuple(answers), counts)


def as_table(found: Confusion, label: str) -> Table:
    """Counts, a line a reference; the right answers in bold."""
    rows = [[name, *(str(n) if n else "" for n in line)] for name, line in zip(found.labels, found.counts, strict=True)]
    best = {(i, 1 + i) for i in range(len(found.labels))}
    return Table(f"{label}: what each label (line) was answered with", ["", *found.answers], rows, best=best)
