"""What runtimes have in common: a row's language and labels, segments as ours, whether a text was cut."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import NamedTuple

from chorus.data.manifest import Row
from chorus.models.languages import known_language
from chorus.models.times import Segment, Word, in_ms
from chorus.plain import JsonMap
from chorus.tasks.protocol import Chooses, LimitsAnswers
from chorus.tasks.registry import TASKS
from chorus.transcribe.backends.protocol import Hypothesis
from chorus.transcribe.decoding import BY_COLUMN, DETECT, Decoding

AROUND = 16  # tokens beside a label in an answer that should be one, and the step of their number


def asked_language(decoding: Decoding, row: Row, known: Collection[str]) -> str:
    """The code that a row is decoded in; empty where it is detected, and where a model has none to choose from.

    `DataError` as `known_language` says.
    """
    if decoding.language == DETECT or not known:
        return ""
    text = row.language if decoding.language == BY_COLUMN else decoding.language
    return known_language(text, known, where=row, hint="give --language CODE, or --language detect")


class AnswerForm(NamedTuple):
    """What sounds must have in common to be decoded together: else the batch would say what an answer can be."""

    labelled: bool
    most: int | None  # new tokens; None: as many as fit


def by_form(
    decoding: Decoding, rows: Sequence[Row], tokens: Callable[[str], Sequence[int]]
) -> dict[AnswerForm, list[int]]:
    """The places of rows whose answers have the same form, in the order of the rows."""
    task = TASKS.get(decoding.task)
    lengths: dict[str, int] = {}  # hundreds of labels may be those of every row
    found: dict[AnswerForm, list[int]] = {}
    for place, row in enumerate(rows):
        labels = task.labels(row) if isinstance(task, Chooses) else ()
        lengths |= {label: len(tokens(label)) for label in labels if label not in lengths}
        form = AnswerForm(bool(labels), most_tokens(decoding, row, [lengths[label] for label in labels]))
        found.setdefault(form, []).append(place)
    return found


def asked_labels(decoding: Decoding, rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """Of each row of one form the labels that it may be answered with; none at all of answers in words."""
    task = TASKS.get(decoding.task)
    found = [task.labels(row) for row in rows] if isinstance(task, Chooses) else []
    return found if all(found) else []


def most_tokens(decoding: Decoding, row: Row, lengths: Sequence[int]) -> int | None:
    """New tokens of a row's answer: room for its longest label and a few words around it; else the task's limit.

    A model that was never taught a task goes on and on.
    """
    task = TASKS.get(decoding.task)
    if decoding.max_new_tokens is not None:
        return decoding.max_new_tokens
    if lengths:
        # in steps, so that rows whose labels are about as long are decoded together
        return AROUND * (1 + -(-max(lengths) // AROUND))
    return task.most_tokens(row) if isinstance(task, LimitsAnswers) else None


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
