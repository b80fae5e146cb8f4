"""Speech LLMs on audio. Of a question and its answer, only the answer has a loss."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.kind import Kind
from chorus.models.label_scores import sums_of
from chorus.models.loading import load_parts
from chorus.models.recogniser import Speech
from chorus.models.speech_llm import SpeechLlmRecogniser
from chorus.tasks.asr import ASR
from chorus.train.asked import task_of
from chorus.train.backbones.protocol import ROWS, Example
from chorus.train.backbones.shared import (
    after_prompts,
    cache_of,
    load_dtype,
    nothing,
    origin_of,
    recognised,
    row_numbers,
)
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import changed, masked

if TYPE_CHECKING:
    from numpy.random import Generator
    from torch import Tensor
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch


class SpeechLlmBackbone:
    """The backbone (see protocol.py)."""

    default_roles: tuple[str, ...] = ("language_model", "projector")
    default_save_modules: tuple[str, ...] = ()

    def __init__(self, kind: Kind, config: TrainConfig, device: str, texts: Sequence[str]) -> None:
        self.kind = kind
        self.parts = load_parts(kind, origin_of(config), load_dtype(config, device))
        self.model, self.tokenizer = self.parts.model, self.parts.tokenizer
        self.recogniser = SpeechLlmRecogniser(self.parts, cache_of(config))
        self.limits = kind.limits(self.model.config.to_dict(), self.tokenizer)
        self.longest_s = self.recogniser.longest_s
        self.config = config

    def warnings(self) -> list[str]:
        return []

    def misfit(self, utterance: Utterance) -> str:
        return ""

    def asked(self, row: Row) -> str:
        """The question: the row's, the configuration's, or the task's."""
        written, task = row.get("prompt") or self.config.data.prompt, task_of(self.config, row)
        own = self.recogniser.transcribes and task.name == ASR.name  # what it does where nothing is asked
        return written or ("" if own else task.instruction(row))

    def language(self, row: Row) -> str | None:
        """The language of a row's transcript, empty where nobody says it; None of other tasks."""
        return row.language if task_of(self.config, row).name == ASR.name else None

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> Example:
        features = self.recogniser.features
        if rng is not None and augment.changes_audio:
            audio = features(changed(utterance.audio(), augment, rng))
        else:
            audio = features.cached(utterance.key(), utterance.audio)
        if rng is not None:
            audio = masked(audio, augment, rng)
        columns = self.recogniser.speech_columns(audio)
        language = self.language(utterance.row)
        question = self.recogniser.question(self.asked(utterance.row), columns, language or "")
        return Example(self.recogniser.answer(utterance.row.text, language), question, audio, columns)

    def collate(self, examples: Sequence[Example]) -> Batch:
        audio = [one.audio for one in examples if one.audio is not None]
        return {
            **after_prompts(examples, self.recogniser.padding),
            **self.recogniser.sounds(audio, [one.columns for one in examples]),
            ROWS: row_numbers(examples),
        }

    def window(self, model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], *, max_new_tokens: int | None = None,
        window_s: float | None = None, synced_gpus: bool = False,
    ) -> list[str]:  # fmt: skip
        """The answers, greedily."""
        return recognised(
            self.recogniser, model, utterances, asked=self.asked, language=self.language,
            max_new_tokens=max_new_tokens, synced_gpus=synced_gpus,
        )  # fmt: skip

    def label_odds(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], labels: Sequence[Sequence[str]]
    ) -> list[Tensor]:
        """As the protocol says, asked as in training."""
        inputs = self.recogniser.inputs([Speech(u.audio, u.key, self.asked(u.row)) for u in utterances])
        return [sums_of(odds) for odds in self.recogniser.label_odds(model, inputs, labels)]

    def save_side_files(self, directory: Path) -> None:
        self.parts.save_side_files(directory)
