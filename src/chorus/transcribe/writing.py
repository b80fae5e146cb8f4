"""Transcripts as files: one a recording and format, each whole or not there."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus.checkpoints.writer import explained
from chorus.errors import OutputError
from chorus.export.output import appearing, new_file, write_bytes
from chorus.files import present, shown
from chorus.transcribe.formats import FORMATS, Subtitles
from chorus.transcribe.listening import Transcription
from chorus.transcribe.systems import folder_of


@dataclass(frozen=True)
class Writing:
    """Where transcripts go: `names` are the recordings' (`recordings.stems`); of `several` models each has a folder."""

    folder: Path
    names: Sequence[str]
    forms: Sequence[str]
    layout: Subtitles
    overwrite: bool = False
    several: bool = False

    def places(self, label: str, number: int) -> dict[str, Path]:
        """Format -> file of a recording."""
        return {form: self._of(label) / f"{self.names[number]}.{form}" for form in self.forms}

    def _of(self, label: str) -> Path:
        return self.folder / folder_of(label) if self.several else self.folder

    def check(self, label: str) -> None:
        """`OutputError` where a transcript would stand on something that is there, or cannot, before any is made."""
        if present(self.folder) and not self.folder.is_dir():
            raise OutputError(f"{shown(self.folder)}: no folder", "choose another one with -o")
        # all of them: hours of decoding must not end at a file that was there from the beginning
        for number in range(len(self.names)):
            for place in self.places(label, number).values():
                if present(place) and not self.overwrite:
                    raise OutputError(f"{shown(place)}: exists", "choose another -o, or pass --overwrite")
        with explained(self._of(label)):
            self._of(label).mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._of(label)):
                pass

    def write(self, label: str, number: int, heard: Transcription) -> Iterator[Path]:
        """Write a recording's files, and tell them."""
        places = self.places(label, number)
        # what is there under just this name is a transcript, whoever made it: the flag says that it may go
        with appearing(list(places.values()), lambda path: True, overwrite=self.overwrite) as drafts:
            for form, place in places.items():
                with new_file(drafts[place]) as file:
                    write_bytes(file, place, FORMATS[form](heard, self.layout).encode("utf-8", "replace"))
        yield from places.values()
