"""What sherpa-onnx reads beside the weights: the metadata in the encoder's file, and the table of text tokens."""

from __future__ import annotations

import binascii
from collections.abc import Iterable, Mapping, Sequence

from chorus.architectures.openai_whisper import dimensions
from chorus.checkpoints.model import Model
from chorus.export import whisper
from chorus.export.ctranslate2.side_files import settings_of
from chorus.export.hf.whisper_files import non_speech_tokens
from chorus.models.whisper_tokens import (
    ENGLISH,
    IN_ORDER,
    LARGE_V3,
    MULTILINGUAL,
    NO_TIMESTAMPS,
    special_ids,
)

# by the number of <|notimestamps|>, which is another in each of the three vocabularies
FAMILIES = {special_ids(size)[NO_TIMESTAMPS]: size for size in (ENGLISH, MULTILINGUAL, LARGE_V3)}
VERSION = "2"  # of graphs that give the attention of the heads of alignment


def family_of(ids: Mapping[str, int]) -> int | None:
    """The vocabulary that a tokenizer's is, or was before tokens were added to it; None where it is none of the three.

    sherpa-onnx reads every special token's number from the metadata: others may stand behind them.
    """
    return FAMILIES.get(ids.get(NO_TIMESTAMPS, -1))


def alignment_of(model: Model, size: int) -> tuple[list[list[int]], list[str]]:
    """The heads by which words are timed, layer by layer, and what there is to think about."""
    settings, warnings = settings_of(model, whisper.token_ids(model), size)
    # the suppressed tokens are none of sherpa-onnx's
    told = [one for one in warnings if "heads of alignment" in one]
    return sorted([int(layer), int(head)] for layer, head in settings["alignment_heads"]), told


def metadata(model: Model, name: str, size: int, heads: Sequence[Sequence[int]]) -> dict[str, str]:
    """Of the encoder's file, all that sherpa-onnx's own export writes there."""
    family = family_of(whisper.token_ids(model))
    assert family is not None, "one of the requirements"
    ids, tokens = special_ids(family), whisper.text_tokens(model, family)
    languages = [code for code in IN_ORDER if f"<|{code}|>" in ids]
    start, english = ids["<|startoftranscript|>"], family == ENGLISH
    found: dict[str, object] = {
        "model_type": f"whisper-{name}", "version": VERSION, "maintainer": "chorus",
        **dimensions(model.config), "n_vocab": size,
        "sot_sequence": _listed([start] if english else [start, ids["<|en|>"], ids["<|transcribe|>"]]),
        "all_language_tokens": _listed(ids[f"<|{code}|>"] for code in languages),
        "all_language_codes": ",".join(languages), "sot": start, "sot_index": 0, "eot": ids["<|endoftext|>"],
        "blank_id": tokens.index(b" "), "is_multilingual": int(not english), "no_speech": ids["<|nospeech|>"],
        "non_speech_tokens": _listed(non_speech_tokens(tokens, model.label)),
        "transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"],
        "sot_prev": ids["<|startofprev|>"], "sot_lm": ids["<|startoflm|>"], "no_timestamps": ids[NO_TIMESTAMPS],
        "n_alignment_heads": len(heads), "alignment_heads": ",".join(f"{layer}:{head}" for layer, head in heads),
    }  # fmt: skip
    return {key: str(value) for key, value in found.items()}


def _listed(numbers: Iterable[int]) -> str:
    return ",".join(map(str, numbers))


def table(model: Model, size: int) -> str:
    """A line a token that is written: its bytes in base64, and its number. Special tokens have none."""
    ids = whisper.token_ids(model)
    family = family_of(ids)
    assert family is not None, "one of the requirements"
    tokens = dict(enumerate(whisper.text_tokens(model, family)))
    # tokens that were added behind the times
    tokens |= {i: text.encode() for text, i in ids.items() if family <= i < size}
    return "".join(f"{base64(token)} {i}\n" for i, token in sorted(tokens.items()))


def base64(token: bytes) -> str:
    """The empty token is a sign of padding alone, as in openai-whisper's own table."""
    return binascii.b2a_base64(token, newline=False).decode() or "="
