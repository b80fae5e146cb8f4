"""Whether tokenizer, generation settings and vocabulary of a Whisper are of one model.

large-v3 has a language more than the Whispers before it, so that every token after the languages has another number.
With the tokenizer of the other kind a model trains on shifted tokens and decodes in the wrong language, without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from chorus.errors import CheckpointError
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

START, NO_TIMESTAMPS, END = "<|startoftranscript|>", "<|notimestamps|>", "<|endoftext|>"
TIMESTAMPS = 1501  # tokens: from 0.00 to 30.00 s
LARGE_V3 = 51_866  # tokens; one more than before, for Cantonese
ENGLISH, MULTILINGUAL = 51_864, 51_865  # tokens of the two that were before it
# in the order of their tokens (openai-whisper, tokenizer.py); the models without Cantonese end before it
IN_ORDER = (
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi",
    "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la",
    "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy",
    "ne", "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be",
    "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl",
    "mg", "as", "tt", "haw", "ln", "ha", "ba", "jw", "su", "yue",
)  # fmt: skip


def special_ids(size: int) -> dict[str, int]:
    """Every token after a Whisper's text tokens by its id; `size` is that of one of the three vocabularies.

    Runtimes that know a vocabulary by its size alone (openai-whisper, whisper.cpp) count on these.

    >>> special_ids(51_865)["<|notimestamps|>"]
    50363
    """
    first = 50_256 if size == ENGLISH else 50_257
    languages = IN_ORDER[: size - 51_765 - (size != ENGLISH)]
    names = [END, START, *(f"<|{code}|>" for code in languages), "<|translate|>", "<|transcribe|>"]
    names += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", NO_TIMESTAMPS]
    names += [f"<|{i * 0.02:.2f}|>" for i in range(TIMESTAMPS)]
    return {name: first + i for i, name in enumerate(names)}


def check_tokens(config: JsonMap, tokenizer: PreTrainedTokenizerBase) -> None:
    """`CheckpointError` with both numbers where the tokenizer is not this model's."""
    check_ids(config, tokenizer.get_vocab(), tokenizer.name_or_path or "the tokenizer")


def check_ids(config: JsonMap, known: Mapping[str, int], place: str) -> None:
    """The same of a tokenizer's tokens by id; `place` is what the message calls it."""
    size, count = int(config["vocab_size"]), len(known)
    absent = [name for name in (START, NO_TIMESTAMPS) if name not in known]
    if absent:
        raise CheckpointError(
            f"{place}: the tokenizer has no {' and no '.join(absent)}",
            "copy all of the base's tokenizer (tokenizer.json; or added_tokens.json beside vocab.json and merges.txt)",
        )
    last = int(known[NO_TIMESTAMPS]) + TIMESTAMPS
    sizes = f"{max(last + 1, count):,} tokens, the model has {size:,}"
    for name, theirs, key in _named(config):
        if name in known and known[name] != theirs:
            raise CheckpointError(
                f"{place}: the tokenizer is another model's: {name} is {known[name]} there, and {theirs} in the "
                f"model's settings ({key}); {sizes}",
                "take tokenizer, config.json and generation_config.json from one model",
            )
    lacks_cantonese = size == LARGE_V3 and "<|yue|>" not in known and count < LARGE_V3
    if last >= size or lacks_cantonese:
        raise CheckpointError(
            f"{place}: the tokenizer is another model's ({sizes})", "take tokenizer and config.json from one model"
        )
    if known.get(END) in (config.get("suppress_tokens") or ()):
        raise CheckpointError(
            f"{place}: suppress_tokens names {END}, so that no text would end", "take the base's generation_config.json"
        )


def _named(config: JsonMap) -> Iterator[tuple[str, int, str]]:
    """(token, its number, the setting's key) of all tokens that the generation settings name."""
    for name, key in (
        (NO_TIMESTAMPS, "no_timestamps_token_id"), (START, "decoder_start_token_id"), (END, "eos_token_id"),
    ):  # fmt: skip
        if isinstance(config.get(key), int):  # several ends may be a list
            yield name, config[key], key
    for name, number in (config.get("lang_to_id") or {}).items():
        yield name, number, "lang_to_id"
    for task, number in (config.get("task_to_id") or {}).items():
        yield f"<|{task}|>", number, "task_to_id"
