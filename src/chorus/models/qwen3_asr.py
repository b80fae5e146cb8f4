"""Qwen3-ASR: a speech LLM that transcribes, in the form that transformers has it (the repositories called `-hf`)."""

from __future__ import annotations

from chorus.models.kind import SPEECH_TO_TEXT, Kind
from chorus.models.speech_llm import SpeechLlmRecogniser, limits

KIND = Kind(
    name="qwen3_asr",
    covers="Qwen3-ASR",
    # the first repositories' configs are of code of their own: another layout under the same model type
    recognises=lambda config: config.get("model_type") == "qwen3_asr" and "audio_config" in config,
    model_class=lambda config: "Qwen3ASRForConditionalGeneration",
    limits=limits,
    pipeline_tag=SPEECH_TO_TEXT,
    extractor_class="Qwen3ASRFeatureExtractor",
    recogniser=SpeechLlmRecogniser,
    backbone="chorus.train.backbones.speech_llm:SpeechLlmBackbone",
)
