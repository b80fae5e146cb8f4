"""Edits between references and transcripts, by jiwer; sums of them are all that error rates need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from chorus.errors import MissingExtraError

Unit = Literal["words", "characters"]


@dataclass(frozen=True)
class Counts:
    """Summed over utterances: hits, substitutions, deletions, insertions.

    The reference has hits + substitutions + deletions units, the transcript hits + substitutions + insertions.
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
    def heard(self) -> int:
        """Units of the transcript."""
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
        """WIL: 1 - H/N_reference * H/N_heard, in percent."""
        if not self.length:
            return float("nan")
        return 100 * (1 - self.hits / self.length * (self.hits / self.heard if self.heard else 0.0))


def edits(reference: str, heard: str, unit: Unit) -> Counts:
    """The edits of one utterance, both texts normalised. Every unit heard for an empty reference is an insertion.

    >>> edits("a b c", "a x", "words")
    Counts(hits=1, substitutions=1, deletions=1, insertions=0)
    """
    if not reference:
        return Counts(insertions=len(heard.split()) if unit == "words" else len(heard))
    if reference == heard:
        return Counts(hits=len(reference.split()) if unit == "words" else len(reference))
    found = aligned(reference, heard, unit)
    return Counts(found.hits, found.substitutions, found.deletions, found.insertions)


def aligned(reference: str, heard: str, unit: Unit) -> Any:
    """jiwer's output with its alignment."""
    try:
        import jiwer
    except ImportError:
        raise MissingExtraError("audio", "error rates") from None
    process = jiwer.process_words if unit == "words" else jiwer.process_characters
    return process(reference, heard)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum."""
    every = list(counts)
    return Counts(*(sum(getattr(one, f.name) for one in every) for f in fields(Counts)))


def corrects(reference: str, heard: str, unit: Unit) -> tuple[list[bool], list[int]]:
    """For each unit of the reference whether it was heard, and how many were inserted before each and at the end.

    What MAPSSWE needs of an alignment: lists of n and n + 1 values.
    """
    n = len(reference.split()) if unit == "words" else len(reference)
    right, inserted = [False] * n, [0] * (n + 1)
    if not reference:
        return right, [edits(reference, heard, unit).insertions]
    for chunk in aligned(reference, heard, unit).alignments[0]:
        if chunk.type == "equal":
            right[chunk.ref_start_idx : chunk.ref_end_idx] = [True] * (chunk.ref_end_idx - chunk.ref_start_idx)
        elif chunk.type == "insert":
            inserted[chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
    return right, inserted


def shown(reference: str, heard: str, unit: Unit) -> Sequence[str]:
    """Reference and transcript one above the other, and the kind of each edit, as three lines."""
    ref, hyp, marks = [], [], []
    words = reference.split() if unit == "words" else list(reference)
    others = heard.split() if unit == "words" else list(heard)
    chunks = aligned(reference, heard, unit).alignments[0] if reference else []
    if not reference:
        return ("REF:", f"HYP: {heard}", f"     {'I ' * len(others)}".rstrip())
    for chunk in chunks:
        a = words[chunk.ref_start_idx : chunk.ref_end_idx]
        b = others[chunk.hyp_start_idx : chunk.hyp_end_idx]
        mark = {"equal": "", "substitute": "S", "delete": "D", "insert": "I"}[chunk.type]
        for i in range(max(len(a), len(b))):
            one, two = (a[i] if i < len(a) else "*"), (b[i] if i < len(b) else "*")
            if mark == "I":
                one = "*" * len(two)
            if mark == "D":
                two = "*" * len(one)
            width = max(len(one), len(two), len(mark))
            ref.append(one.ljust(width))
            hyp.append(two.ljust(width))
            marks.append(mark.ljust(width))
    lines = (("REF:", ref), ("HYP:", hyp), ("    ", marks))
    return tuple(f"{name} {' '.join(parts)}".rstrip() for name, parts in lines)
