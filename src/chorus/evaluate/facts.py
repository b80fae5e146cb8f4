"""The types of summary.json: what an evaluation tells, key by key. Rates in percent; None where one is not defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from chorus.tasks.counts import Unit

Units = Literal["words", "characters", "mixed"]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
# of a file: each of these keys and no other; true is no number, "1" is none either, nor NaN
STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class IntervalFacts(TypedDict):
    """A 95 % interval; `by` is what was resampled: speaker or utterance."""

    low: float | None
    high: float | None
    by: str
    clusters: Count


class CountFacts(TypedDict):
    """Edits, summed."""

    hits: Count
    substitutions: Count
    deletions: Count
    insertions: Count


class Hallucination(TypedDict):
    """What was written that was not said."""

    looping_percent: Amount
    words_in_silence: Count
    words_per_silent_minute: Amount | None
    length_ratio: Amount | None


class Macro(TypedDict):
    """The unweighted mean over groups."""

    error_rate: Amount | None
    interval: IntervalFacts


class Orthographic(TypedDict):
    """Rates of the texts as written."""

    error_rate: Amount | None
    wer: Amount | None
    cer: Amount | None


class Measures(Macro, Orthographic):
    """Everything that is told of a set of answers."""

    utterances: Count
    seconds: Amount
    failed: Count
    cut: Count  # at the limit of new tokens, before their end
    empty_references: Count
    unit: Units
    mer: Amount | None
    wil: Amount | None
    words: CountFacts
    characters: CountFacts
    hallucination: Hallucination


class MetricFacts(TypedDict):
    """One of a task's own metrics, such as BLEU."""

    title: str
    value: float | None
    interval: IntervalFacts
    signature: str


class SystemFacts(TypedDict):
    """What was evaluated; see transcribe/systems.py."""

    label: str
    kind: str
    identity: str
    role: str
    home: Mapping[str, object]
    parameters: Mapping[str, object]
    trained_on: Mapping[str, Sequence[str]]  # column -> values, of all that went into it


class TestSetFacts(TypedDict):
    """On what."""

    fingerprint: str
    utterances: Count
    hours: Amount
    left_out: dict[str, Count]


class Timing(TypedDict):
    """How long decoding took."""

    decode_s: Amount
    audio_s: Amount
    real_time_factor: Amount | None


@with_config(ConfigDict(strict=True, extra="allow"))
class DecodingFacts(TypedDict):
    """How it was decoded, as far as others read it; the rest stands beside it."""

    task: str
    beam: Annotated[int, Field(ge=1)]


class Facts(TypedDict):
    """What an evaluation is of, before anything is counted."""

    format: int
    kind: Literal["evaluation"]
    chorus: str
    fingerprint: str
    system: SystemFacts
    backend: str
    device: str
    decoding: DecodingFacts
    versions: dict[str, str]
    test: TestSetFacts
    conditions: Annotated[list[str], Field(min_length=1)]
    timing: Timing


@with_config(STRICT)
class Summary(Facts):
    """summary.json."""

    normaliser: str
    unit: Unit | None  # None: by the language that each answer is written in
    all: Measures
    orthographic: Orthographic
    conditions_measured: dict[str, Measures]
    by: dict[str, dict[str, Measures]]  # column -> value -> measures
    macro: dict[str, Macro]  # column -> mean over its values
    metrics: dict[str, dict[str, MetricFacts]]  # condition -> the task's own metrics beside the error rate
    digest: str  # of this and the rows; empty where another tool wrote them
