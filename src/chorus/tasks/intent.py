"""intent: what the speaker wants of a machine, such as SLURP's sixty (Bastianelli et al. 2020)."""

from __future__ import annotations

from chorus.tasks.chosen import LabelTask

INTENT = LabelTask(
    name="intent",
    summary="what the speaker wants",
    spellings=("intent-classification",),
    question="What is the user's intent from the spoken utterance? Choose from: {labels}. Output only the label.",
    columns=("intent", "label"),
)
