"""A row of a manifest and how to get at its audio: of one recording, or of two with a pause between them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from chorus.data.audio import RATE, info, read_audio
from chorus.data.manifest import SECOND, Row
from chorus.errors import DataError
from chorus.identity import bytes_hash, file_hash
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy
    from datasets import Dataset

    from chorus.data.audio import Audio
else:
    numpy = lazy("numpy")

START, END = "start_2", "end_2"  # a manifest's columns: the cut of a pair's other recording
BETWEEN_S = 0.5  # of silence


@dataclass(frozen=True)
class Utterance:
    """A row and how to get at its audio: a file, or a cell of a dataset."""

    row: Row
    duration_s: float = 0.0
    dataset: Dataset | None = field(default=None, compare=False, repr=False)
    index: int = 0
    column: str = ""

    def audio(self) -> Audio:
        """Mono float32 at 16 kHz; `DataError` names the file where it cannot be read."""
        if self.dataset is not None:
            from chorus.data.hub import decode

            return decode(self.dataset[self.index][self.column])
        return sound_of(self.row)

    def key(self) -> str:
        """What its audio is, for the cache of features."""
        if self.dataset is not None:
            # datasets' hash of the table and of all that was done to it; private, and missing where rows are streamed
            known = getattr(self.dataset, "_fingerprint", None)
            return f"{known}:{self.index}" if known else bytes_hash(self.audio().tobytes())
        return sound_key(self.row)


def second_of(row: Row) -> Row | None:
    """The other recording of a pair as a row of its own; None where there is none."""
    path = row.get(SECOND).strip()
    if not path:
        return None
    try:
        start, end = (float(row.get(name)) if row.get(name) else None for name in (START, END))
    except ValueError:
        raise DataError(f"{row}: {START} or {END} is no number", "give seconds") from None
    return replace(row, path=path, start=start, end=end, duration=None, extra={})


def recordings_of(row: Row) -> list[Row]:
    """Each recording of a row as a row of its own: one, or the two of a pair."""
    other = second_of(row)
    return [row] if other is None else [replace(row, duration=None, extra={}), other]


def sound_of(row: Row) -> Audio:
    """Mono float32 at 16 kHz; of a pair both, with half a second of silence between them."""
    first = read_audio(row.audio, start_s=row.start, end_s=row.end)
    other = second_of(row)
    if other is None:
        return first
    second = read_audio(other.audio, start_s=other.start, end_s=other.end)
    pause = numpy.zeros(round(BETWEEN_S * RATE), numpy.float32)
    joined: Audio = numpy.concatenate([first, pause, second])
    return joined


def length_of(row: Row) -> float:
    """Seconds, as headers tell; nothing or less where a cut lies behind its file. `DataError` where one is no audio."""
    whole = info(row.audio).duration_s
    length = (whole if row.end is None else min(row.end, whole)) - (row.start or 0.0)
    other = second_of(row)
    if other is None or length <= 0:
        return length
    more = length_of(other)
    return length + BETWEEN_S + more if more > 0 else more


def fault_of(row: Row, task: str = "") -> tuple[Row, str]:
    """Of a row without a length the recording that is why, and what messages call it: of a pair's other one, whose."""
    try:
        first, *others = recordings_of(row)
    except DataError:  # a cut that is no number
        return row, str(row)
    if not others or not _heard(first):
        return first, str(row)
    return others[0], f"{others[0]} (second recording of {row}" + (f", task {task})" if task else ")")


def _heard(row: Row) -> bool:
    try:
        return length_of(row) > 0
    except DataError:
        return False


def sound_key(row: Row) -> str:
    """What a row's audio is, whatever its file is called: the file's hash, and the cut; of a pair, both."""
    other = second_of(row)
    own = f"{file_hash(row.audio)}:{row.start}:{row.end}"
    return own if other is None else f"{own}+{sound_key(other)}"
