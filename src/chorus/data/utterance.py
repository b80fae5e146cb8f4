"""A row of a manifest and how to get at its audio."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chorus.data.audio import read_audio
from chorus.data.features import audio_hash, content_key
from chorus.data.manifest import Row

if TYPE_CHECKING:
    from chorus.data.audio import Audio


@dataclass(frozen=True)
class Utterance:
    """A row and how to get at its audio: a file, or a cell of a dataset."""

    row: Row
    duration_s: float = 0.0
    dataset: Any = field(default=None, compare=False, repr=False)
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
            known = getattr(self.dataset, "_fingerprint", None)
            return f"{known}:{self.index}" if known else audio_hash(self.audio())
        return content_key(self.row.audio, self.row.start, self.row.end)
