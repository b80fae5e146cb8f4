"""Causal language models: Qwen2, Llama, Mistral and their like. They take texts alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.architectures.classes import architecture
from chorus.models.kind import TEXT, Kind
from chorus.models.limits import Limits
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def recognises(config: JsonMap) -> bool:
    """By the class, of whatever family."""
    return architecture(config).endswith("ForCausalLM")


def limits(config: JsonMap, tokenizer: PreTrainedTokenizerBase) -> Limits:
    """The text part's positions."""
    text = config.get("text_config") or config
    return Limits(tokenizer, max_tokens=text.get("max_position_embeddings"), asked=True)


KIND = Kind(
    name="causal",
    covers="causal language models",
    recognises=recognises,
    model_class=architecture,
    limits=limits,
    pipeline_tag=TEXT,
    extractor_class="",
    decoder="",
    backbone="chorus.train.backbones.causal:CausalBackbone",
    peft_task="CAUSAL_LM",
)
