"""What runtimes have in common: a row's language and labels, segments as ours, whether a text was cut."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from chorus.data.manifest import Row
from chorus.models.languages import known_language
from chorus.models.times import Segment, Word, in_ms
from chorus.plain import JsonMap
from chorus.tasks.protocol import Chooses
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.protocol import Hypothesis
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding

AROUND = 16  # tokens beside a label in an answer that should be one


def asked_language(decoding: Decoding, row: Row, known: Collection[str]) -> str:
    """The code that a row is decoded in; empty where it is detected, and where a model has none to choose from.

    `DataError` as `known_language` says.
    """
    if decoding.language == DETECT or not known:
        return ""
    text = row.language if decoding.language == BY_COLUMN else decoding.language
    return known_language(text, known, where=row, hint="give --language CODE, or --language detect")


def asked_labels(decoding: Decoding, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Of each row the labels that it may be answered with; none at all where some are answered in words."""
    task = TASKS.get(decoding.task)
    found = [task.labels(row) for row in rows] if isinstance(task, Chooses) else []
    return found if all(found) else []


def most_tokens(
    decoding: Decoding, labels: Sequence[Sequence[str]], tokens: Callable[[str], Sequence[int]]
) -> int | None:  # fmt: skip
    """New tokens of an answer: of a label as many as the longest has, and a few words around it; None: as many as fit.

    A model that was never taught a task goes on and on.
    """
    if decoding.max_new_tokens is not None or not labels:
        return decoding.max_new_tokens
    return AROUND + max(len(tokens(label)) for label in {label for own in labels for label in own})


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
