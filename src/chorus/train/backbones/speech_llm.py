"""Qwen2-Audio and Qwen2.5-Omni's thinker on audio: a question about a recording, and its answer.

The processors of these models ask for image and video parts (and for torchvision) though only audio is heard, so
that the inputs are put together here: the ChatML text with one `<|AUDIO|>` for each frame that the tower makes,
log-mel features of thirty seconds and their mask. Only the answer has a loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from chorus.architectures.qwen_audio import AUDIO, audio_question
from chorus.cache import Cache
from chorus.data.features import FRAMES_PER_SECOND, MARGIN, LogMel
from chorus.data.limits import limits_from
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError
from chorus.train.backbones.protocol import IGNORED
from chorus.train.backbones.shared import (
    evaluating,
    load_dtype,
    load_pretrained,
    load_side,
    nothing,
    pad,
    pad_labels,
    row_numbers,
)
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed, masked

if TYPE_CHECKING:
    from numpy.random import Generator

WINDOW_S = 30


class SpeechLlm:
    """The backbone (see protocol.py)."""

    needs_audio = True
    default_roles: tuple[str, ...] = ("language_model", "projector")
    default_save_modules: tuple[str, ...] = ()
    longest_s: float | None = float(WINDOW_S)

    def __init__(self, config: TrainConfig, device: str, class_name: str) -> None:
        import transformers

        self.config = config
        self.model = load_pretrained(getattr(transformers, class_name), config, load_dtype(config, device))
        self.tokenizer = load_side(transformers.AutoTokenizer, config, "tokenizer")
        self.extractor = load_side(transformers.WhisperFeatureExtractor, config, "feature extractor")
        self.features = LogMel(self.extractor, Cache() if config.data.features_cache else None)
        self.limits = limits_from(self.model.config, self.tokenizer)
        self.audio_token = int(self.tokenizer.convert_tokens_to_ids(AUDIO))
        expected = getattr(self.model.config, "audio_token_id", getattr(self.model.config, "audio_token_index", None))
        if self.audio_token != expected:
            raise CheckpointError(
                f"{config.model.base}: the tokenizer's {AUDIO} is {self.audio_token}, the config's {expected}",
                "take tokenizer and config from the same model",
            )
        self.end = int(self.tokenizer.convert_tokens_to_ids("<|im_end|>"))
        self.padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end
        tower = self.model.config.audio_config
        self.window_columns = min(self.features.columns, int(tower.max_source_positions) * 2)
        self.longest_s = self.window_columns / FRAMES_PER_SECOND

    def question(self, row: Any, columns: int) -> list[int]:
        """Everything before the answer."""
        text = audio_question(row.get("prompt") or self.config.data.prompt, columns)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return ids

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> dict[str, Any]:
        if rng is not None and augment.changes_audio:
            features = self.features(changed(utterance.audio(), augment, rng))
        else:
            features = self.features.cached(utterance.key(), utterance.audio)
        if rng is not None:
            features = masked(features, augment, rng)
        columns = max(4, min(features.shape[1] - MARGIN, self.window_columns))
        question = self.question(utterance.row, columns)
        answer = [*self.tokenizer.encode(utterance.row.text, add_special_tokens=False), self.end]
        return {"features": features, "columns": columns, "question": question, "answer": answer}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [[*e["question"], *e["answer"]] for e in examples]
        labels = [[*[IGNORED] * len(e["question"]), *e["answer"]] for e in examples]
        return {
            "input_ids": pad(ids, self.padding),
            "attention_mask": pad([[1] * len(i) for i in ids], 0),
            **self._heard(examples),
            "labels": pad_labels(labels),
            "rows": row_numbers(examples),
        }

    def _heard(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        features = self.features.window([e["features"] for e in examples], self.window_columns)
        columns = torch.tensor([e["columns"] for e in examples])
        mask = (torch.arange(self.window_columns)[None] < columns[:, None]).long()
        return {"input_features": features, "feature_attention_mask": mask}

    def window(self, model: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(self, model: Any, utterances: Sequence[Utterance], **settings: Any) -> list[str]:
        """The answers, greedily."""
        examples = [self.example(u, None, Augment()) for u in utterances]
        ids = [e["question"] for e in examples]
        device = next(model.parameters()).device
        inputs = {
            "input_ids": pad(ids, self.padding, left=True),
            "attention_mask": pad([[1] * len(i) for i in ids], 0, left=True),
            **self._heard(examples),
        }
        with evaluating(model):
            found = model.generate(
                **{k: v.to(device) for k, v in inputs.items()}, do_sample=False, eos_token_id=self.end,
                max_new_tokens=settings.get("max_new_tokens") or 200, pad_token_id=self.padding,
                synced_gpus=settings.get("synced_gpus", False),
            )  # fmt: skip
        texts = self.tokenizer.batch_decode(found[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_side_files(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        self.extractor.save_pretrained(directory)
        self.model.generation_config.save_pretrained(directory)
