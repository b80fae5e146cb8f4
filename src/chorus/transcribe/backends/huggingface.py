"""The transformers backend: from a model's config to the class that decodes it."""

from __future__ import annotations

from chorus.architectures.qwen_audio import SPEECH_LLMS
from chorus.errors import CheckpointError, UsageError
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.loading import load_config
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Load a system. `CheckpointError` where it cannot be, or where it hears nothing."""
    if system.kind == "converted":
        raise UsageError(f"{system.label} is converted for CTranslate2", "use --backend faster-whisper")
    with quiet_libraries():
        config = load_config(system)
        if config.model_type == "whisper":
            from chorus.transcribe.backends.whisper import Whisper

            return Whisper(system, decoding, device)
        if config.model_type in SPEECH_LLMS:
            from chorus.transcribe.backends.speech_llm import SpeechLlm

            return SpeechLlm(system, decoding, device, SPEECH_LLMS[config.model_type])
        if hasattr(config, "ctc_loss_reduction"):
            from chorus.transcribe.backends.ctc import Ctc

            return Ctc(system, decoding, device)
    raise CheckpointError(
        f"{system.label}: a {config.model_type} model cannot be decoded here",
        "Whisper, wav2vec2-like CTC models, Qwen2-Audio and Qwen2.5-Omni can",
    )
