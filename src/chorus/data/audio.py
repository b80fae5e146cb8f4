"""Audio files to mono float32 at one rate: libsndfile decodes (WAV, FLAC, MP3, Ogg Vorbis and Opus), soxr resamples.

What else there is (MP4, WebM ...) FFmpeg decodes, where PyAV is installed: containers.py.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.containers import KNOWN_BY, Container, UnreadableError, form_of
from chorus.errors import DataError, MissingExtraError
from chorus.files import LFS, present, regular
from chorus.lazy import lazy
from chorus.models.features import RATE as RATE

if TYPE_CHECKING:
    import numpy as np
    import soundfile
    from numpy.typing import NDArray

    Audio = NDArray[np.float32]
else:
    np = lazy("numpy")

SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aiff", ".au", ".w64")
NOT_TOLD = 1 << 62  # frames: what libsndfile says of a FLAC without a sample count is more than this
BLOCK = 1 << 20  # samples of all channels that are decoded at once
LOWEST_HZ, HIGHEST_HZ = 1_000, 1_000_000  # sample rates; a header's 1 Hz would make hours of a kilobyte
LONGEST_S = 7200.0  # seconds that are read as one recording
LEFT = r"(?m)^data : (\d+) \(should be (\d+)\)"  # bytes by a WAV's header, and what is there
STREAMED = 0x7FFF_0000  # bytes: what writes to a pipe puts the largest number there, and more is not told by it
PAGE = 65_307  # bytes of the longest page of an Ogg: a header of 27, 255 lengths, and as many parcels of 255
TAGGED = 2048  # bytes of an MP3's first frame that hold its length, after the ID3 tag
# what a decoder raises where a file is not what it says: libsndfile's errors are RuntimeErrors
DECODING = (RuntimeError, OSError, ValueError, TypeError, OverflowError, MemoryError, AssertionError)


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says; `frames` are counted where it does not."""

    rate: int
    channels: int
    frames: int

    @property
    def duration_s(self) -> float:
        return self.frames / self.rate


@contextmanager
def opened(source: Path | bytes) -> Iterator[soundfile.SoundFile]:
    """An open `soundfile.SoundFile`; `DataError` names the file and the reason where there is none."""
    try:
        import soundfile
    except (ImportError, OSError):  # OSError: the wheel of another platform, without libsndfile
        raise MissingExtraError("audio", "reading audio") from None
    name = "audio in a dataset" if isinstance(source, bytes) else str(source)
    if isinstance(source, Path):
        if not present(source):
            raise DataError(f"{name}: no such audio file", "check the paths of the manifest")
        regular(source, raises=DataError, what="recording")  # a pipe would be waited for, a device has no end
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    # TypeError: a file without a header (.raw), of which soundfile would have to be told the rate
    except DECODING as error:
        file = _container(source, name)
        if file is None:
            form, remedy = _form(source)
            raise DataError(f"{name}: not readable as audio ({form or _reason(error)})", remedy) from None
    if not LOWEST_HZ <= file.samplerate <= HIGHEST_HZ:
        file.close()
        raise DataError(
            f"{name}: a sample rate of {file.samplerate:,} Hz ({LOWEST_HZ:,} to {HIGHEST_HZ:,} are read)",
            "write the file anew with the rate that it was recorded at",
        )
    try:
        with file:
            if file.format == "OGG":
                _to_its_end(source)
            yield file
    except DECODING as error:
        raise DataError(f"{name}: damaged audio ({_reason(error)})", "replace it") from None


def _container(source: Path | bytes, name: str) -> Container | None:
    """The sound of a container; None where it is none, or where there is no PyAV to read it."""
    form = ""
    try:
        form = form_of(source[:KNOWN_BY] if isinstance(source, bytes) else _head(source))
        return Container(source, NOT_TOLD, LONGEST_S) if form else None
    except (ImportError, OSError):
        return None
    except UnreadableError as error:
        raise DataError(
            f"{name}: not readable as audio ({form}: {error})", "replace it, or convert it to FLAC"
        ) from None


def _to_its_end(source: Path | bytes) -> None:
    """`ValueError` for an Ogg that ends within a page: libsndfile takes what is there for the whole."""
    if isinstance(source, bytes):
        tail = source[-PAGE:]
    else:
        with source.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - PAGE))
            tail = file.read(PAGE)
    last = tail[max(0, tail.rfind(b"OggS\0")) :]
    count = last[26] if last.startswith(b"OggS\0") and len(last) > 26 else 0  # parcels, and a byte each for its length
    if not count or len(last) < 27 + count + sum(last[27 : 27 + count]):
        raise ValueError("it ends within a page: the rest of the file is missing")


def _reason(error: Exception) -> str:
    told = str(getattr(error, "error_string", error)) or type(error).__name__
    return told.splitlines()[0].rstrip(".")


def _form(source: Path | bytes) -> tuple[str, str]:
    """What a file is that libsndfile does not read, where that can be seen, and what to do about it.

    Lists of many files show the first without the second, and so the first says it in short.
    """
    try:
        head = source[:KNOWN_BY] if isinstance(source, bytes) else _head(source)
    except OSError:
        return "", "replace it"
    if not head:
        return "an empty file", "replace it"
    if head.startswith(LFS):
        return "a Git LFS pointer: git lfs pull", "fetch it with `git lfs pull`"
    if head.lstrip().lower().startswith((b"<html", b"<!doctype html")):
        return "a web page", "download it again"
    found = form_of(head)
    if isinstance(source, bytes):
        return (f"{found}, to be converted", "convert it to FLAC") if found else ("", "replace it")
    if source.suffix == ".raw" and not found:
        return (
            "raw samples, to be converted by ffmpeg",
            f"say what it holds: ffmpeg -f s16le -ar RATE -ac 1 -i {source.name} {source.stem}.flac",
        )
    named = source.suffix.lower()
    if not found and named in (".m4a", ".mp4", ".aac", ".wma", ".webm", ".mkv", ".amr", ".3gp"):
        found = named[1:]
    if not found:
        return "", "replace it"
    return f"{found}, to be converted by ffmpeg", f"convert it: ffmpeg -i {source.name} {source.stem}.flac"


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(KNOWN_BY)


def info(source: Path | bytes) -> AudioInfo:
    """Rate, channels and frames, without decoding where the header tells them."""
    with opened(source) as file:
        told = told_frames(file)
        frames = sum(len(block) for block in blocks(file)) if told is None else told
        return AudioInfo(file.samplerate, file.channels, frames)


def told_frames(file: soundfile.SoundFile) -> int | None:
    """The frames that a file says it has; None where only decoding tells."""
    if file.frames >= NOT_TOLD or (file.format == "MP3" and not _counted(file.name)):
        return None
    # libsndfile takes what is left of a WAV for the whole
    short = re.search(LEFT, file.extra_info) if file.format in ("WAV", "WAVEX") else None
    told, left = map(int, short.groups()) if short else (0, 0)
    return int(file.frames) * told // left if left < told < STREAMED else int(file.frames)


def _counted(source: str | Path | io.BytesIO) -> bool:
    """Whether an MP3 tells its length in a first frame of its own; else libsndfile guesses it from a bit rate.

    The guess is two or three times too long where the rate varies and the first frames are silent.
    """
    with io.BytesIO(source.getbuffer()) if isinstance(source, io.BytesIO) else open(source, "rb") as file:
        head = file.read(10)
        size = 0
        if head.startswith(b"ID3"):  # four bytes of seven bits each
            size = 10 + sum(byte << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
        file.seek(size)
        frame = file.read(TAGGED)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def blocks(
    file: soundfile.SoundFile, first: int = 0, last: int | None = None, dtype: str = "float32"
) -> Iterator[NDArray[np.generic]]:
    """The frames from `first` to `last`, or to the end, in pieces [frames, channels] that take little memory.

    `ValueError`, which `opened` tells as damaged audio, where there are fewer than the file itself says.
    """
    told = told_frames(file)
    if first:
        file.seek(first)
    # soundfile seeks after every read, which fails in a file whose length is not told
    file.seekable = lambda: False
    size, at, end = max(1, BLOCK // file.channels), first, NOT_TOLD if last is None else last
    while at < end:
        block = file.read(min(size, end - at), dtype=dtype, always_2d=True)
        if not len(block):
            break
        at += len(block)
        yield block
    # headers of MP3 overstate by a frame or two
    if told is not None and at < min(end, told) - file.samplerate // 10:
        raise ValueError(f"it ends after {at:,} of {told:,} samples")


def mono(block: NDArray[np.generic]) -> Audio:
    """Channels averaged [frames]: what models hear, and so what is measured."""
    channels = block.shape[1]
    mixed: Audio = block[:, 0].astype(np.float32, copy=channels > 1)
    for channel in range(1, channels):  # numpy's mean over so short an axis takes five times as long
        np.add(mixed, block[:, channel], out=mixed)
    if channels > 1:
        mixed /= np.float32(channels)
    return mixed


def span(file: soundfile.SoundFile, start_s: float | None, end_s: float | None) -> tuple[int, int | None]:
    """The first frame and the one after the last, in frames of the file; None where only decoding tells."""
    first = round((start_s or 0.0) * file.samplerate)
    told = told_frames(file)
    last = told if end_s is None else min(told or NOT_TOLD, round(end_s * file.samplerate))
    return first, last


def read_audio(
    source: Path | bytes, *, start_s: float | None = None, end_s: float | None = None, rate: int = RATE
) -> Audio:
    """The audio [samples] between two times, channels averaged, at `rate`.

    Raises `DataError` where the file is missing or damaged, where `start_s` lies behind its end, and for more than
    `LONGEST_S` at once.
    """
    with opened(source) as file:
        name, given = str(file.name) if isinstance(source, Path) else "audio in a dataset", file.samplerate
        first, last = span(file, start_s, end_s)
        if last is not None and (last - first) / given > LONGEST_S:
            raise _too_long(name)  # before hours of it are decoded
        decoded = blocks(file, first, last) if last is None or last > first else ()
        made = list(_resampled(_heard(name, decoded, given), given, rate))
    if not sum(map(len, made)):
        raise DataError(f"{name}: no audio between {start_s or 0:g} and {end_s or 'its end'} s", "replace it")
    return made[0] if len(made) == 1 else np.concatenate(made)


def _too_long(name: str) -> DataError:
    return DataError(
        f"{name}: more than {LONGEST_S / 3600:g} h at once", "cut it into rows by the columns start and end"
    )


def _heard(name: str, decoded: Iterable[NDArray[np.generic]], rate: int) -> Iterator[Audio]:
    """The mix of each block, as long as there are not too many and all are numbers."""
    seconds = 0.0
    for block in decoded:
        seconds += len(block) / rate
        if seconds > LONGEST_S:
            raise _too_long(name)
        mixed = mono(block)
        if not np.isfinite(mixed).all():
            raise DataError(f"{name}: samples that are no finite numbers", "replace it")
        yield mixed


def _resampled(pieces: Iterable[Audio], given: int, wanted: int) -> Iterator[Audio]:
    """Pieces at another rate: the same samples as `resample` makes of the whole."""
    if given == wanted:
        yield from map(np.ascontiguousarray, pieces)
        return
    import soxr

    stream = soxr.ResampleStream(given, wanted, 1, dtype="float32")
    for piece in pieces:
        yield stream.resample_chunk(np.ascontiguousarray(piece))
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def resample(audio: Audio, given: float, wanted: float) -> Audio:
    """Another rate, by soxr's high quality."""
    if given == wanted:
        return np.ascontiguousarray(audio)
    # not at the top: most corpora are at 16 kHz already, and reading them needs no resampler
    import soxr

    made: Audio = soxr.resample(audio, given, wanted).astype(np.float32)
    return made


def write_flac(path: Path, audio: Audio, rate: int = RATE) -> None:
    """16-bit FLAC; values beyond full scale are cut."""
    import soundfile

    path.parent.mkdir(parents=True, exist_ok=True)
    integers = np.clip(np.rint(audio * 32767), -32768, 32767).astype(np.int16)  # a cast alone would wrap around
    soundfile.write(path, integers, rate, format="FLAC", subtype="PCM_16")
