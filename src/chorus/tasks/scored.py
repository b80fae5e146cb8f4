"""Texts normalised, aligned and counted once; what metrics, tests, and the printed alignments read.

Rules: a failed decode counts as an empty hypothesis. A reference that is empty after normalisation has no units, and
every unit of its hypothesis is an insertion. Characters are counted where a language puts no spaces between words, and
the spaces that stand there all the same are none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NotRequired

from typing_extensions import TypedDict  # pydantic reads typing's own from Python 3.12 on

from chorus.lazy import lazy
from chorus.models.languages import unspaced
from chorus.tasks.counts import Alignment, Counts, Unit, align
from chorus.tasks.loops import is_loop
from chorus.tasks.normalise import normaliser

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Clusters = NDArray[np.int64]
else:
    np = lazy("numpy")

MIN_CLUSTERS = 20


class Answer(TypedDict):
    """What a system answered about one utterance under one condition: a row of results.jsonl."""

    name: str
    condition: str
    reference: str
    hypothesis: str
    seconds: NotRequired[float]
    language: NotRequired[str]
    written: NotRequired[str]  # the language of the texts, where it is not the spoken one
    detected_language: NotRequired[str]
    domain: NotRequired[str]
    speaker: NotRequired[str]
    failed: NotRequired[str]  # why
    cut: NotRequired[bool]  # at the limit of new tokens, before its end
    choices: NotRequired[list[str]]  # of a task whose answers are labels
    scores: NotRequired[dict[str, list[float]]]  # label -> its log-probability, and how many tokens have it
    utterance: NotRequired[str]  # what is asked about, where rows of several seeds stand together
    took_s: NotRequired[float]
    unit: NotRequired[Unit]
    errors: NotRequired[int]
    length: NotRequired[int]


@dataclass(frozen=True)
class Scored:
    """One answer with both texts normalised, aligned in its unit, and counted."""

    name: str
    condition: str
    language: str
    domain: str
    speaker: str
    seconds: float
    raw_reference: str
    raw_hypothesis: str
    reference: str
    hypothesis: str
    unit: Unit
    words: Counts
    characters: Counts
    alignment: Alignment
    failed: str = ""  # why, where the decode failed
    cut: bool = False
    utterance: str = ""  # what is asked about, where rows of several seeds stand together
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)  # as an answer's
    written: str = ""  # the code of the language of the texts

    @property
    def counts(self) -> Counts:
        """In this row's own unit."""
        return self.alignment.counts

    @cached_property
    def edits(self) -> tuple[int, int]:
        """Errors, and units of the reference."""
        return self.counts.errors, self.counts.length

    @cached_property
    def loops(self) -> bool:
        """Whether the hypothesis goes round and the reference does not."""
        return is_loop(self.hypothesis) and not is_loop(self.reference)


def counted_in(language: str) -> Unit:
    """What is counted in texts of a language, by its code."""
    return "characters" if unspaced(language) else "words"


def score_texts(rows: Sequence[Answer], normaliser_name: str, unit: Unit | None = None) -> list[Scored]:
    """Normalise, align in words and in characters, and count; `unit` for all rows, else by each row's language."""
    normalise = normaliser(normaliser_name)
    chosen = [unit or counted_in(row.get("written", row.get("language", ""))) for row in rows]
    references, hypotheses = ([normalise(row[key]) for row in rows] for key in ("reference", "hypothesis"))
    words = align(references, hypotheses, "words")
    characters: list[Alignment] = [Alignment(())] * len(rows)
    # in the language's own unit no space counts; the CER beside a WER is every other tool's, in which they do
    for own in ("words", "characters"):
        places = [i for i, one in enumerate(chosen) if one == own]
        found = align(
            [references[i] for i in places], [hypotheses[i] for i in places], "characters", spaces=own == "words"
        )
        for i, one in zip(places, found, strict=True):
            characters[i] = one
    return [
        _scored(row, references[i], hypotheses[i], chosen[i], words[i], characters[i]) for i, row in enumerate(rows)
    ]  # fmt: skip


def _scored(
    row: Answer, reference: str, hypothesis: str, chosen: Unit, words: Alignment, characters: Alignment
) -> Scored:
    return Scored(
        name=row["name"], condition=row["condition"], language=row.get("language", ""), domain=row.get("domain", ""),
        speaker=row.get("speaker", ""), seconds=row.get("seconds", 0.0), raw_reference=row["reference"],
        raw_hypothesis=row["hypothesis"], reference=reference, hypothesis=hypothesis, unit=chosen,
        words=words.counts, characters=characters.counts, alignment=words if chosen == "words" else characters,
        failed=row.get("failed", ""), cut=row.get("cut", False), utterance=row.get("utterance", row["name"]),
        written=row.get("written", row.get("language", "")),
    )  # fmt: skip


def speakers_or_utterances(rows: Sequence[Scored], *, least: int = MIN_CLUSTERS) -> tuple[Clusters, str]:
    """(the cluster of each row, what a cluster is): speakers, or utterances where there are too few."""
    speakers = [row.speaker for row in rows]
    enough = "" not in speakers and len(set(speakers)) >= least
    values = speakers if enough else [row.utterance for row in rows]
    names = {name: i for i, name in enumerate(dict.fromkeys(values))}
    return np.array([names[v] for v in values], np.int64), "speaker" if enough else "utterance"


class ErrorRate:
    """The pooled (micro) error rate in percent, each row in its own unit: errors over units of the reference."""

    name, title, best = "error_rate", "error rate", 0.0

    def signature(self) -> str:
        from importlib.metadata import version

        return f"jiwer {version('jiwer')}"

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        """Errors and units of the reference [answers, 2]."""
        return np.array([row.edits for row in rows], np.float64).reshape(-1, 2)

    def values(self, sums: Floats) -> Floats:
        lengths = np.where(sums[:, 1] > 0, sums[:, 1], np.nan)  # a draw without a reference has no rate
        found: Floats = 100 * sums[:, 0] / lengths
        return found


ERROR_RATE = ErrorRate()
