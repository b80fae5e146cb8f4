"""vocalsound: which sound, other than speech, a person makes; the six of VocalSound (Gong et al. 2022)."""

from __future__ import annotations

from chorus.tasks.chosen import LabelTask

VOCALSOUND = LabelTask(
    name="vocalsound",
    summary="which sound a person makes",
    spellings=("vocal-sound",),
    question="Identify the human vocal sound in the audio. Choose from: {labels}. Output only the label.",
    columns=("label", "text"),
    fixed=("laughter", "sigh", "cough", "throat clearing", "sneeze", "sniff"),
)
