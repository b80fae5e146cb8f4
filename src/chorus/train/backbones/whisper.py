"""Whisper of any size: languages and tasks by row, targets with and without timestamps, windows under 30 s."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.batches import as_taken
from chorus.models.features import FRAMES_PER_SECOND, MARGIN, RATE
from chorus.models.finite import finite_alone
from chorus.models.kind import Kind
from chorus.models.label_scores import odds_of_heard, sums_of, tree_of
from chorus.models.languages import known_language, unspaced
from chorus.models.loading import load_parts
from chorus.models.whisper import PREFIX_TOKENS, GenerateSettings, LoadedWhisper, shorter_window, task_token
from chorus.train.asked import task_of
from chorus.train.backbones.protocol import ROWS, Example
from chorus.train.backbones.shared import (
    cache_of,
    evaluating,
    load_dtype,
    origin_of,
    pad_labels,
    row_numbers,
)
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed, masked

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch

SECONDS_PER_TIMESTAMP = 0.02


class WhisperBackbone:
    """The backbone (see protocol.py)."""

    default_roles: tuple[str, ...] = ("encoder", "decoder", "cross_attention")
    default_save_modules: tuple[str, ...] = ()

    def __init__(self, kind: Kind, config: TrainConfig, device: str, texts: Sequence[str]) -> None:
        self.kind = kind
        self.config = config
        self.parts = load_parts(kind, origin_of(config), load_dtype(config, device))
        self.model, self.tokenizer = self.parts.model, self.parts.tokenizer
        self.whisper = LoadedWhisper(self.parts, cache_of(config))
        self.features, self.limits, self.token = self.whisper.features, self.whisper.limits, self.whisper.token
        self.windows = sorted({min(float(s), self.whisper.longest_s) for s in config.train.window_s})
        self.longest_s: float | None = self.windows[-1]

    def warnings(self) -> list[str]:
        share = self.config.data.timestamps
        if share not in (0.0, 1.0):
            return []
        kind = "without" if share == 0 else "with"
        return [
            f"every target is {kind} timestamps (data.timestamps: {share:g}). A Whisper that is taught only one way "
            "breaks in the other: whisper.cpp and faster-whisper ask for timestamps by default."
        ]

    def misfit(self, utterance: Utterance) -> str:
        self.prefix(utterance.row)  # a row without a language is found before the model is trained
        return ""

    def prefix(self, row: Row) -> list[int]:
        """Language and task of a row; English-only models have none."""
        return self.whisper.spoken(self.language(row), task_of(self.config, row).name) if self.whisper.languages else []

    def language(self, row: Row) -> str:
        """The row's language as its code; `DataError` where there is none or it is unknown."""
        return known_language(
            row.language, self.limits.languages, where=row, hint="give a column language, or data.language=CODE"
        )

    def tokens(self, row: Row, text: str) -> list[int]:
        """Those of an answer to a row."""
        # by the language that is written: a translation into English begins as English does
        return self.whisper.labels(text, spaced=not unspaced(task_of(self.config, row).written(row)))

    def targets(self, row: Row, end_s: float, *, timestamps: bool) -> list[int]:
        """The tokens after `<|startoftranscript|>`, which the model puts before them by itself."""
        words = self.tokens(row, row.text)
        if timestamps:
            first = self.token("<|notimestamps|>") + 1
            # a segment without length is never written: after a timestamp and text comes a later one
            last = first + max(1, round(min(end_s, 30.0) / SECONDS_PER_TIMESTAMP))
            return [*self.prefix(row), first, *words, last, self.tokenizer.eos_token_id]
        return [*self.prefix(row), self.token("<|notimestamps|>"), *words, self.tokenizer.eos_token_id]

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> Example:
        end_s = utterance.duration_s
        if rng is not None and augment.changes_audio:
            audio = changed(utterance.audio(), augment, rng)[: int(self.windows[-1] * RATE)]
            end_s = len(audio) / RATE
            features = self.features(audio)
        else:
            features = self.features.cached(utterance.key(), utterance.audio)
            end_s = end_s or (features.shape[1] - 2) / FRAMES_PER_SECOND
        zeros = False
        # measured rows are of both kinds too, and each is always of the same
        timestamps = zlib.crc32(str(utterance.row).encode()) < self.config.data.timestamps * 2**32
        if rng is not None:
            features = masked(features, augment, rng)
            timestamps = bool(rng.random() < self.config.data.timestamps)
            zeros = bool(rng.random() < augment.zero_tail)
        labels = self.targets(utterance.row, end_s, timestamps=timestamps)
        return Example(labels, audio=features, zeros=zeros)

    def collate(self, examples: Sequence[Example]) -> Batch:
        audio = [one.audio for one in examples if one.audio is not None]
        longest = max(one.shape[1] for one in audio) - MARGIN
        columns = int(self._window_s(longest, examples[0].draw) * FRAMES_PER_SECOND)
        return {
            "input_features": self.features.window(audio, columns, [one.zeros for one in examples]),
            "labels": pad_labels([one.labels for one in examples]),
            ROWS: row_numbers(examples),
        }

    def _window_s(self, columns: int, draw: int) -> float:
        """One of the windows that hold the longest of a batch, as its first row drew it."""
        fitting = [w for w in self.windows if w * FRAMES_PER_SECOND >= columns] or self.windows[-1:]
        return fitting[draw % len(fitting)]

    def window(self, model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
        """The model on a window as long as the batch."""
        return shorter_window(_unwrapped(model), batch["input_features"].shape[-1] // 2)

    def transcribe(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], *, max_new_tokens: int | None = None,
        window_s: float | None = None, synced_gpus: bool = False,
    ) -> list[str]:  # fmt: skip
        """Without timestamps, each row in its language and task."""
        texts: dict[int, str] = {}
        window_s = min(window_s or self.windows[-1], self.windows[-1])
        room = int(self.model.config.max_target_positions) - PREFIX_TOKENS
        settings = GenerateSettings(
            max_new_tokens=min(max_new_tokens or room, room), synced_gpus=synced_gpus, logits_processor=finite_alone()
        )  # fmt: skip
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, utterance in enumerate(utterances):
            alike.setdefault(tuple(self.prefix(utterance.row)), []).append(i)
        for members in alike.values():
            found = self._transcribe_alike(model, [utterances[i] for i in members], window_s, settings)
            texts |= dict(zip(members, found, strict=True))
        return [texts[i] for i in range(len(utterances))]

    def _transcribe_alike(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], window_s: float, settings: GenerateSettings
    ) -> list[str]:
        """Rows of one language and task."""
        features = [self.features.cached(u.key(), u.audio) for u in utterances]
        fitting = max(window_s, -(-max(f.shape[1] - MARGIN for f in features) // FRAMES_PER_SECOND))
        batch: Batch = {"input_features": self.features.window(features, int(fitting * FRAMES_PER_SECOND))}
        row = utterances[0].row
        if self.whisper.languages:
            settings = {**settings, "language": self.language(row), "task": task_token(task_of(self.config, row).name)}
        with evaluating(model), self.window(model, batch):
            ids = model.generate(
                **as_taken(batch, model), num_beams=1, do_sample=False, return_timestamps=False, **settings
            )
        return [str(text).strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def label_odds(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], labels: Sequence[Sequence[str]]
    ) -> list[Tensor]:
        """As the protocol says, as texts without timestamps, in the smallest window that holds the rows."""
        model = _unwrapped(model)
        features = [self.features.cached(u.key(), u.audio) for u in utterances]
        window_s = self._window_s(max(one.shape[1] for one in features) - MARGIN, 0)
        batch: Batch = {"input_features": self.features.window(features, int(window_s * FRAMES_PER_SECOND))}
        first, last = int(model.generation_config.decoder_start_token_id), self.token("<|notimestamps|>")
        trees = [
            tree_of({one: self.tokens(u.row, one) for one in own}, int(self.tokenizer.eos_token_id))
            for u, own in zip(utterances, labels, strict=True)
        ]
        # the encoder by itself: heard once, whatever the number of labels
        with self.window(model, batch):
            hidden = model.get_encoder()(as_taken(batch, model)["input_features"]).last_hidden_state
            odds = odds_of_heard(model, hidden, [[first, *self.prefix(u.row), last] for u in utterances], trees)
        return [sums_of(one) for one in odds]

    def save_side_files(self, directory: Path) -> None:
        self.parts.save_side_files(directory)


def _unwrapped(model: PreTrainedModel) -> PreTrainedModel:
    """The Whisper inside PEFT's, DDP's and accelerate's wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model
