"""speech_qa: a question about what is said, with choices (answered by a letter) or without (answered by a text)."""

from __future__ import annotations

from string import ascii_uppercase
from typing import TYPE_CHECKING

from chorus.errors import DataError
from chorus.tasks.answers import METRICS, InWords
from chorus.tasks.chosen import CHOICES
from chorus.tasks.labels import choices_of

if TYPE_CHECKING:
    from chorus.tasks.protocol import Asked

QUESTION = "question"


class SpeechQa(InWords):
    """The task. An answer may be given by its letter or in words; sub-tasks are the manifest's domains."""

    def labels(self, row: Asked) -> tuple[str, ...]:
        offered = choices_of(row.get(CHOICES), row, self.name)
        if len(offered) > len(ascii_uppercase):
            raise DataError(f"{row}: task {self.name}: {len(offered)} choices, and 26 letters", "offer fewer")
        return tuple(ascii_uppercase[: len(offered)])

    def instruction(self, row: Asked) -> str:
        asked = row.get(QUESTION).strip()
        if not asked:
            raise DataError(f"{row}: task {self.name}: no question", f"give the column {QUESTION}")
        offered = choices_of(row.get(CHOICES), row, self.name)
        if not offered:
            return f"{asked} Output only the answer."
        lines = [f"{letter}. {text}" for letter, text in zip(ascii_uppercase, offered, strict=False)]
        return "\n".join([asked, "Choices:", *lines, "Answer with one uppercase letter only."])

    def reference(self, row: Asked) -> str:
        given, offered = super().reference(row), choices_of(row.get(CHOICES), row, self.name)
        # a letter goes before a choice of that name: letters are what is asked for
        return ascii_uppercase[offered.index(given)] if given in offered and given not in self.labels(row) else given


SPEECH_QA = SpeechQa(
    name="speech_qa",
    summary="what is asked about a recording",
    spellings=("question-answering", "sqa"),
    question="",
    columns=(),
    metrics=METRICS,
)
