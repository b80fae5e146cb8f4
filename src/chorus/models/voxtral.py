"""Voxtral: transcribes, or answers a question about a recording. Its tekken.json needs no mistral-common."""

from __future__ import annotations

from chorus.models.kind import AUDIO_TEXT_TO_TEXT, Kind
from chorus.models.speech_llm import SpeechLlmRecogniser, limits

KIND = Kind(
    name="voxtral",
    covers="Voxtral",
    recognises=lambda config: config.get("model_type") == "voxtral",
    model_class=lambda config: "VoxtralForConditionalGeneration",
    limits=limits,
    pipeline_tag=AUDIO_TEXT_TO_TEXT,
    # not AutoTokenizer, which takes mistral-common's own where that is installed: it writes no control token from text
    tokenizer_class="PreTrainedTokenizerFast",
    extractor_class="WhisperFeatureExtractor",
    recogniser=SpeechLlmRecogniser,
    backbone="chorus.train.backbones.speech_llm:SpeechLlmBackbone",
)
