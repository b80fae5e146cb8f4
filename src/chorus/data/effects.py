"""What happens to speech on its way: speed, noise, telephone band, reverberation, codecs, loudness.

Pure functions from audio [samples] float32 to audio; the random ones draw from a numpy generator. Used to make
training data sturdier, synthetic domains different, and evaluation conditions harder.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

from chorus.data.audio import RATE, resample
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray
    from scipy import signal

    from chorus.data.audio import Audio
else:
    np = lazy("numpy")
    signal = lazy("scipy.signal")

TELEPHONE_BAND_HZ = (300.0, 3400.0)
TELEPHONE_RATE = 8000
MU = 255.0
Codec = Literal["opus", "mp3", "vorbis", "mulaw"]
CODECS: tuple[Codec, ...] = ("opus", "mp3", "vorbis", "mulaw")
Colour = Literal["white", "pink"]


def change_speed(audio: Audio, factor: float, rate: int = RATE) -> Audio:
    """Faster and higher with a factor above one, as a tape would be."""
    return audio if factor == 1.0 else resample(audio, rate * factor, rate)


def amplitude(decibels: float) -> float:
    """The factor that so many decibels are."""
    return float(10 ** (decibels / 20))


def change_gain(audio: Audio, gain_db: float) -> Audio:
    """Louder or softer."""
    return (audio * amplitude(gain_db)).astype(np.float32)


def add_noise(audio: Audio, snr_db: float, rng: Generator, colour: Colour = "white") -> Audio:
    """Noise so many decibels below the speech (mean power over the whole utterance)."""
    noise = rng.standard_normal(len(audio)).astype(np.float32)
    if colour == "pink" and len(audio) > 1:
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(1, np.arange(len(spectrum))))  # pink: power falls as 1 / f
        noise = np.fft.irfft(spectrum, len(audio)).astype(np.float32)
    power = float(np.mean(np.square(audio, dtype=np.float64)))  # float32 loses quiet samples of a long sum
    own = float(np.mean(np.square(noise, dtype=np.float64)))
    if power == 0 or own == 0:  # silence has no signal-to-noise ratio
        return audio
    mixed: NDArray[np.float64] = audio + noise * np.sqrt(power / own) * amplitude(-snr_db)
    return mixed.astype(np.float32)


def telephone(audio: Audio, rate: int = RATE) -> Audio:
    """A narrow-band line: 300 to 3400 Hz, 8 kHz, mu-law."""
    # in second-order sections: as one polynomial a band-pass of this order is not stable in floating point
    band = signal.butter(6, TELEPHONE_BAND_HZ, btype="bandpass", fs=rate, output="sos")
    narrow = resample(signal.sosfilt(band, audio).astype(np.float32), rate, TELEPHONE_RATE)
    return _fit(resample(mu_law(narrow), TELEPHONE_RATE, rate), len(audio))


def mu_law(audio: Audio) -> Audio:
    """Eight-bit companding there and back (ITU-T G.711's curve, as a formula)."""
    clipped = np.clip(audio, -1, 1)
    companded = np.sign(clipped) * np.log1p(MU * np.abs(clipped)) / np.log1p(MU)
    steps = np.rint(companded * 127) / 127  # eight bits: a sign and 127 steps
    expanded: Audio = np.sign(steps) * np.expm1(np.abs(steps) * np.log1p(MU)) / MU
    return expanded.astype(np.float32)


def reverberate(audio: Audio, rt60_s: float, rng: Generator, *, wet: float = 0.5, rate: int = RATE) -> Audio:
    """A room that takes `rt60_s` to fall silent (60 dB): noise with an exponential decay, mixed to `wet`."""
    length = max(1, int(rt60_s * rate))
    decay = np.exp(-np.log(1000) * np.arange(length) / length)  # 60 dB are a factor of 1000 in amplitude
    response = rng.standard_normal(length) * decay
    # of unit energy: a longer room is not a louder one
    response /= np.sqrt(np.sum(response**2))
    tail: NDArray[np.float64] = signal.fftconvolve(audio, response)[: len(audio)]
    return ((1 - wet) * audio + wet * tail).astype(np.float32)


def through_codec(audio: Audio, codec: Codec, rate: int = RATE) -> Audio:
    """Encoded and decoded again, at the encoder's lowest sensible quality; same length."""
    if codec == "mulaw":
        return _fit(resample(mu_law(resample(audio, rate, TELEPHONE_RATE)), TELEPHONE_RATE, rate), len(audio))
    import soundfile

    container, subtype = {"opus": ("OGG", "OPUS"), "vorbis": ("OGG", "VORBIS"), "mp3": ("MP3", "MPEG_LAYER_III")}[codec]
    buffer = io.BytesIO()
    buffer.name = f"utterance.{codec}"
    soundfile.write(buffer, np.clip(audio, -1, 1), rate, format=container, subtype=subtype)
    buffer.seek(0)
    decoded, got = soundfile.read(buffer, dtype="float32")
    return _fit(resample(decoded, got, rate), len(audio))


def tilt(audio: Audio, decibels_per_octave: float, rate: int = RATE) -> Audio:
    """A brighter (positive) or duller voice: a slope over the spectrum around 1 kHz."""
    spectrum = np.fft.rfft(audio)
    # 60 Hz is where voices begin; the frequency 0 has no logarithm
    octaves = np.log2(np.maximum(np.fft.rfftfreq(len(audio), 1 / rate), 60.0) / 1000)
    factors: NDArray[np.float64] = 10 ** (decibels_per_octave * octaves / 20)
    return np.fft.irfft(spectrum * factors, len(audio)).astype(np.float32)


def _fit(audio: Audio, length: int) -> Audio:
    if len(audio) >= length:
        return audio[:length]
    return np.pad(audio, (0, length - len(audio))).astype(np.float32)
