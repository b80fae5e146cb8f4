"""EER and minDCF: how well the odds of two answers tell them apart, whichever threshold is chosen.

The score of a row is log P(yes) - log P(no). At a threshold a share of the targets (yes) is missed and a share of the
others accepted; the equal error rate is where both are the same, on the line between the two thresholds nearest to it;
the detection cost is p misses + (1 - p) false alarms, at the best threshold, over the cost of the better constant
answer (NIST's speaker recognition evaluations; p = 0.05 as in VoxSRC).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.tasks.label_metrics import LabelMetric, written

if TYPE_CHECKING:
    import numpy as np

    from chorus.tasks.scored import Floats, Scored
else:
    np = lazy("numpy")

TARGET_PRIOR = 0.05


def odds(row: Scored, target: str, other: str) -> float | None:
    """log P(target) - log P(other); None where the runtime did not tell."""
    if target not in row.scores or other not in row.scores:
        return None
    return row.scores[target][0] - row.scores[other][0]


class Detection(LabelMetric):
    """A metric of the two errors at every threshold."""

    best = 0.0

    def __init__(self, name: str, title: str, target: str, other: str) -> None:
        super().__init__(name, title, written)
        self.target, self.other = target, other

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Which of the rows' scores it has, lowest first, as a target and as another [answers, 2 x scores].

        Two systems' rows are to be given together: of each alone the scores, and so the columns, are others.
        """
        found = [odds(row, self.target, self.other) for row in rows]
        scores = {score: i for i, score in enumerate(sorted({one for one in found if one is not None}))}
        counts = np.zeros((len(rows), 2 * len(scores)))
        for i, (row, score) in enumerate(zip(rows, found, strict=True)):
            if score is not None:
                counts[i, scores[score] + (len(scores) if row.reference != self.target else 0)] = 1
        return counts

    def values(self, sums: Floats) -> Floats:
        if not sums.shape[1]:
            return np.full(len(sums), np.nan)
        targets, others = np.split(sums, 2, axis=1)
        many, few = targets.sum(axis=1, keepdims=True), others.sum(axis=1, keepdims=True)
        both = (many > 0) & (few > 0)
        # before the first threshold nothing is missed and everything accepted
        start = np.zeros((len(sums), 1))
        missed = np.concatenate([start, np.cumsum(targets, axis=1)], axis=1) / np.where(many > 0, many, 1)
        accepted = 1 - np.concatenate([start, np.cumsum(others, axis=1)], axis=1) / np.where(few > 0, few, 1)
        return np.where(both[:, 0], self.of(missed, accepted), np.nan)

    def bound(self, sums: Floats, tail: float) -> float:
        """As the protocol says: each error's exact binomial bound, of the clusters that have a target or another."""
        targets, others = np.split(sums, 2, axis=1)
        missed, accepted = (1 - tail ** (1 / (one.sum(axis=1) > 0).sum()) for one in (targets, others))
        # at one threshold; before it everything is accepted, behind it everything missed
        at = np.array([[0.0, missed, 1.0]]), np.array([[1.0, accepted, 0.0]])
        return float(self.of(*at)[0])

    def of(self, missed: Floats, accepted: Floats) -> Floats:
        """The metric of both errors at each threshold [draws, thresholds], the lowest first -> [draws]."""
        raise NotImplementedError


class EqualErrorRate(Detection):
    """In percent."""

    def of(self, missed: Floats, accepted: Floats) -> Floats:
        # the first threshold at which as much is missed as is accepted; at the last one nothing is accepted
        after = np.maximum(1, np.argmax(missed >= accepted, axis=1))
        draws = np.arange(len(missed))
        m0, m1 = missed[draws, after - 1], missed[draws, after]
        a0, a1 = accepted[draws, after - 1], accepted[draws, after]
        step = (m1 - m0) + (a0 - a1)
        at = np.divide(a0 - m0, step, out=np.zeros_like(step), where=step > 0)
        found: Floats = 100 * (m0 + at * (m1 - m0))
        return found


class DetectionCost(Detection):
    """minDCF, as a percentage of what the better constant answer costs."""

    def signature(self) -> str:
        return f"{super().signature()}, p(target) {TARGET_PRIOR:g}"

    def of(self, missed: Floats, accepted: Floats) -> Floats:
        costs = TARGET_PRIOR * missed + (1 - TARGET_PRIOR) * accepted
        found: Floats = 100 * costs.min(axis=1) / min(TARGET_PRIOR, 1 - TARGET_PRIOR)
        return found
