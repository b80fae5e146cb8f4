"""Tasks whose manifests bring the question: with choices their answers are labels, without any a text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.tasks.chosen import LabelTask, score_labels
from chorus.tasks.label_metrics import BY_TOKEN, CONSTRAINED, RECOGNISED, Accuracy, LabelMetric, share, written
from chorus.tasks.scored import score_texts

if TYPE_CHECKING:
    import numpy as np

    from chorus.tasks.counts import Unit
    from chorus.tasks.protocol import Asked
    from chorus.tasks.scored import Answer, Floats, Scored
else:
    np = lazy("numpy")


class TokenF1(LabelMetric):
    """How much of the answer's words are the reference's, and the other way: the mean over rows, in percent.

    As SQuAD counts (Rajpurkar et al. 2016), but under the evaluation's own normaliser, which leaves articles.
    """

    def __init__(self) -> None:
        super().__init__("token_f1", "token F1", written)

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """F1, and one for the row [answers, 2]."""
        return np.array([(_overlap(row), 1.0) for row in rows], np.float64).reshape(-1, 2)

    def values(self, sums: Floats) -> Floats:
        return share(sums[:, 0], sums[:, 1])


def _overlap(row: Scored) -> float:
    a, b = row.hypothesis.split(), row.reference.split()
    # as SQuAD: where one of them is empty, whether both are
    return 2 * (Counter(a) & Counter(b)).total() / (len(a) + len(b)) if a and b else float(a == b)


EXACT, TOKEN_F1 = Accuracy("exact_match", "exact match", written), TokenF1()
ANSWER_TOKENS = 128
METRICS = (EXACT, TOKEN_F1, RECOGNISED, CONSTRAINED, BY_TOKEN)


class InWords(LabelTask):
    """What such tasks share."""

    open = False  # rows without choices are answered with a text

    def most_tokens(self, row: Asked) -> int | None:
        """As the protocol says: an answer is a sentence or some."""
        return ANSWER_TOKENS

    def written(self, row: Asked) -> str:
        return row.language

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
        texts = iter(score_texts([row for row in rows if not row.get("choices")], normaliser, unit))
        labels = iter(score_labels([row for row in rows if row.get("choices")], normaliser, unit))
        return [next(labels) if row.get("choices") else next(texts) for row in rows]
