"""The types of summary.json: what an evaluation tells, key by key. Rates in percent; None where one is not defined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from chorus.tasks.counts import Unit

Units = Literal["words", "characters", "mixed"]


class IntervalFacts(TypedDict):
    """A 95 % interval; `by` is what was resampled: speaker or utterance."""

    low: float | None
    high: float | None
    by: str
    clusters: int


class CountFacts(TypedDict):
    """Edits, summed."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int


class Hallucination(TypedDict):
    """What was written that was not said."""

    looping_percent: float
    words_in_silence: int
    words_per_silent_minute: float | None
    length_ratio: float | None


class Macro(TypedDict):
    """The unweighted mean over groups."""

    error_rate: float | None
    interval: IntervalFacts


class Orthographic(TypedDict):
    """Rates of the texts as written."""

    error_rate: float | None
    wer: float | None
    cer: float | None


class Measures(Macro, Orthographic):
    """Everything that is told of a set of answers."""

    utterances: int
    seconds: float
    failed: int
    cut: int  # at the limit of new tokens, before their end
    empty_references: int
    unit: Units
    mer: float | None
    wil: float | None
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
    utterances: int
    hours: float
    left_out: dict[str, int]


class Timing(TypedDict):
    """How long decoding took."""

    decode_s: float
    audio_s: float
    real_time_factor: float | None


class DecodingFacts(TypedDict):
    """How it was decoded, as far as others read it; the rest stands beside it."""

    task: str
    beam: int


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
    conditions: list[str]
    timing: Timing


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
