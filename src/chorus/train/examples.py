"""Rows as a training sees them: drawn, changed and batched by counters, so that a resumed run sees the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

import torch

from chorus.data import effects
from chorus.data.audio import RATE
from chorus.data.hub import decode
from chorus.data.utterance import Utterance
from chorus.errors import DataError
from chorus.lazy import lazy
from chorus.train.backbones.protocol import Backbone, Example
from chorus.train.config import Augment
from chorus.train.mixing import drawn

if TYPE_CHECKING:
    import numpy
    import numpy as np
    from numpy.random import Generator
    from numpy.typing import NDArray

    from chorus.data.audio import Audio
    from chorus.models.features import Features
    from chorus.train.rows import Stream
else:
    numpy = lazy("numpy")

MEGABATCH = 50  # batches within which rows are sorted by length
Draw = tuple[int, int]  # epoch, index


def stream(seed: int, epoch: int, index: int) -> Generator:
    """The random numbers of one row in one epoch."""
    generator: Generator = numpy.random.default_rng((seed, epoch, index))
    return generator


class TrainingSet(torch.utils.data.Dataset[Example]):
    """Examples by (epoch, index). With `skip_bad` a recording that cannot be decoded gives its place to the next."""

    def __init__(
        self, utterances: Sequence[Utterance], backbone: Backbone, augment: Augment, seed: int, *,
        skip_bad: Callable[[str], None] | None = None,
    ) -> None:  # fmt: skip
        self.utterances, self.backbone, self.augment, self.seed = utterances, backbone, augment, seed
        self.skip_bad = skip_bad  # is told what is passed over

    def __len__(self) -> int:
        return len(self.utterances)

    def __getitem__(self, draw: Draw) -> Example:
        epoch, index = draw
        for place in chain(range(index, len(self)), range(index)):
            rng = stream(self.seed, epoch, index)
            try:
                example = self.backbone.example(self.utterances[place], rng, self.augment)
            except DataError as error:  # a header that reads and a body that does not
                if self.skip_bad is None:
                    hint = "replace it, or leave such recordings out with --skip-bad"
                    row = self.utterances[place].row
                    # most name the file themselves, a cell of a dataset cannot
                    told = error.message if row.path and row.path in error.message else f"{row}: {error.message}"
                    raise DataError(told, hint) from None
                self.skip_bad(error.message)
                continue
            return replace(example, row=place, draw=int(rng.integers(2**31)))
        raise DataError("none of the recordings can be decoded", "chorus data check names what is wrong with each")


class StreamedSet(torch.utils.data.IterableDataset[Example]):
    """Examples of a streamed dataset, mixed by its buffer; what cannot be learnt is passed over."""

    def __init__(self, rows: Stream, backbone: Backbone, augment: Augment, seed: int, *, strip: bool = False) -> None:
        self.rows, self.backbone, self.augment, self.seed, self.strip = rows, backbone, augment, seed, strip
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.rows.set_epoch(epoch)

    def __iter__(self) -> Iterator[Example]:
        longest = self.backbone.longest_s
        for index, (read, value) in enumerate(self.rows):
            row = replace(read, text=self.backbone.limits.markers.without(read.text)) if self.strip else read
            if not row.text.strip() or any(True for _ in self.backbone.limits.problems([row])):
                continue
            try:
                audio = decode(value)
            except DataError:
                continue
            if longest and len(audio) > longest * RATE:
                continue
            cell = {"array": audio, "sampling_rate": RATE}
            utterance = Utterance(row, len(audio) / RATE, dataset=[{"audio": cell}], column="audio")
            rng = stream(self.seed, self.epoch, index)
            example = self.backbone.example(utterance, rng, self.augment)
            yield replace(example, row=index, draw=int(rng.integers(2**31)))


class EpochSampler(torch.utils.data.Sampler[Draw]):
    """Every row once an epoch, in an order that (seed, epoch) alone decide; batches of like lengths if asked.

    With `shares` each row as often as its share of an epoch says.
    """

    def __init__(
        self, lengths: Sequence[float], batch_size: int, seed: int, *, by_length: bool,
        shares: Sequence[float] | None = None,
    ) -> None:  # fmt: skip
        self.lengths, self.batch_size, self.seed, self.by_length = lengths, batch_size, seed, by_length
        self.shares = shares
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[Draw]:
        epoch = self.epoch
        rng = numpy.random.default_rng((self.seed, epoch))
        order = rng.permutation(len(self.lengths)) if self.shares is None else drawn(self.shares, rng)
        for index in self._grouped(order, rng) if self.by_length else order:
            yield epoch, int(index)

    def _grouped(self, order: NDArray[np.int64], rng: Generator) -> list[int]:
        size = MEGABATCH * self.batch_size
        batches: list[list[int]] = []
        for start in range(0, len(order), size):
            part = sorted(order[start : start + size], key=lambda i: (-self.lengths[i], i))
            batches += [part[i : i + self.batch_size] for i in range(0, len(part), self.batch_size)]
        short = [b for b in batches if len(b) < self.batch_size]  # one at most: the last
        whole = [b for b in batches if len(b) == self.batch_size]
        return [i for b in [*(whole[j] for j in rng.permutation(len(whole))), *short] for i in b]


def changed(audio: Audio, augment: Augment, rng: Generator) -> Audio:
    """The audio with the changes that were drawn for it."""
    if augment.speed:
        audio = effects.change_speed(audio, float(rng.uniform(*augment.speed)))
    if augment.shift_s:
        before, after = rng.integers(0, int(augment.shift_s * RATE) + 1, 2)
        audio = numpy.pad(audio, (int(before), int(after))).astype(numpy.float32)
    if augment.gain_db:
        audio = effects.change_gain(audio, float(rng.uniform(*augment.gain_db)))
    if augment.noise and rng.random() < augment.noise:
        audio = effects.add_noise(audio, float(rng.uniform(*augment.noise_snr_db)), rng)
    if augment.codec and rng.random() < augment.codec:
        audio = effects.through_codec(audio, effects.CODECS[int(rng.integers(len(effects.CODECS)))])
    return audio


def masked(features: Features, augment: Augment, rng: Generator) -> Features:
    """SpecAugment (Park et al. 2019) on [mels, columns]: bands of mels and of frames fall silent."""
    if not (augment.mask_features or augment.mask_times):
        return features
    features = features.copy()
    silence = features.min()  # zero would be loud: log-mel features of silence are negative
    mels, columns = features.shape
    for _ in range(augment.mask_features):
        width = int(rng.integers(0, augment.mask_feature_width + 1))
        low = int(rng.integers(0, max(1, mels - width)))
        features[low : low + width] = silence
    for _ in range(augment.mask_times):
        width = int(rng.integers(0, min(augment.mask_time_width, columns // 2) + 1))
        first = int(rng.integers(0, max(1, columns - width)))
        features[:, first : first + width] = silence
    return features
