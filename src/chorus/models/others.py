"""Speech models that can be merged, but neither trained nor decoded here."""

from __future__ import annotations

from chorus.architectures.classes import architecture
from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.limits import Limits
from chorus.plain import JsonMap

TYPES = ("moonshine", "parakeet", "seamless_m4t", "granite_speech")  # beginnings of model_type
GRANITE = "Granite Speech is merged alone: its features need torchaudio, and sounds switch on an adapter of its own"


def recognises(config: JsonMap) -> bool:
    """By the family, but for what has a CTC head (ctc.py)."""
    return str(config.get("model_type", "")).startswith(TYPES) and not architecture(config).endswith("ForCTC")


KIND = Kind(
    name="other_speech",
    covers="Moonshine, Parakeet, SeamlessM4T, Granite Speech",
    recognises=recognises,
    model_class=architecture,
    limits=lambda config, tokenizer: Limits(tokenizer),
    pipeline_tag=SPEECH_TO_TEXT,
    decoder="",
    why=lambda config: GRANITE if str(config.get("model_type", "")).startswith("granite_speech") else "",
)
