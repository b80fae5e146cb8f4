"""What Whisper's runtimes have in common: a row's language, segments as ours, whether a text was cut."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from chorus.data.manifest import Row
from chorus.models.languages import known_language
from chorus.models.times import Segment, Word, in_ms
from chorus.plain import JsonMap
from chorus.transcribe.backends.protocol import Hypothesis
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding


def asked_language(decoding: Decoding, row: Row, known: Collection[str]) -> str:
    """The code that a row is decoded in; empty where it is detected, and where a model has none to choose from.

    `DataError` as `known_language` says.
    """
    if decoding.language == DETECT or not known:
        return ""
    text = row.language if decoding.language == BY_COLUMN else decoding.language
    return known_language(text, known, where=row, hint="give --language CODE, or --language detect")


def within(time_s: float, seconds: float) -> float:
    """A time to the millisecond, in a sound of so many seconds: windows go on beyond its end."""
    return in_ms(min(max(0.0, time_s), seconds))


def hypothesis_of(
    text: str, language: str, segments: Sequence[JsonMap], *, seconds: float, limit: int, told: bool
) -> Hypothesis:
    """A text and its segments by openai-whisper's keys, kept if `told`; so many tokens in one window cut it."""
    windows: dict[int, int] = {}  # where a window begins -> how many tokens it was given
    for segment in segments:
        windows[segment["seek"]] = windows.get(segment["seek"], 0) + len(segment["tokens"])
    cut = any(count >= limit for count in windows.values())
    return Hypothesis(text.strip(), language, cut, times_of(segments, seconds) if told else ())


def times_of(segments: Iterable[JsonMap], seconds: float) -> tuple[Segment, ...]:
    """Segments with a text, and their words, within the sound."""
    return tuple(
        Segment(within(s["start"], seconds), within(s["end"], seconds), s["text"].strip(), tuple(
            Word(within(w["start"], seconds), within(w["end"], seconds), w["word"], round(float(w["probability"]), 4))
            for w in s.get("words") or ()
        ))
        for s in segments if s["text"].strip()
    )  # fmt: skip
