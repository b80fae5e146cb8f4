"""A transcript in time: segments, and the words in them, each with where it was heard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple


class Word(NamedTuple):
    """A word between two times [s]: as it stands in its text, the space before it included.

    `probability` is the model's own; None where it tells none.
    """

    start: float
    end: float
    text: str
    probability: float | None = None


@dataclass(frozen=True)
class Segment:
    """A text between two times [s] of its recording; `words` are there where they were asked for."""

    start: float
    end: float
    text: str
    words: tuple[Word, ...] = ()

    def later(self, by_s: float) -> Segment:
        """The same so many seconds later: a piece's segment in its recording.

        >>> Segment(0.5, 1.0, "yes").later(30.0)
        Segment(start=30.5, end=31.0, text='yes', words=())
        """
        if not by_s:
            return self
        words = tuple(w._replace(start=in_ms(w.start + by_s), end=in_ms(w.end + by_s)) for w in self.words)
        return replace(self, start=in_ms(self.start + by_s), end=in_ms(self.end + by_s), words=words)

    def as_its_words(self) -> Segment:
        """From the beginning of its first word to the end of its last; as it is where it has none.

        >>> Segment(0.0, 9.0, "yes", (Word(2.0, 2.5, " yes"),)).as_its_words().start
        2.0
        """
        return replace(self, start=self.words[0].start, end=self.words[-1].end) if self.words else self


def in_ms(seconds: float) -> float:
    """A time to the millisecond, which no runtime tells more exactly than."""
    return round(float(seconds), 3)


Plain = tuple[float, float, str, list[tuple[float, float, str, float | None]]]  # a segment as JSON has it


def as_plain(segments: Sequence[Segment]) -> list[Plain]:
    """Segments for JSON."""
    return [(s.start, s.end, s.text, [(w.start, w.end, w.text, w.probability) for w in s.words]) for s in segments]


def from_plain(told: Sequence[Plain]) -> tuple[Segment, ...]:
    """Segments out of JSON."""
    return tuple(Segment(start, end, text, tuple(Word(*word) for word in words)) for start, end, text, words in told)
