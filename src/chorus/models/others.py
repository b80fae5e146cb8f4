"""Speech models that can be merged, but neither trained nor decoded here."""

from __future__ import annotations

from chorus.architectures.families import architecture
from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.limits import Limits

TYPES = ("moonshine", "parakeet", "seamless_m4t")  # beginnings of model_type

KIND = Kind(
    name="other_speech",
    covers="Moonshine, Parakeet, SeamlessM4T",
    recognises=lambda config: str(config.get("model_type", "")).startswith(TYPES),
    model_class=architecture,
    limits=lambda config, tokenizer: Limits(tokenizer),
    pipeline_tag=SPEECH_TO_TEXT,
    decoder="",
)
