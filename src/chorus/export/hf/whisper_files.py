"""The files beside a Whisper's weights, made from its dimensions and its table of text tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.sidecar import write_json
from chorus.export.hf.byte_pairs import joined, merges_of, ranks_of
from chorus.export.whisper import printable_bytes
from chorus.models.features import FRAMES_PER_SECOND, RATE
from chorus.models.whisper import POSITIONS_PER_SECOND, whole_generation
from chorus.models.whisper_tokens import END, ENGLISH, NO_TIMESTAMPS, START, TIMESTAMPS, special_ids
from chorus.plain import JsonMap, JsonObject

LETTERS = printable_bytes()
# What is written for sounds that nobody says, by the rule of openai-whisper's `Tokenizer.non_speech_tokens`: signs
# whose only token (alone or after a space) is never speech, and all tokens that begin a note.
SIGNS = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}",
    "♪♪", "♪♪♪",
)  # fmt: skip
NOTES = tuple("♩♪♫♬♭♮♯")
WITHIN_WORDS = ("-", "'")  # speech within a word, and not at the beginning of one
# of the control tokens those that are no text: known from openai-whisper's decoding (`_get_suppress_tokens`)
CONTROL = (START, "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>")
FIRST_TIMESTAMP = 50  # the latest that a text may begin with: a second


def write_tokenizer(directory: Path, tokens: Sequence[bytes], size: int, where: str) -> None:
    """`tokenizer.json` and its config, of the text tokens by rank; `size` is that of one of the three vocabularies."""
    ids = special_ids(size)
    written = ["".join(LETTERS[byte] for byte in token) for token in tokens]
    if size == ENGLISH:  # there the end of a text is GPT-2's own, one of its tokens
        written.append(END)
    merges = [["".join(LETTERS[byte] for byte in part) for part in pair] for pair in merges_of(tokens, where)]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    document = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [_added(name, i, size) for name, i in ids.items()],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": _template(ids),
        "decoder": {**byte_level, "add_prefix_space": True},
        "model": {
            "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": "",
            "end_of_word_suffix": "", "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(written)}, "merges": merges,
        },
    }  # fmt: skip
    write_json(directory / "tokenizer.json", document)
    write_tokenizer_config(directory, size)


def write_tokenizer_config(directory: Path, size: int) -> None:
    """What transformers is to make of `tokenizer.json`."""
    ids = special_ids(size)
    special = [name for name, i in ids.items() if i <= ids[NO_TIMESTAMPS] and name != END]
    write_json(
        directory / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "additional_special_tokens": special,
            **{f"{part}_token": END for part in ("bos", "eos", "pad", "unk")},
            "processor_class": "WhisperProcessor",
            "tokenizer_class": "WhisperTokenizer",
        },
    )


def _added(name: str, i: int, size: int) -> JsonObject:
    """A token beside the text tokens. Times are no special ones: a text with times is to keep them."""
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": i, "content": name, **plain, "special": i < size - TIMESTAMPS}


def _template(ids: Mapping[str, int]) -> JsonObject:
    """What stands around a text that is encoded, until a language and a task are set."""

    def token(name: str, kind: int = 0) -> JsonObject:
        return {"SpecialToken": {"id": name, "type_id": kind}}

    first, second = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    begin = [token(START), token(NO_TIMESTAMPS)]
    return {
        "type": "TemplateProcessing",
        "single": [*begin, first, token(END)],
        "pair": [*begin, first, second, token(END, 1)],
        "special_tokens": {n: {"id": n, "ids": [ids[n]], "tokens": [n]} for n in sorted((END, NO_TIMESTAMPS, START))},
    }


def generation_of(config: JsonMap, tokens: Sequence[bytes], ids: Mapping[str, int], where: str) -> JsonObject:
    """Generation settings computed from a vocabulary: special tokens, languages, what is not to be written.

    Alignment heads are in no such file, and are left out: word times need them.
    """
    # neither a space nor the end alone: a text begins with a word
    space = ranks_of(tokens, where)[b" "]
    known: JsonObject = {
        "suppress_tokens": sorted({*non_speech_tokens(tokens, where), *(ids[n] for n in CONTROL if n in ids)}),
        "begin_suppress_tokens": [space, ids[END]],
        "max_initial_timestamp_index": FIRST_TIMESTAMP,
        "max_length": int(config["max_target_positions"]),
        "return_timestamps": False,
    }
    return whole_generation(config, {}, ids) | known


def non_speech_tokens(tokens: Sequence[bytes], where: str) -> list[int]:
    """The text tokens that no speech is written with (see `SIGNS`)."""
    ranks = ranks_of(tokens, where)
    found = {ranks[joined(f" {sign}".encode(), ranks)[0]] for sign in WITHIN_WORDS}
    for sign, only in _signs():
        for text in (sign, f" {sign}"):
            parts = joined(text.encode(), ranks)
            if len(parts) == 1 or not only:
                found.add(ranks[parts[0]])
    return sorted(found)


def _signs() -> Iterator[tuple[str, bool]]:
    """(a sign, whether it must be one token)."""
    yield from ((sign, True) for sign in SIGNS)
    yield from ((note, False) for note in NOTES)


def features_of(config: JsonMap) -> JsonObject:
    """`preprocessor_config.json` of a config's dimensions."""
    seconds = int(config["max_source_positions"]) // POSITIONS_PER_SECOND
    return {
        "chunk_length": seconds,
        "dither": 0.0,
        "feature_extractor_type": "WhisperFeatureExtractor",
        "feature_size": int(config["num_mel_bins"]),
        "hop_length": RATE // FRAMES_PER_SECOND,
        "n_fft": 400,
        "n_samples": RATE * seconds,
        "nb_max_frames": FRAMES_PER_SECOND * seconds,
        "padding_side": "right",
        "padding_value": 0.0,
        "processor_class": "WhisperProcessor",
        "return_attention_mask": False,
        "sampling_rate": RATE,
    }
