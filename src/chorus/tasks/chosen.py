"""Tasks whose answers are labels: what they share. A file of its own has each, with its question and its labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from chorus.errors import DataError
from chorus.files import shown
from chorus.tasks.label_metrics import (
    ACCURACY,
    BY_TOKEN,
    CONSTRAINED,
    CONSTRAINED_F1,
    MACRO_F1,
    RECOGNISED,
    WEIGHTED_F1,
)
from chorus.tasks.labels import check_labels, choices_of, label_in
from chorus.tasks.scored import score_texts, speakers_or_utterances

if TYPE_CHECKING:
    from chorus.tasks.counts import Unit
    from chorus.tasks.protocol import Asked, Metric
    from chorus.tasks.scored import Answer, Clusters, Scored

ANSWER, CHOICES = "answer", "choices"  # a manifest's columns, which any of these tasks has
LISTED = "{labels}"  # in a question: where its labels stand
BY_ACCURACY: tuple[Metric, ...] = (ACCURACY, MACRO_F1, WEIGHTED_F1, RECOGNISED, CONSTRAINED, CONSTRAINED_F1, BY_TOKEN)
BY_MACRO_F1: tuple[Metric, ...] = (MACRO_F1, ACCURACY, WEIGHTED_F1, RECOGNISED, CONSTRAINED_F1, CONSTRAINED, BY_TOKEN)


@dataclass(frozen=True)
class LabelTask:
    """A task (see protocol.py) that is answered with one of some labels.

    question    with `{labels}` where the labels are to stand
    columns     of a manifest, where the label is looked for after `answer`, in order
    fixed       the labels, where every data set has the same; else a manifest's column `choices`, else its own labels
    """

    name: str
    summary: str
    spellings: tuple[str, ...]
    question: str
    columns: tuple[str, ...]
    fixed: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = BY_ACCURACY

    @property
    def open(self) -> bool:
        """As the protocol says."""
        return not self.fixed

    def labels(self, row: Asked) -> tuple[str, ...]:
        """As the protocol says."""
        return choices_of(row.get(CHOICES), row, self.name) or self.fixed

    def instruction(self, row: Asked) -> str:
        labels = self.labels(row)
        if not labels and LISTED in self.question:  # "Choose from: ." would be asked in silence
            raise DataError(f"{row}: task {self.name}: no choices to ask about", f"give the column {CHOICES}")
        return self.question.replace(LISTED, ", ".join(labels))

    def reference(self, row: Asked) -> str:
        found = next((row.get(name) for name in (ANSWER, *self.columns) if row.get(name)), "")
        return " ".join(found.split())

    def written(self, row: Asked) -> str:
        # labels are words of the question, whatever is spoken
        return "en"

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
        return score_labels(rows, normaliser, unit)

    def clusters(self, rows: Sequence[Scored]) -> tuple[Clusters, str]:
        return speakers_or_utterances(rows)


def score_labels(rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
    """Texts counted as ever, and the label in each: of its own choices, else of the references of all rows."""
    every = tuple(sorted({row["reference"] for row in rows} - {""}))
    counted = score_texts(rows, normaliser, unit)
    return [
        replace(
            one, reference=row["reference"], hypothesis=label_in(row["hypothesis"], tuple(row.get("choices", every))),
            scores=row.get("scores", {}),
        )
        for row, one in zip(rows, counted, strict=True)
    ]  # fmt: skip


def check_choices(task: str, labels: Sequence[str], where: object) -> None:
    """`DataError` for a row that is asked without an answer being known, and has nothing to choose from."""
    if not labels:
        raise DataError(
            f"{where}: task {task}: no choices, and no row's answer to take them from", f"give the column {CHOICES}"
        )
    check_labels(labels, where, task)


def check_answer(task: str, reference: str, labels: Sequence[str], where: object) -> None:
    """`DataError` for a row that cannot be answered right: it has no answer, or one that is none of its labels."""
    if not reference:
        raise DataError(f"{where}: task {task}: no answer", f"give the column {ANSWER}")
    check_labels(labels, where, task)
    if labels and reference not in labels:
        told = shown(", ".join(labels))
        raise DataError(
            f'{where}: task {task}: its answer "{shown(reference)}" is none of its choices ({told})',
            "spell it as one of them, or name it among them",
        )
