"""emotion: what the speaker feels; the seven labels of MELD (Poria et al. 2019), unless a manifest has others."""

from __future__ import annotations

from chorus.tasks.chosen import BY_MACRO_F1, LabelTask

EMOTION = LabelTask(
    name="emotion",
    summary="what the speaker feels",
    spellings=("emotion-recognition", "ser"),
    question="What emotion is expressed in the spoken utterance? Choose from: {labels}. Output only the label.",
    columns=("emotion", "label"),
    fixed=("neutral", "joy", "sadness", "anger", "surprise", "fear", "disgust"),
    metrics=BY_MACRO_F1,
)
