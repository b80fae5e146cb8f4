"""From a model's config to the backbone that trains it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from chorus.architectures.qwen_audio import SPEECH_LLMS
from chorus.errors import CheckpointError
from chorus.train.backbones.protocol import Backbone
from chorus.train.config import TrainConfig


def model_config(config: TrainConfig) -> Any:
    """The config of the base, without its weights."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(config.model.base, revision=config.model.revision)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{config.model.base}: not a model ({reason})", "name a directory or hub id") from None


def load_backbone(config: TrainConfig, device: str, *, texts: Sequence[str] = ()) -> Backbone:
    """Load the base; `texts` give a pretrained CTC encoder its letters."""
    found = model_config(config)
    kind, names = found.model_type, found.architectures or [""]
    if kind == "whisper":
        from chorus.train.backbones.whisper import Whisper

        return Whisper(config, device)
    if kind in SPEECH_LLMS:
        from chorus.train.backbones.speech_llm import SpeechLlm

        return SpeechLlm(config, device, SPEECH_LLMS[kind])
    if names[0].endswith("ForCausalLM"):
        from chorus.train.backbones.causal import Causal

        return Causal(config, device)
    if hasattr(found, "ctc_loss_reduction"):
        from chorus.train.backbones.ctc import Ctc

        return Ctc(config, device, texts)
    raise CheckpointError(
        f"{config.model.base}: {names[0] or kind} cannot be trained here",
        "Whisper, wav2vec2-like CTC models, causal language models, Qwen2-Audio and Qwen2.5-Omni can",
    )


def hears_audio(config: TrainConfig) -> bool:
    """Whether the base takes recordings, before it is loaded."""
    return not (model_config(config).architectures or [""])[0].endswith("ForCausalLM")
