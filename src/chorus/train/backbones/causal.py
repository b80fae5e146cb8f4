"""Language models such as Qwen2 on texts, with a prompt before them where the manifest has one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.data.limits import limits_from
from chorus.data.utterance import Utterance
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

if TYPE_CHECKING:
    from numpy.random import Generator

LONGEST_TOKENS = 2048  # of an example; more is cut, as a language model can be taught in parts


class Causal:
    """The backbone (see protocol.py)."""

    needs_audio = False
    default_roles: tuple[str, ...] = ("language_model",)
    default_save_modules: tuple[str, ...] = ()
    longest_s: float | None = None

    def __init__(self, config: TrainConfig, device: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.config = config
        self.model = load_pretrained(AutoModelForCausalLM, config, load_dtype(config, device))
        self.tokenizer = load_side(AutoTokenizer, config, "tokenizer")
        self.limits = limits_from(self.model.config, self.tokenizer)
        self.end = self.tokenizer.eos_token_id
        self.padding = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.end

    def prompt(self, row: Any) -> list[int]:
        """The row's column `prompt` as the model's chat template has it; nothing where there is none."""
        asked = row.get("prompt")
        if not asked:
            return []
        if getattr(self.tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": asked}]
            ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            return ids
        found: list[int] = self.tokenizer.encode(asked, add_special_tokens=False)
        return found

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> dict[str, Any]:
        prompt = self.prompt(utterance.row)
        text = [*self.tokenizer.encode(utterance.row.text, add_special_tokens=False), self.end]
        ids = [*prompt, *text][:LONGEST_TOKENS]
        return {"ids": ids, "labels": [*[IGNORED] * len(prompt), *text][:LONGEST_TOKENS]}

    def collate(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        ids = [e["ids"] for e in examples]
        return {
            "input_ids": pad(ids, self.padding),
            "attention_mask": pad([[1] * len(i) for i in ids], 0),
            "labels": pad_labels([e["labels"] for e in examples]),
            "rows": row_numbers(examples),
        }

    def window(self, model: Any, batch: dict[str, Any]) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(self, model: Any, utterances: Sequence[Utterance], **settings: Any) -> list[str]:
        """What follows the prompts."""
        ids = [self.prompt(u.row) or [self.end] for u in utterances]
        inputs = pad(ids, self.padding, left=True)
        mask = pad([[1] * len(i) for i in ids], 0, left=True)
        device = next(model.parameters()).device
        limit = settings.get("max_new_tokens") or 64
        with evaluating(model):
            found = model.generate(
                input_ids=inputs.to(device), attention_mask=mask.to(device), do_sample=False, max_new_tokens=limit,
                pad_token_id=self.padding, synced_gpus=settings.get("synced_gpus", False),
            )  # fmt: skip
        texts = self.tokenizer.batch_decode(found[:, inputs.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def save_side_files(self, directory: Path) -> None:
        self.tokenizer.save_pretrained(directory)
        self.model.generation_config.save_pretrained(directory)
