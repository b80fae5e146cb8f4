"""kws: which of some words is said, such as the 35 of Speech Commands (Warden 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.tasks.chosen import BY_MACRO_F1, LabelTask

if TYPE_CHECKING:
    from chorus.tasks.protocol import Asked


class Kws(LabelTask):
    """The task: the labels are words of the language that is spoken."""

    def written(self, row: Asked) -> str:
        return row.language


KWS = Kws(
    name="kws",
    summary="which word is said",
    spellings=("keyword-spotting", "keyword"),
    question="What word is spoken in the audio? Choose from: {labels}. Output only the word.",
    columns=("keyword", "label", "text"),
    metrics=BY_MACRO_F1,
)
