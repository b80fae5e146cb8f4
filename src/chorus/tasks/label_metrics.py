"""What is counted of labels: accuracy, F1 by class and their means, how many answers are labels at all.

Of free answers the label that was recognised counts, none where none was; `constrained_` metrics take the likeliest
choice, where the runtime told how likely each is, and are not defined elsewhere. Classes are those of the references:
scikit-learn's `f1_score` with `labels` set to them. All in percent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np

    from chorus.tasks.scored import Floats, Scored
else:
    np = lazy("numpy")

Choose = Callable[["Scored"], "str | None"]  # the label that a row was answered with; None where it is not known


def written(row: Scored) -> str:
    """The label in the free answer, empty where there is none."""
    return row.hypothesis


def likeliest(row: Scored) -> str | None:
    """The choice whose tokens, with the end behind them, are likeliest together."""
    return max(row.scores, key=lambda label: row.scores[label][0]) if row.scores else None


def likeliest_token(row: Scored) -> str | None:
    """The choice whose tokens are likeliest in the mean: long labels lose nothing by their length."""
    if not row.scores:
        return None
    return max(row.scores, key=lambda label: row.scores[label][0] / row.scores[label][1])


class LabelMetric:
    """What metrics of labels share."""

    best = 100.0

    def __init__(self, name: str, title: str, choose: Choose) -> None:
        self.name, self.title, self.choose = name, title, choose

    def signature(self) -> str:
        return f"chorus {version('chorus-merge')}"


class Accuracy(LabelMetric):
    """The share of rows that were answered with their label."""

    def hits(self, rows: Sequence[Scored]) -> list[bool | None]:
        """As the protocol says."""
        found = [(self.choose(row), row.reference) for row in rows]
        return [None if a is None else a == b for a, b in found]

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Whether it is right, and whether it is known [answers, 2]."""
        return np.array([(bool(a), a is not None) for a in self.hits(rows)], np.float64).reshape(-1, 2)

    def values(self, sums: Floats) -> Floats:
        return share(sums[:, 0], sums[:, 1])


class Recognised(Accuracy):
    """The share of free answers that are one of the labels, right or wrong."""

    def __init__(self) -> None:
        super().__init__("recognised", "recognised", written)

    def hits(self, rows: Sequence[Scored]) -> list[bool | None]:
        """Whether it is a label."""
        return [bool(row.hypothesis) for row in rows]


class F1(LabelMetric):
    """F1 by class, averaged over classes (macro) or over rows (weighted by how often each class is right)."""

    def __init__(self, name: str, title: str, choose: Choose, *, weighted: bool = False) -> None:
        super().__init__(name, title, choose)
        self.weighted = weighted

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Hits, answers and references of each class [answers, 3 x classes]; zeros of rows whose answer is unknown."""
        classes = {label: i for i, label in enumerate(sorted({row.reference for row in rows}))}
        n = len(classes)
        found = np.zeros((len(rows), 3 * n))
        for counts, row in zip(found, rows, strict=True):
            label = self.choose(row)
            if label is None:
                continue
            right = classes[row.reference]
            counts[right] = label == row.reference
            counts[2 * n + right] = 1
            # an answer that is no row's label takes a hit from its own class, and spoils no other's precision
            if label in classes:
                counts[n + classes[label]] = 1
        return found

    def values(self, sums: Floats) -> Floats:
        hits, answers, references = np.split(sums, 3, axis=1)
        # no class of which no row is there: its F1 is not defined, and no draw may be blamed for it
        there = references > 0
        scores = np.divide(2 * hits, answers + references, out=np.zeros_like(hits), where=there)
        weights = references if self.weighted else there.astype(np.float64)
        return share((scores * weights).sum(axis=1), weights.sum(axis=1))


def share(part: Floats, whole: Floats) -> Floats:
    """In percent; NaN of nothing."""
    found: Floats = 100 * np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
    return found


ACCURACY = Accuracy("accuracy", "accuracy", written)
MACRO_F1 = F1("macro_f1", "macro F1", written)
WEIGHTED_F1 = F1("weighted_f1", "weighted F1", written, weighted=True)
RECOGNISED = Recognised()
CONSTRAINED = Accuracy("constrained_accuracy", "constrained accuracy", likeliest)
CONSTRAINED_F1 = F1("constrained_macro_f1", "constrained macro F1", likeliest)
BY_TOKEN = Accuracy("constrained_accuracy_by_token", "constrained accuracy by token", likeliest_token)
