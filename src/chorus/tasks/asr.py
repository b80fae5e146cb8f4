"""asr: what was said, in the language that it was said in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.tasks.scored import ERROR_RATE, score_texts, speakers_or_utterances

if TYPE_CHECKING:
    from chorus.tasks.counts import Unit
    from chorus.tasks.protocol import Asked, Metric
    from chorus.tasks.scored import Answer, Clusters, Scored


class Asr:
    """The task (see protocol.py)."""

    name = "asr"
    summary = "what was said, as text"
    spellings = ("transcribe", "automatic-speech-recognition")

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return (ERROR_RATE,)

    def instruction(self, row: Asked) -> str:
        return "Only output the transcription of this audio. Do not include any explanations, summaries, or questions."

    def reference(self, row: Asked) -> str:
        return row.text

    def written(self, row: Asked) -> str:
        return row.language

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Unit | None = None) -> list[Scored]:
        return score_texts(rows, normaliser, unit)

    def clusters(self, rows: Sequence[Scored]) -> tuple[Clusters, str]:
        return speakers_or_utterances(rows)


ASR = Asr()
