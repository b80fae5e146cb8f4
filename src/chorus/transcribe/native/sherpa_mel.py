"""The log-mel spectrum that sherpa-onnx makes, which is not quite Whisper's own.

Facts: csukuangfj/kaldi-native-fbank (whisper-feature.cc, feature-window.cc) and sherpa-onnx/csrc/math.cc. Its windows
stand 5 ms later than Whisper's, both ends are mirrored, and behind the sound come ten seconds of zeros, which are no
silence in this scale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from chorus.export.ggml.mel import mel_filters

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chorus.data.audio import Audio

WINDOW, HOP = 400, 160  # samples at 16 kHz
LEAST = 1e-10  # of an energy
FRAMES, KEPT, TAIL = 3000, 50, 1000  # of half a minute; of these never sound; of zeros behind a sound


def log_mel(audio: Audio, bins: int) -> NDArray[np.float32]:
    """[bins, frames] of at most half a minute of audio at 16 kHz, the zeros behind it among them."""
    found = normalised(energies(audio, bins)[: FRAMES - KEPT])
    padded = np.zeros((min(len(found) + TAIL, FRAMES), bins), np.float32)
    padded[: len(found)] = found
    return np.ascontiguousarray(padded.T)


def energies(audio: Audio, bins: int) -> NDArray[np.float32]:
    """[frames, bins]: as many frames as hops, to the nearest."""
    count = (len(audio) + HOP // 2) // HOP
    if not count:
        return np.zeros((0, bins), np.float32)
    places = np.arange(count)[:, None] * HOP + (HOP - WINDOW) // 2 + np.arange(WINDOW)
    # mirrored with the last sample twice, as often as it takes
    places %= 2 * len(audio)
    places = np.where(places < len(audio), places, 2 * len(audio) - 1 - places)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    filters, found = mel_filters(bins).T, np.empty((count, bins), np.float32)
    for start in range(0, count, FRAMES):  # of an hour all windows would be a gigabyte
        spectrum = np.fft.rfft(np.asarray(audio, np.float64)[places[start : start + FRAMES]] * hann)
        found[start : start + FRAMES] = (spectrum.real**2 + spectrum.imag**2) @ filters
    return found


def normalised(found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Energies in Whisper's scale, the loudest of this very sound being its top."""
    if not found.size:
        return found
    logs = np.log10(np.maximum(found, np.float32(LEAST)))
    scaled: NDArray[np.float32] = (np.maximum(logs, logs.max() - 8) + 4) / 4
    return scaled
