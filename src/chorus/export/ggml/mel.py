"""Whisper's mel filters, made anew: whisper.cpp takes them from the file."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from chorus.export.ggml.layout import BINS

RATE, WINDOW = 16_000, 400
LINEAR_TO = 1000.0  # Hz; below it Slaney's scale is linear, 200/3 Hz a mel, above it a factor of 6.4 is 27 mels
STEP = 200.0 / 3


def mel_filters(count: int) -> NDArray[np.float32]:
    """[count, 201]: triangles on Slaney's mel scale from 0 to 8 kHz, each of area one.

    Slaney, Auditory Toolbox, 1998; as librosa.filters.mel and Whisper have them.
    """
    top = _mel(RATE / 2)
    edges = _hertz(np.linspace(0.0, top, count + 2))
    bins = np.arange(BINS) * RATE / WINDOW
    ramps = edges[:, None] - bins
    widths = np.diff(edges)
    rising, falling = -ramps[:-2] / widths[:-1, None], ramps[2:] / widths[1:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (edges[2:] - edges[:-2]))[:, None]).astype(np.float32)


def _mel(hertz: float) -> float:
    return LINEAR_TO / STEP + math.log(hertz / LINEAR_TO) * 27 / math.log(6.4)


def _hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = LINEAR_TO / STEP
    return np.where(mels < knee, mels * STEP, LINEAR_TO * np.exp((mels - knee) * np.log(6.4) / 27))
