"""Log-mel features by a model's own extractor, computed for the speech alone, and cached by content.

Whisper's extractor pads to thirty seconds before it transforms. Beyond the speech every column is the same, so that
only the columns of the speech and one of silence are computed and kept: a tenth of the work and of the disk.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from chorus.cache import Cache, cache_key
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy
    import torch
    from numpy.typing import NDArray
    from transformers import WhisperFeatureExtractor

    Samples = NDArray[numpy.float32]  # mono, at RATE
    Features = NDArray[numpy.float32]  # [mels, columns]
else:
    numpy, torch = lazy("numpy"), lazy("torch")

RATE = 16_000  # samples a second that every model here takes
FRAMES_PER_SECOND = 100  # of log-mel features, in every model here
MARGIN = 3  # columns that the last samples still reach (half a window), and one of pure silence


class LogMel:
    """A `WhisperFeatureExtractor` as a function from audio to [mels, columns], the last column being silence."""

    def __init__(self, extractor: WhisperFeatureExtractor, cache: Cache | None = None) -> None:
        self.extractor, self.cache = extractor, cache
        self.hop = int(extractor.hop_length)
        settings = extractor.to_dict()
        settings.pop("mel_filters", None)  # an array that the other settings decide
        self.settings = json.dumps(settings, sort_keys=True, default=str)
        self.columns = int(extractor.n_samples) // self.hop  # of the whole window

    def __call__(self, audio: Samples) -> Features:
        """Features [mels, columns of the speech + silence]; longer audio than the window is cut."""
        audio = audio[: self.columns * self.hop]
        columns = min(self.columns, -(-len(audio) // self.hop) + MARGIN)
        # the transform's mirror at the end must see silence, but for a full window, where it sees the speech
        padded = (columns + MARGIN) * self.hop if columns < self.columns else int(self.extractor.n_samples)
        features = self.extractor(audio, sampling_rate=RATE, return_tensors="np", max_length=padded)["input_features"]
        found: Features = numpy.ascontiguousarray(features[0][:, :columns], dtype=numpy.float32)
        return found

    def cached(self, key: str, load: Callable[[], Samples]) -> Features:
        """The features kept under `key`, else those of what `load()` returns."""
        if self.cache is None or not self.cache.limit:
            return self(load())
        name = cache_key(features=self.settings, audio=key)
        found = self.cache.get(name)
        if found is None:
            features = self(load())
            self.cache.put(name, {"features": torch.from_numpy(features)})
            return features
        array: Features = found["features"].numpy()
        return array

    def window(self, features: Sequence[Features], columns: int, zeros: Sequence[bool] = ()) -> torch.Tensor:
        """One tensor [batch, mels, columns]: silence after the speech, or zeros where asked."""
        batch = numpy.empty((len(features), features[0].shape[0], columns), numpy.float32)
        for i, one in enumerate(features):
            n = min(columns, one.shape[1])
            batch[i, :, :n] = one[:, :n]
            batch[i, :, n:] = 0.0 if i < len(zeros) and zeros[i] else one[:, -1:]
        return torch.from_numpy(batch)
