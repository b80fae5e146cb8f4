"""speaker_ver: whether two recordings (`path` and `audio_2`) are of one speaker; EER and minDCF by the odds of yes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.errors import DataError
from chorus.tasks.chosen import BY_ACCURACY, LabelTask
from chorus.tasks.detection import DetectionCost, EqualErrorRate

if TYPE_CHECKING:
    from chorus.tasks.protocol import Asked

YES, NO = "yes", "no"
SECOND, OTHER = "speaker_2", "audio_2"  # a manifest's columns


class SpeakerVer(LabelTask):
    """The task: the answer follows from both speakers, where the manifest names them."""

    def labels(self, row: Asked) -> tuple[str, ...]:
        if not row.get(OTHER).strip():
            raise DataError(
                f"{row}: task {self.name}: no second recording", f"give the column {OTHER} (--columns {OTHER}=NAME)"
            )
        return super().labels(row)

    def reference(self, row: Asked) -> str:
        given, first, second = super().reference(row), row.get("speaker"), row.get(SECOND)
        return given or ((YES if first == second else NO) if first and second else "")


SPEAKER_VER = SpeakerVer(
    name="speaker_ver",
    summary="whether two recordings are of one speaker",
    spellings=("speaker-verification", "sv"),
    question=(
        "Listen to the two audio segments. Do they belong to the same speaker? Answer 'yes' if they are the same "
        "speaker, or 'no' if they are different speakers."
    ),
    columns=("label",),
    fixed=(YES, NO),
    metrics=(
        BY_ACCURACY[0], EqualErrorRate("eer", "EER", YES, NO), DetectionCost("min_dcf", "minDCF", YES, NO),
        *BY_ACCURACY[1:],
    ),
)  # fmt: skip
