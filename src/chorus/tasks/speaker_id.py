"""speaker_id: who speaks, of the speakers of the data; the question lists none."""

from __future__ import annotations

from chorus.tasks.chosen import LabelTask

SPEAKER_ID = LabelTask(
    name="speaker_id",
    summary="who speaks",
    spellings=("speaker-identification", "sid"),
    question="Who is the speaker in the provided audio segment? Output only the numeric speaker ID (e.g., 1234).",
    columns=("speaker",),
)
