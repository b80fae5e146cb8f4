"""Language models such as Qwen2 on texts, with a prompt before them where the manifest has one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.models.batches import as_taken, pad
from chorus.models.finite import finite_alone
from chorus.models.kind import Kind
from chorus.models.loading import load_parts
from chorus.models.texts import plain_ids
from chorus.train.backbones.protocol import ROWS, Example
from chorus.train.backbones.shared import after_prompts, evaluating, load_dtype, nothing, origin_of, row_numbers
from chorus.train.config import Augment, TrainConfig

if TYPE_CHECKING:
    from numpy.random import Generator
    from transformers import PreTrainedModel

    from chorus.models.batches import Batch

LONGEST_TOKENS = 2048  # of an example; more is cut, as a language model can be taught in parts
NEW_TOKENS = 64  # of an answer, at most


class CausalBackbone:
    """The backbone (see protocol.py)."""

    default_roles: tuple[str, ...] = ("language_model",)
    default_save_modules: tuple[str, ...] = ()
    longest_s: float | None = None

    def __init__(self, kind: Kind, config: TrainConfig, device: str, texts: Sequence[str]) -> None:
        self.kind = kind
        self.parts = load_parts(kind, origin_of(config), load_dtype(config, device))
        self.model, self.tokenizer = self.parts.model, self.parts.tokenizer
        self.limits = kind.limits(self.model.config.to_dict(), self.tokenizer)
        self.end = int(self.tokenizer.eos_token_id)
        padding = self.tokenizer.pad_token_id
        self.padding = int(padding) if padding is not None else self.end

    def prompt(self, row: Row) -> list[int]:
        """The row's column `prompt` as the model's chat template has it; nothing where there is none."""
        asked = row.get("prompt")
        if not asked:
            return []
        if getattr(self.tokenizer, "chat_template", None):
            messages = [{"role": "user", "content": asked}]
            ids: list[int] = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
            return ids
        return plain_ids(self.tokenizer, asked)

    def warnings(self) -> list[str]:
        return []

    def misfit(self, utterance: Utterance) -> str:
        return ""

    def example(self, utterance: Utterance, rng: Generator | None, augment: Augment) -> Example:
        prompt = self.prompt(utterance.row)[:LONGEST_TOKENS]
        # the end is learnt too, so that answers stop
        text = [*plain_ids(self.tokenizer, utterance.row.text), self.end]
        return Example(text[: LONGEST_TOKENS - len(prompt)], prompt)

    def collate(self, examples: Sequence[Example]) -> Batch:
        return {**after_prompts(examples, self.padding), ROWS: row_numbers(examples)}

    def window(self, model: PreTrainedModel, batch: Batch) -> AbstractContextManager[None]:
        return nothing()

    def transcribe(
        self, model: PreTrainedModel, utterances: Sequence[Utterance], *, max_new_tokens: int | None = None,
        window_s: float | None = None, synced_gpus: bool = False,
    ) -> list[str]:  # fmt: skip
        """What follows the prompts."""
        ids = [self.prompt(u.row) or [self.end] for u in utterances]  # generate needs one token to begin with
        batch = {
            "input_ids": pad(ids, self.padding, left=True),
            "attention_mask": pad([[1] * len(one) for one in ids], 0, left=True),
        }
        with evaluating(model):
            found = model.generate(
                **as_taken(batch, model), do_sample=False, max_new_tokens=max_new_tokens or NEW_TOKENS,
                pad_token_id=self.padding, synced_gpus=synced_gpus, logits_processor=finite_alone(),
            )  # fmt: skip
        answers = found[:, batch["input_ids"].shape[1] :]
        return [str(text).strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def save_side_files(self, directory: Path) -> None:
        self.parts.save_side_files(directory)
