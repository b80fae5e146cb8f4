"""langid: which language is spoken, by its English name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.models.languages import language_name
from chorus.tasks.chosen import LabelTask

if TYPE_CHECKING:
    from chorus.tasks.protocol import Asked


class Langid(LabelTask):
    """The task: manifests have codes, people and models names."""

    def reference(self, row: Asked) -> str:
        return language_name(super().reference(row))


LANGID = Langid(
    name="langid",
    summary="which language is spoken",
    spellings=("language-identification", "lid"),
    question="What language is being spoken in the audio? Choose from: {labels}. Output only the label.",
    columns=("language",),
)
