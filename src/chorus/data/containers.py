"""Audio in containers that libsndfile does not read (MP4, M4A, WebM, WMA, AMR ...): decoded by FFmpeg, through PyAV.

A file's first bytes decide which of FFmpeg's readers it is given to, and no other is tried: some of them are playlists,
which open whatever their lines name. FFmpeg gets the bytes and never the name. Of a film its sound alone is decoded.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.generic]  # [frames, channels]
else:
    np = lazy("numpy")

# what a container begins with, after some bytes -> the form as people call it, and the names of FFmpeg's readers
READERS = {
    (4, b"ftyp"): ("m4a", "mov"), (0, b"\x1a\x45\xdf\xa3"): ("webm", "matroska"),
    (0, b"\x30\x26\xb2\x75"): ("wma", "asf"), (0, b"#!AMR"): ("amr", "amr"), (0, b"\xff\xf1"): ("aac", "aac"),
    (0, b"\xff\xf9"): ("aac", "aac"), (0, b".RMF"): ("rm", "rm"), (0, b"MAC "): ("ape", "ape"),
    (0, b"wvpk"): ("wv", "wv"), (0, b"\x0b\x77"): ("ac3", "ac3"), (0, b"FLV"): ("flv", "flv"),
    (0, b"TTA1"): ("tta", "tta"), (8, b"AVI LIST"): ("avi", "avi"),
}  # fmt: skip
SUFFIXES = (
    ".m4a", ".mp4", ".m4b", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".wma", ".asf", ".aac", ".amr", ".ape", ".wv",
    ".ac3", ".flv", ".avi", ".tta",
)  # fmt: skip
KNOWN_BY = 64  # first bytes that tell a form
MOST_CHANNELS = 64
TELLING = ("mov", "matroska")  # readers whose headers tell a sound's length; others guess it from rates
SHORTER = 0.1  # of what is told, and a second: edit lists and paddings leave out as much of a whole file
FORMATS = {"float32": "fltp", "int16": "s16p"}  # numpy's name of a sample -> FFmpeg's, a plane a channel


class UnreadableError(ValueError):
    """Why there is no audio in a container."""


def form_of(head: bytes) -> str:
    """What people call the container that begins so; empty for none that is known."""
    return next((form for (place, magic), (form, _) in READERS.items() if head[place:].startswith(magic)), "")


class Container:
    """The sound of a container, with as much of `soundfile.SoundFile` as reading takes; at most `longest_s` of it.

    How long it is to a frame it does not say: a header tells that roughly, and only what is far from it is cut off.
    """

    format = "CONTAINER"
    subtype = "PCM_16"

    def __init__(self, source: Path | bytes, frames: int, longest_s: float) -> None:
        import av

        self.name: str | io.BytesIO = io.BytesIO(source) if isinstance(source, bytes) else str(source)
        self.frames, self._longest_s, self._closed = frames, longest_s, False
        self._file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        try:
            head = self._file.read(KNOWN_BY)
            self._file.seek(0)
            reader = next(names for (place, magic), (_, names) in READERS.items() if head[place:].startswith(magic))
            # the reader is named, as FFmpeg would try playlists too
            self._opened = av.open(self._file, format=reader, metadata_errors="replace")
            streams = self._opened.streams.audio
            # a stream of a kind that FFmpeg has no decoder of has no context, and so no rate
            if not streams or streams[0].codec_context is None:
                raise UnreadableError("no sound in it that can be decoded")
            self._stream = streams[0]
            self.samplerate, self.channels = int(self._stream.rate or 0), int(self._stream.channels or 0)
            if not 1 <= self.channels <= MOST_CHANNELS:
                raise UnreadableError(f"{self.channels} channels")
            self._told_s = self._length() if reader in TELLING else 0.0
        except av.FFmpegError as error:
            self._file.close()
            raise UnreadableError(error.strerror) from None
        except BaseException:
            self._file.close()
            raise
        self._planes: Iterator[Samples] | None = None
        self._held: Samples | None = None
        self._read = 0

    def _length(self) -> float:
        """Seconds of sound by the header; 0 where it does not tell, as what a browser records live."""
        import av

        if self._stream.duration and self._stream.time_base:
            return float(self._stream.duration * self._stream.time_base)
        # a film's length is that of its pictures too
        alone = len(self._opened.streams) == 1
        return (self._opened.duration or 0) / av.time_base if alone else 0.0

    def seekable(self) -> bool:
        return False

    def seek(self, frames: int) -> None:
        """Go on to a frame, from the beginning."""
        left = frames
        while left > 0 and len(block := self.read(min(left, self.samplerate))):
            left -= len(block)

    def read(self, count: int, dtype: str = "float32", always_2d: bool = True) -> Samples:
        """The next frames [frames, channels], as many as there are."""
        if self._planes is None:
            self._planes = self._decoded(dtype)
            self._held = np.empty((0, self.channels), dtype)
        assert self._held is not None
        parts, have = [self._held], len(self._held)
        while have < count and (plane := next(self._planes, None)) is not None:
            parts.append(plane)
            have += len(plane)
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        self._held = whole[count:]
        found: Samples = whole[:count]
        self._read += len(found)
        return found

    def _decoded(self, dtype: str) -> Iterator[Samples]:
        """Frames as FFmpeg gives them [frames, channels]."""
        import av

        layout = self._stream.layout.name
        same = av.AudioResampler(format=FORMATS[dtype], layout=layout, rate=self.samplerate)
        total = 0
        try:
            for frame in self._opened.decode(self._stream):
                for made in same.resample(frame):
                    total += made.samples
                    # here, where nothing is kept yet: hours of silence take few bytes
                    if total > self._longest_s * self.samplerate:
                        raise UnreadableError(f"more than {self._longest_s / 3600:g} h of sound")
                    yield made.to_ndarray().T
            for made in same.resample(None):  # what it holds back
                total += made.samples
                yield made.to_ndarray().T
        except av.FFmpegError as error:
            raise UnreadableError(error.strerror) from None
        # FFmpeg takes the end of a file for the end of its sound
        if total / self.samplerate < self._told_s * (1 - SHORTER) - 1:
            raise UnreadableError(f"it ends after {total / self.samplerate:.1f} of {self._told_s:.1f} s")

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._opened.close()
            self._file.close()

    def __enter__(self) -> Container:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
