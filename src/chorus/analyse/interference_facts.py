"""What an analysis of interference tells: plain numbers, None where something is not defined."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field

from pydantic import TypeAdapter

from chorus.plain import JsonMap, JsonObject

FORMAT = 1


@dataclass(frozen=True)
class Effect:
    """Points gained against the base with the 95 % interval, and the share of what the row's own specialist gains.

    None where it is not defined: an interval of one utterance, the share in a row that nobody surely gains in.
    """

    points: float
    low: float | None
    high: float | None
    share: float | None = None

    @property
    def surely(self) -> int:
        """1 where it gains, -1 where it loses, 0 where that may be chance."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0


@dataclass(frozen=True)
class InterferenceRow:
    """A domain of a task: the base's value, and the specialist that is at home there, with what it gains."""

    name: str
    task: str
    metric: str
    best: float
    utterances: int
    base: float | None
    own: str
    gain: Effect | None
    domain: str = ""

    @property
    def sure(self) -> bool:
        """Whether its specialist gains more than its interval: else there is nothing to share or to recover."""
        return self.gain is not None and self.gain.surely > 0


@dataclass(frozen=True)
class Summed:
    """Several effects: in points their mean and worst, in shares (of rows that are sure) mean and worst.

    `disruption` is the mean of max(0, -share); `gains` and `losses` are how many have either sign, and surely so.
    """

    effects: int
    mean: Effect | None
    worst: str
    worst_points: float | None
    shares: int
    share_mean: float | None
    share_worst: float | None
    share_worst_in: str
    disruption: float | None
    gains: int
    gains_surely: int
    losses: int
    losses_surely: int


@dataclass(frozen=True)
class Outgoing:
    """What a specialist does at home, and to all other rows: it overfits where it gains at home and loses elsewhere."""

    specialist: str
    homes: list[str]
    own: Effect | None
    others: Summed
    overfits: bool
    surely: bool


@dataclass(frozen=True)
class Recovered:
    """Any other system (a merge, a joint fine-tune): its gains by row, and what it recovers of the specialists'.

    `recovery` is by row; its mean and worst, and the ratio of the sums of gains, are over rows that are sure.
    """

    system: str
    role: str
    effects: dict[str, Effect | None]
    recovery: dict[str, float]
    mean: float | None
    worst: float | None
    worst_in: str
    ratio_of_sums: float | None


@dataclass(frozen=True)
class Unseen:
    """Rows in which no specialist is at home (an unseen task, by its sub-tasks), and each system's mean over them."""

    rows: list[str]
    means: dict[str, Effect | None]


@dataclass(frozen=True)
class Correlation:
    """Of cosines (or projections) of differences with what was gained (or recovered): n pairs, in a part of a model."""

    kind: str
    where: str
    n: int
    pearson: float | None
    spearman: float | None


@dataclass(frozen=True)
class Interference:
    """The matrix: `effects` by specialist and row."""

    base: str
    rows: list[InterferenceRow]
    specialists: list[str]
    effects: dict[str, dict[str, Effect | None]]
    outgoing: list[Outgoing]
    incoming: dict[str, Summed]
    others: list[Recovered]
    condition: str
    notes: list[str] = field(default_factory=list)
    unseen: Unseen | None = None
    correlations: list[Correlation] = field(default_factory=list)

    def effect(self, specialist: str, row: str) -> Effect | None:
        """None where the specialist was not evaluated there."""
        return self.effects[specialist].get(row)

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "interference", **asdict(self)}


def interference_from(values: JsonMap) -> Interference:
    """The matrix of its plain values, read from JSON; `ValueError` where they are none."""
    return TypeAdapter(Interference).validate_python({k: v for k, v in values.items() if k not in ("format", "kind")})
