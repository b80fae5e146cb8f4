"""What a model can write and hear, from its directory: tokenizer, decoder length, window, languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chorus.data.check import TextLimits
from chorus.errors import DataError
from chorus.models.languages import LANGUAGES

PREFIX_TOKENS = 5  # Whisper's start, language, task, a timestamp at each end or notimestamps, and the end
MULTILINGUAL = 51_865  # tokens; English-only models have one less, and language tokens that they never use
LONGEST_CTC_S = 60.0  # attention over minutes of audio takes all memory; nothing in the model forbids it


def limits_of(model: str) -> TextLimits:
    """The limits that texts and audio must keep to be learnt by a model (a directory or hub id)."""
    from transformers import AutoConfig, AutoTokenizer

    local = Path(model).is_dir()
    try:
        config = AutoConfig.from_pretrained(model, local_files_only=local)
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=local)
    except (OSError, ValueError) as error:
        raise DataError(f"{model}: no tokenizer to check with ({error})", "name a model directory or hub id") from None
    return limits_from(config, tokenizer)


def limits_from(config: Any, tokenizer: Any) -> TextLimits:
    """The same from what is loaded already."""
    kind = str(config.model_type)
    if kind == "whisper":
        return TextLimits(
            tokenizer,
            max_tokens=int(config.max_target_positions) - PREFIX_TOKENS,
            max_audio_s=config.max_source_positions / 50,
            languages=whisper_languages(tokenizer) if int(config.vocab_size) >= MULTILINGUAL else (),
            bare=lambda text: f" {text}",
        )
    if hasattr(config, "ctc_loss_reduction"):
        return TextLimits(tokenizer, max_audio_s=LONGEST_CTC_S, bare=ctc_text(tokenizer))
    text_config = config.get_text_config() if hasattr(config, "get_text_config") else config
    speech = kind in ("qwen2_audio", "qwen2_5_omni", "qwen2_5_omni_thinker")
    return TextLimits(
        tokenizer,
        max_tokens=getattr(text_config, "max_position_embeddings", None),
        max_audio_s=30.0 if speech else None,
    )


def whisper_languages(tokenizer: Any) -> set[str]:
    """Codes of the languages that the tokenizer has a token for; empty for English-only models."""
    missing = (None, tokenizer.unk_token_id)
    return {code for code in LANGUAGES if tokenizer.convert_tokens_to_ids(f"<|{code}|>") not in missing}


def ctc_text(tokenizer: Any) -> Any:
    """How a text is written for a CTC tokenizer: in the case that its vocabulary has."""
    letters = {token for token in tokenizer.get_vocab() if len(token) == 1 and token.isalpha()}
    if letters and not any(letter.islower() for letter in letters) and any(letter.isupper() for letter in letters):
        return str.upper
    if letters and not any(letter.isupper() for letter in letters):
        return str.lower
    return str
