"""Whisper of any size: languages and tasks by row, targets with and without timestamps, windows under 30 s."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chorus.architectures.whisper import TASKS, complete_generation, shorter_window
from chorus.cache import Cache
from chorus.data.audio import RATE
from chorus.data.features import FRAMES_PER_SECOND, MARGIN, LogMel
from chorus.data.limits import PREFIX_TOKENS, limits_from
from chorus.data.utterance import Utterance
from chorus.errors import DataError, nearest
from chorus.models.languages import known_language
from chorus.train.backbones.shared import evaluating, load_dtype, load_pretrained, load_side, pad_labels, row_numbers
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed, masked

if TYPE_CHECKING:
    from numpy.random import Generator

SECONDS_PER_TIMESTAMP = 0.02
NEW_TOKENS = 200  # of a transcript, at most


class Whisper:
    """The backbone (see protocol.py)."""

    needs_audio = True
    default_roles: tuple[str, ...] = ("encoder", "decoder", "cross_attention")
    default_save_modules: tuple[str, ...] = ()

    def __init__(self, config: TrainConfig, device: str) -> None:
        from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

        self.config = config
        self.model = load_pretrained(WhisperForConditionalGeneration, config, load_dtype(config, device))
        self.tokenizer = load_side(WhisperTokenizerFast, config, "tokenizer")
        self.extractor = load_side(WhisperFeatureExtractor, config, "feature extractor")
        self.features = LogMel(self.extractor, Cache() if config.data.features_cache else None)
        self.limits = limits_from(self.model.config, self.tokenizer)
        self.positions = int(self.model.config.max_source_positions)
        longest = self.positions * 2 / FRAMES_PER_SECOND
        self.windows = sorted({min(float(s), longest) for s in config.train.window_s})
        self.longest_s: float | None = self.windows[-1]
        self.multilingual = bool(self.limits.languages)
        complete_generation(self.model, self.tokenizer, self.limits.languages)
        # what training sets; it must not survive in the generation settings (transformers refuses to save it)
        self.model.config.forced_decoder_ids = None

    def token(self, name: str) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(name))

    def prefix(self, row: Any) -> list[int]:
        """Language and task of a row; English-only models have none."""
        if not self.multilingual:
            return []
        return [self.token(f"<|{self.language(row)}|>"), self.token(f"<|{self.task(row)}|>")]

    def language(self, row: Any) -> str:
        """The row's language as its code; `DataError` where there is none or it is unknown."""
        return known_language(
            row.language, self.limits.languages, where=row, hint="give a column language, or data.language=CODE"
        )

    def task(self, row: Any) -> str:
        named = row.get(self.config.data.task_column)
        task = named or ("translate" if self.config.task == "translate" else "transcribe")
        if task not in TASKS:
            raise DataError(f'{row}: unknown task "{task}"{nearest(task, TASKS)}')
        return str(task)

    def targets(self, row: Any, end_s: float, *, timestamps: bool) -> list[int]:
        """The tokens after `<|startoftranscript|>`, which the model puts before them by itself."""
        words = self.tokenizer.encode(f" {row.text}", add_special_tokens=False)
        if timestamps:
            first = self.token("<|notimestamps|>") + 1
            last = first + round(min(end_s, 30.0) / SECONDS_PER_TIMESTAMP)
            return [*self.prefix(row), first, *words, last, self.tokenizer.eos_token_id]
        return [*self.prefix(row), self.token("<|notimestamps|>"), *words, self.tokenizer.eos_token_id]

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> dict[str, Any]:
        end_s = utterance.duration_s
        if rng is not None and augment.changes_audio:
            audio = changed(utterance.audio(), augment, rng)[: int(self.windows[-1] * RATE)]
            end_s = len(audio) / RATE
            features = self.features(audio)
        else:
            features = self.features.cached(utterance.key(), utterance.audio)
            end_s = end_s or (features.shape[1] - 2) / FRAMES_PER_SECOND
        zero = False
        # measured rows are of both kinds too, and each is always of the same
        timestamps = zlib.crc32(str(utterance.row).encode()) < self.config.data.timestamps * 2**32
        if rng is not None:
            features = masked(features, augment, rng)
            timestamps = bool(rng.random() < self.config.data.timestamps)
            zero = bool(rng.random() < augment.zero_tail)
        return {"features": features, "labels": self.targets(utterance.row, end_s, timestamps=timestamps), "zero": zero}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        window_s = self._window_s(examples)
        features = self.features.window(
            [e["features"] for e in examples], int(window_s * FRAMES_PER_SECOND), [e["zero"] for e in examples]
        )
        labels = pad_labels([e["labels"] for e in examples])
        return {"input_features": features, "labels": labels, "rows": row_numbers(examples)}

    def _window_s(self, examples: Sequence[dict[str, Any]]) -> float:
        """One of the windows that hold the longest of the batch, as the first row drew it."""
        longest = max(e["features"].shape[1] for e in examples) - MARGIN
        fitting = [w for w in self.windows if w * FRAMES_PER_SECOND >= longest] or self.windows[-1:]
        return fitting[examples[0].get("draw", 0) % len(fitting)]

    def window(self, model: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
        """Hear a window as long as the batch (see chorus.architectures.window)."""
        return shorter_window(_unwrapped(model), batch["input_features"].shape[-1] // 2)

    def transcribe(self, model: Any, utterances: Sequence[Utterance], **settings: Any) -> list[str]:
        """Without timestamps, each row in its language and task."""
        texts: dict[int, str] = {}
        window_s = min(settings.pop("window_s", None) or self.windows[-1], self.windows[-1])
        room = int(self.model.config.max_target_positions) - PREFIX_TOKENS
        given = {k: v for k, v in settings.items() if v is not None}
        settings = {**given, "max_new_tokens": min(given.get("max_new_tokens", NEW_TOKENS), room)}
        kinds: dict[tuple[int, ...], list[int]] = {}
        for i, utterance in enumerate(utterances):
            kinds.setdefault(tuple(self.prefix(utterance.row)), []).append(i)
        for members in kinds.values():
            found = self._transcribe_alike(model, [utterances[i] for i in members], window_s, settings)
            texts |= dict(zip(members, found, strict=True))
        return [texts[i] for i in range(len(utterances))]

    def _transcribe_alike(
        self, model: Any, utterances: Sequence[Utterance], window_s: float, settings: dict[str, Any]
    ) -> list[str]:
        """Rows of one language and task."""
        features = [self.features.cached(u.key(), u.audio) for u in utterances]
        fitting = max(window_s, -(-max(f.shape[1] - MARGIN for f in features) // FRAMES_PER_SECOND))
        batch = {"input_features": self.features.window(features, int(fitting * FRAMES_PER_SECOND))}
        row = utterances[0].row
        spoken = {"language": self.language(row), "task": self.task(row)} if self.multilingual else {}
        inputs = batch["input_features"].to(next(model.parameters()).device, _dtype(model))
        with evaluating(model), self.window(model, batch):
            ids = model.generate(
                input_features=inputs, num_beams=1, do_sample=False, return_timestamps=False, **spoken, **settings
            )
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def save_side_files(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        self.extractor.save_pretrained(directory)
        self.model.generation_config.save_pretrained(directory)


def _unwrapped(model: Any) -> Any:
    """The Whisper inside PEFT's, DDP's and accelerate's wrappers."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _dtype(model: Any) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
