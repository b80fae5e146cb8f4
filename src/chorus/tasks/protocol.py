"""What a task is: what is asked about a recording, what the answer is compared with, and how that is counted.

Every metric is a sum over utterances: each gives a row of statistics, and a metric is a function of their sum. So
whatever can be scored can be pooled, averaged over domains, resampled for an interval, and compared in pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from chorus.tasks.counts import Unit
    from chorus.tasks.scored import Answer, Clusters, Floats, Scored


class Asked(Protocol):
    """What a task sees of a row of a manifest."""

    @property
    def text(self) -> str: ...
    @property
    def language(self) -> str: ...
    def get(self, column: str) -> str:
        """Any column as text, empty where there is none."""


class Metric(Protocol):
    """A number of a set of answers."""

    @property
    def name(self) -> str:
        """What results call it, such as `bleu`."""

    @property
    def title(self) -> str:
        """What tables call it, such as `BLEU`."""

    @property
    def best(self) -> float:
        """The value of faultless answers: 0 where less is better, 100 where more is."""

    def signature(self) -> str:
        """What makes the number comparable with another's: library, version, settings."""

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Each answer's statistics [answers, k], in the order of the rows."""

    def values(self, sums: Floats) -> Floats:
        """The metric of summed statistics [draws, k] -> [draws]; NaN where it is not defined."""


@runtime_checkable
class SignsRows(Protocol):
    """What a metric has besides, whose settings follow from what it counts."""

    def signature_of(self, rows: Sequence[Scored]) -> str:
        """The signature of the number of these rows."""


@runtime_checkable
class Bounded(Protocol):
    """What a metric has besides, that is no share of rows: how bad it may be where nothing was wrong."""

    def bound(self, sums: Floats, tail: float) -> float:
        """How far from its best value it may be, but for a share `tail`: of the sums of each cluster [clusters, k]."""


@runtime_checkable
class OfHits(Protocol):
    """What a metric has besides, that is the share of rows which are right: they are compared by McNemar's test."""

    def hits(self, rows: Sequence[Scored]) -> Sequence[bool | None]:
        """Whether each row is right; None where it is not known, which no share counts."""


class Task(Protocol):
    """A task. It keeps no state; one object serves every evaluation."""

    @property
    def name(self) -> str:
        """What manifests, flags and configurations call it."""

    @property
    def summary(self) -> str:
        """One line for people."""

    @property
    def spellings(self) -> tuple[str, ...]:
        """What else it is called, such as Whisper's own word for it."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The first one ranks systems."""

    def instruction(self, row: Asked) -> str:
        """What a model that is asked in words is asked, unless a manifest or a flag says otherwise."""

    def reference(self, row: Asked) -> str:
        """What the answer is compared with."""

    def written(self, row: Asked) -> str:
        """The code of the language that the answer is written in, as far as the row tells."""

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
        """Normalise and count, in one pass; `unit` for all rows, else by the language that each is written in."""

    def clusters(self, rows: Sequence[Scored]) -> tuple[Clusters, str]:
        """(the cluster of each row, what a cluster is): what resampling draws as a whole."""


@runtime_checkable
class LimitsAnswers(Protocol):
    """What a task has besides, whose answers end by their nature after some tokens: labels have limits of their own."""

    def most_tokens(self, row: Asked) -> int | None:
        """New tokens of an answer in words, unless it is told otherwise; None: as many as the model writes."""


@runtime_checkable
class Chooses(Protocol):
    """What a task has besides, whose answers are labels."""

    @property
    def name(self) -> str: ...

    @property
    def open(self) -> bool:
        """Whether rows that name no choices take those of the data: the answers of all its rows."""

    def labels(self, row: Asked) -> tuple[str, ...]:
        """What a row may be answered with, as far as it tells; `DataError` names row and task."""

    def reference(self, row: Asked) -> str:
        """The right one."""
