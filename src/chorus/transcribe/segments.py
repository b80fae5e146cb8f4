"""Long audio in pieces: cut at pauses by voice activity, as WhisperX does, and joined to what a model takes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.data.audio import RATE
from chorus.errors import MissingExtraError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np

    from chorus.data.audio import Audio
else:
    np = lazy("numpy")

STRETCH_S = 1800.0  # of audio that a long form is given at once: its features take ten times the room of the samples
LOOK_BACK_S = 60.0  # before the end of a stretch a quiet place is looked for
QUIET_S = 0.2  # how long such a place is
MIN_SILENCE_MS = 500
PAD_MS = 200


def speech(audio: Audio) -> list[tuple[int, int]]:
    """Where speech is [samples], by the Silero detector that comes with faster-whisper."""
    try:
        from faster_whisper.vad import VadOptions, get_speech_timestamps
    except ImportError:
        raise MissingExtraError("evaluate", "cutting audio by voice activity") from None
    options = VadOptions(min_silence_duration_ms=MIN_SILENCE_MS, speech_pad_ms=PAD_MS)
    return [(int(s["start"]), int(s["end"])) for s in get_speech_timestamps(audio, options)]


def joined(spans: list[tuple[int, int]], longest: int) -> list[tuple[int, int]]:
    """Spans of speech joined while they fit into `longest` samples with what lies between; longer ones are cut.

    >>> joined([(0, 10), (12, 20), (30, 75)], 25)
    [(0, 20), (30, 55), (55, 75)]
    """
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and end - found[-1][0] <= longest:
            found[-1] = found[-1][0], end
            continue
        while end - start > longest:
            found.append((start, start + longest))
            start += longest
        found.append((start, end))
    return found


def stretches(audio: Audio, longest_s: float = STRETCH_S) -> list[tuple[int, int]]:
    """The whole audio in spans of at most so many seconds, each cut where it is quietest in the last minute."""
    longest, step, found, start = int(longest_s * RATE), int(QUIET_S * RATE), [], 0
    while len(audio) - start > longest:
        first = start + max(step, longest - int(LOOK_BACK_S * RATE))
        power = [float(np.square(audio[i : i + step]).sum()) for i in range(first, start + longest - step + 1, step)]
        end = first + int(np.argmin(power)) * step + step // 2
        found.append((start, end))
        start = end
    return [*found, (start, len(audio))]


def pieces(audio: Audio, longest_s: float) -> list[tuple[int, int]]:
    """The audio's speech in spans [samples] that a model takes at once; none where nobody speaks."""
    return joined(speech(audio), int(longest_s * RATE))
