"""Edits between references and hypotheses, by jiwer, and where they are; their sums are all that error rates need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal, NamedTuple

from chorus.errors import MissingExtraError

Unit = Literal["words", "characters"]
Kind = Literal["equal", "substitute", "delete", "insert"]
LETTERS: dict[Kind, str] = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}


@dataclass(frozen=True)
class Counts:
    """Summed over utterances: hits, substitutions, deletions, insertions.

    The reference has hits + substitutions + deletions units, the hypothesis hits + substitutions + insertions.
    """

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def length(self) -> int:
        """Units of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def hypothesis_length(self) -> int:
        """Units of the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def error_rate(self) -> float:
        """Errors for each 100 units of the reference: WER in words, CER in characters; NaN without a reference."""
        return 100 * self.errors / self.length if self.length else float("nan")

    @property
    def match_error_rate(self) -> float:
        """MER: the share of matches and errors that are errors, in percent."""
        total = self.hits + self.errors
        return 100 * self.errors / total if total else float("nan")

    @property
    def information_lost(self) -> float:
        """WIL: 1 - H/N_reference * H/N_hypothesis, in percent."""
        if not self.length:
            return float("nan")
        precision = self.hits / self.hypothesis_length if self.hypothesis_length else 0.0
        return 100 * (1 - self.hits / self.length * precision)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    every = list(counts)
    return Counts(*(sum(getattr(one, f.name) for one in every) for f in fields(Counts)))


class Chunk(NamedTuple):
    """Neighbouring units of one kind: [start, end) in the reference and in the hypothesis."""

    kind: Kind
    reference_start: int
    reference_end: int
    start: int
    end: int


@dataclass(frozen=True)
class Alignment:
    """Which units of a hypothesis stand for which of its reference."""

    chunks: tuple[Chunk, ...]

    @cached_property
    def counts(self) -> Counts:
        sums = dict.fromkeys(LETTERS, 0)
        for chunk in self.chunks:
            sums[chunk.kind] += max(chunk.reference_end - chunk.reference_start, chunk.end - chunk.start)
        return Counts(sums["equal"], sums["substitute"], sums["delete"], sums["insert"])

    @cached_property
    def correct(self) -> list[bool]:
        """For each unit of the reference whether the hypothesis has it."""
        found: list[bool] = []
        for chunk in self.chunks:
            found += [chunk.kind == "equal"] * (chunk.reference_end - chunk.reference_start)
        return found

    @cached_property
    def inserted(self) -> list[int]:
        """How many units were inserted before each unit of the reference and at its end; one value more than units."""
        found = [0] * (self.counts.length + 1)
        for chunk in self.chunks:
            if chunk.kind == "insert":
                found[chunk.reference_start] += chunk.end - chunk.start
        return found


def units(text: str, unit: Unit) -> Sequence[str]:
    """A normalised text in words, or in characters: spaces are none, as punctuation leaves them anywhere."""
    return text.split() if unit == "words" else "".join(text.split())


def align(references: Sequence[str], hypotheses: Sequence[str], unit: Unit, *, spaces: bool = False) -> list[Alignment]:
    """Align normalised texts, each with its hypothesis. Every unit for an empty reference is an insertion.

    With `spaces` a space is a character too, as in the CER of languages that are counted in words.

    >>> align(["a b c"], ["a x"], "words")[0].counts
    Counts(hits=1, substitutions=1, deletions=1, insertions=0)
    >>> [align(["ab c"], ["a bc"], "characters", spaces=s)[0].counts.errors for s in (False, True)]
    [0, 2]
    """
    if unit == "characters" and not spaces:
        references, hypotheses = (["".join(units(text, unit)) for text in texts] for texts in (references, hypotheses))
    pairs = list(zip(references, hypotheses, strict=True))
    found = {i: _plain(a, b, unit) for i, (a, b) in enumerate(pairs) if a == b or not a}
    unlike = [i for i in range(len(pairs)) if i not in found]
    chunks = _jiwer([references[i] for i in unlike], [hypotheses[i] for i in unlike], unit) if unlike else []
    found |= dict(zip(unlike, chunks, strict=True))
    return [found[i] for i in range(len(pairs))]


def _plain(reference: str, hypothesis: str, unit: Unit) -> Alignment:
    """What needs no search: equal texts, and texts without a reference."""
    n = len(hypothesis.split() if unit == "words" else hypothesis)
    if not n:
        return Alignment(())
    return Alignment((Chunk("equal", 0, n, 0, n) if reference else Chunk("insert", 0, 0, 0, n),))


def _jiwer(references: list[str], hypotheses: list[str], unit: Unit) -> list[Alignment]:
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("audio", "error rates") from None
    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    return [
        Alignment(tuple(
            Chunk(c.type, c.ref_start_idx, c.ref_end_idx, c.hyp_start_idx, c.hyp_end_idx) for c in chunks
        ))
        for chunks in process(references, hypotheses).alignments
    ]  # fmt: skip


def edits(reference: str, hypothesis: str, unit: Unit) -> Counts:
    """The edits of one utterance, both texts normalised."""
    return align([reference], [hypothesis], unit)[0].counts


def shown(reference: str, hypothesis: str, unit: Unit, alignment: Alignment) -> Sequence[str]:
    """Reference and hypothesis one above the other, and the kind of each edit, as three lines."""
    references, hypotheses = units(reference, unit), units(hypothesis, unit)
    columns: list[tuple[str, str, str]] = []
    for chunk in alignment.chunks:
        a = references[chunk.reference_start : chunk.reference_end]
        b = hypotheses[chunk.start : chunk.end]
        for i in range(max(len(a), len(b))):
            one, two = a[i] if i < len(a) else "*" * len(b[i]), b[i] if i < len(b) else "*" * len(a[i])
            columns.append((one, two, LETTERS[chunk.kind]))
    widths = [max(map(len, column)) for column in columns]
    return tuple(
        " ".join([name, *(column[line].ljust(width) for column, width in zip(columns, widths, strict=True))]).rstrip()
        for line, name in enumerate(("REF:", "HYP:", "    "))
    )
