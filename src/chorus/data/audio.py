"""Audio files to mono float32 at one rate: libsndfile decodes (WAV, FLAC, MP3, Ogg Vorbis and Opus), soxr resamples."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.errors import DataError, MissingExtraError
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


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says."""

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
    try:
        file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else source)
    # TypeError: a file without a header (.raw), of which soundfile would have to be told the rate
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        if isinstance(source, Path) and not source.exists():
            raise DataError(f"{name}: no such audio file", "check the paths of the manifest") from None
        hint = "convert it to WAV, FLAC, MP3 or Ogg" if name.endswith((".m4a", ".aac", ".wma")) else "replace it"
        raise DataError(f"{name}: not readable as audio ({_reason(error)})", hint) from None
    try:
        with file:
            yield file
    except soundfile.LibsndfileError as error:
        raise DataError(f"{name}: damaged audio ({_reason(error)})", "replace it") from None


def _reason(error: Exception) -> str:
    return str(getattr(error, "error_string", error)).rstrip(".")


def info(path: Path | bytes) -> AudioInfo:
    """Rate, channels and frames, without decoding."""
    with opened(path) as file:
        return AudioInfo(file.samplerate, file.channels, file.frames)


def read_audio(
    source: Path | bytes, *, start_s: float | None = None, end_s: float | None = None, rate: int = RATE
) -> Audio:
    """The audio [samples] between two times, channels averaged, at `rate`.

    Raises `DataError` where the file is missing or damaged, or where `start_s` lies behind its end.
    """
    with opened(source) as file:
        first = round((start_s or 0.0) * file.samplerate)  # in frames of the file, before any resampling
        last = file.frames if end_s is None else min(file.frames, round(end_s * file.samplerate))
        if first >= last:
            raise DataError(f"{file.name}: no audio between {start_s or 0:g} and {end_s or 'its end'} s", "replace it")
        if first:
            file.seek(first)
        samples = file.read(last - first, dtype="float32", always_2d=True)
        given = file.samplerate
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)  # before resampling: half the work
    return resample(mono, given, rate)


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
