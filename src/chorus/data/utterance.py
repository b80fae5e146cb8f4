"""A row of a manifest and how to get at its audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chorus.data.audio import read_audio
from chorus.data.manifest import Row
from chorus.identity import bytes_hash, file_hash

if TYPE_CHECKING:
    from datasets import Dataset

    from chorus.data.audio import Audio


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
        return read_audio(self.row.audio, start_s=self.row.start, end_s=self.row.end)

    def key(self) -> str:
        """What its audio is, for the cache of features."""
        if self.dataset is not None:
            # datasets' hash of the table and of all that was done to it; private, and missing where rows are streamed
            known = getattr(self.dataset, "_fingerprint", None)
            return f"{known}:{self.index}" if known else bytes_hash(self.audio().tobytes())
        return sound_key(self.row)


def sound_key(row: Row) -> str:
    """What a row's audio is, whatever its file is called: the file's hash, and the cut."""
    return f"{file_hash(row.audio)}:{row.start}:{row.end}"
