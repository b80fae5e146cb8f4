"""What every runtime's form of a Whisper is made of: dimensions, tensors in order, text tokens, special ids."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.architectures.openai_whisper import dimensions, openai_names, transformers_name
from chorus.checkpoints.beside import beside, tokenizer_in
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.vocabulary import vocabulary_of
from chorus.errors import CheckpointError, some
from chorus.export.protocol import Requirement
from chorus.export.values import blocks
from chorus.files import MAX_TOKENIZER, read_text
from chorus.models.whisper_tokens import ENGLISH, LARGE_V3, MULTILINGUAL, special_ids

Doubles = NDArray[np.float64]
SIZES = {ENGLISH: "English alone", MULTILINGUAL: "99 languages", LARGE_V3: "100 languages"}
ALIASES = {"<|nospeech|>": "<|nocaptions|>", "<|he|>": "<|iw|>"}  # what the first Whispers' tokenizers call them
HEAD, EMBEDDING = "proj_out.weight", "model.decoder.embed_tokens.weight"
UNTOUCHED = 1e-3  # of its own size that a row of padding may lie from the others: resizing draws them round their mean


def is_whisper(model: Model) -> bool:
    return model.config.get("model_type") == "whisper"


def tensors(model: Model) -> Iterator[tuple[str, LazyTensor]]:
    """(openai-whisper's name, tensor) of every weight, in openai-whisper's order of modules."""
    dims = dimensions(model.config)
    for name in openai_names(dims["n_audio_layer"], dims["n_text_layer"]):
        yield name, tensor_of(model, transformers_name(name))


def tensor_of(model: Model, name: str) -> LazyTensor:
    """The tensor that the architecture calls so, whatever its file calls it."""
    found = model.checkpoint.get(model.spelling.get(name, name))
    if found is None:
        raise CheckpointError(f"{model.label}: lacks {name}", "save or download it again")
    return found


def check_whisper(model: Model, *, runtime: str, trim: bool) -> list[Requirement]:
    """What must hold for any runtime that knows a Whisper by its dimensions alone."""
    if not is_whisper(model):
        kind = model.config.get("model_type") or "unknown"
        return [Requirement("a Whisper", f"a model of the type {kind}", f"{runtime} runs Whisper alone")]
    config = model.config
    found = [Requirement("a Whisper")]
    for part in ("encoder", "decoder"):
        wide, wanted = config.get(f"{part}_ffn_dim"), 4 * int(config["d_model"])
        problem = "" if wide == wanted else f"{part}_ffn_dim is {wide}, not 4 times d_model ({wanted})"
        found.append(Requirement(f"{part}: width", problem, f"{runtime} knows no other width"))
    return [*found, _check_head(model, runtime), *_check_vocabulary(model, trim)]


def _check_head(model: Model, runtime: str) -> Requirement:
    """The head must be the embedding: there is no place for another."""
    head = model.checkpoint.get(model.spelling.get(HEAD, HEAD))
    embedding = tensor_of(model, EMBEDDING)
    if head is None or head is embedding:
        return Requirement("head tied to the embedding")
    pairs = zip(blocks(head), blocks(embedding), strict=True)
    same = head.shape == embedding.shape and all(np.array_equal(one, other) for one, other in pairs)
    problem = "" if same else "its head (proj_out) is another than its embedding"
    remedy = f"{runtime} has one table for both; tie them (tie_word_embeddings: true) and train on"
    return Requirement("head tied to the embedding", problem, remedy)


def _check_vocabulary(model: Model, trim: bool) -> Iterator[Requirement]:
    size = int(model.config["vocab_size"])
    known = f"{', '.join(f'{n:,} ({what})' for n, what in SIZES.items())}"
    if size not in SIZES:
        wanted = trimmed_size(model)
        padding = wanted is not None and is_padding(model, wanted)
        if padding and trim:
            size = wanted or size
            yield Requirement("size of the vocabulary")
        else:
            remedy = (
                f"its last {size - (wanted or 0):,} rows are padding that nobody trained: --trim-vocab leaves them out"
                if padding
                else "tokens that were added cannot go there; fine-tune with the base's own tokenizer"
            )
            yield Requirement("size of the vocabulary", f"{size:,} tokens; it must have {known}", remedy)
            return
    else:
        yield Requirement("size of the vocabulary")
    yield from check_tokens(model, size)


def size_of(model: Model, *, trim: bool) -> int:
    """Tokens of the result."""
    size = int(model.config["vocab_size"])
    return size if size in SIZES or not trim else trimmed_size(model) or size


def trimmed_size(model: Model) -> int | None:
    """The vocabulary that a larger one is a padded form of: the largest that fits, with the tokenizer's tokens."""
    size, ids = int(model.config["vocab_size"]), token_ids(model)
    if not ids or max(ids.values()) >= LARGE_V3:
        return None
    fits = [n for n in SIZES if n <= size and not misplaced(ids, n) and max(ids.values()) < n]
    return max(fits, default=None)


def is_padding(model: Model, wanted: int) -> bool:
    """Whether the rows from `wanted` on are alike: zeros, or what resizing draws, which no training has moved."""
    embedding = tensor_of(model, EMBEDDING)
    size, width = embedding.shape

    def rows(first: int) -> Iterator[Doubles]:
        return (part.astype(np.float64).reshape(-1, width) for part in blocks(embedding, width, first * width))

    # a row alone is always like itself: it is held against what resizing draws around, the mean of all
    start = wanted if size - wanted > 1 else 0
    mean = sum((part.sum(0) for part in rows(start)), np.zeros(width)) / (size - start)
    largest = max(float(np.abs(part).max()) for part in rows(wanted))
    furthest = max(float(np.abs(part - mean).max()) for part in rows(wanted))
    return largest == 0 or furthest <= UNTOUCHED * float(np.abs(mean).max())


def check_tokens(model: Model, size: int) -> Iterator[Requirement]:
    """Whether the tokenizer is that of a vocabulary of this size, token by token."""
    ids = token_ids(model)
    if not ids:
        yield Requirement(
            "tokenizer", "no tokenizer is beside it",
            "copy the base's tokenizer.json (or vocab.json and merges.txt) beside it, or give --tokenizer DIR",
        )  # fmt: skip
        return
    yield Requirement("tokenizer")
    wrong = misplaced(ids, size)
    told = some((f"{name} is {mine}, not {theirs}" for name, mine, theirs in wrong), 2)
    remedy = "its tokenizer is another model's, or has tokens in another order: take the base's"
    yield Requirement("ids of special tokens", told, remedy if wrong else "")
    try:
        text_tokens(model, size)
        problem = ""
    except CheckpointError as error:
        problem = error.message
    yield Requirement("text tokens", problem, "take the base's tokenizer" if problem else "")


def misplaced(ids: Mapping[str, int], size: int) -> list[tuple[str, int, int]]:
    """(token, its id here, its id in a vocabulary of this size) where the two differ. Old ones lack timestamps."""
    found = []
    for name, wanted in special_ids(size).items():
        mine = ids.get(name, ids.get(ALIASES.get(name, name)))
        if mine is not None and mine != wanted:
            found.append((name, mine, wanted))
    return found


def token_ids(model: Model) -> dict[str, int]:
    """The tokenizer's tokens as transformers calls them; empty where there is no tokenizer."""
    files = tokenizer_files(model)
    # several checks ask, and a tokenizer takes a twentieth of a second to read
    return _ids_in(tuple((name, path, path.stat().st_mtime_ns) for name, path in files.items()))


@lru_cache(maxsize=2)
def _ids_in(files: tuple[tuple[str, Path, int], ...]) -> dict[str, int]:
    found = vocabulary_of({name: path for name, path, _ in files})
    return {} if found is None else found.ids


def tokenizer_files(model: Model) -> dict[str, Path]:
    """Name -> file of all that may hold the tokenizer."""
    return beside(model).carried if model.tokenizer_directory is None else tokenizer_in(model.tokenizer_directory)


def text_tokens(model: Model, size: int) -> list[bytes]:
    """The bytes of each text token, in the order of their ids: those before <|endoftext|>.

    A multilingual Whisper's last one is empty: it stands where GPT-2's own end of text stood.
    """
    count = special_ids(size)["<|endoftext|>"]
    files = tokenizer_files(model)
    ranks = next((name for name in sorted(files) if name.endswith(".tiktoken")), None)
    if ranks is not None and not {"tokenizer.json", "vocab.json"} & set(files):
        known = _ranked(files[ranks])
    else:
        known = {i: _bytes_of(token) for token, i in token_ids(model).items() if i < count}
    # transformers calls it "" or leaves it out
    if size != ENGLISH:
        known[count - 1] = b""
    missing = [i for i in range(count) if i not in known]
    if missing:
        raise CheckpointError(
            f"{model.label}: its tokenizer has no token {missing[0]} ({len(missing):,} of {count:,} text tokens lack)",
            "take the base's tokenizer",
        )
    return [known[i] for i in range(count)]


def ranked_tokens(path: Path) -> list[bytes]:
    """The tokens of a `.tiktoken` file in the order of their ranks, which must be all from 0."""
    found = _ranked(path)
    if not found or sorted(found) != list(range(len(found))):
        raise CheckpointError(f"{path}: its ranks are not all from 0 on", "take openai-whisper's own")
    return [found[rank] for rank in range(len(found))]


def _ranked(path: Path) -> dict[int, bytes]:
    found = {}
    for line in read_text(path, MAX_TOKENIZER).split("\n"):
        word, _, rank = line.partition(" ")
        if word:
            try:
                # the empty token of the multilingual vocabulary is written as a sign of padding alone
                found[int(rank)] = b"" if word == "=" else binascii.a2b_base64(word, strict_mode=True)
            except (ValueError, binascii.Error):
                raise CheckpointError(
                    f"{path}: a line that is no token and rank", "take openai-whisper's own"
                ) from None
    return found


def printable_bytes() -> dict[int, str]:
    """GPT-2's letters for bytes: those that print are themselves, the rest come after U+0100.

    Radford et al., Language Models are Unsupervised Multitask Learners, 2019 (its released encoder).
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}


BYTES = {letter: byte for byte, letter in printable_bytes().items()}


def _bytes_of(token: str) -> bytes:
    """The bytes of a token in GPT-2's letters; a token that is none of these is text."""
    try:
        return bytes(BYTES[letter] for letter in token)
    except KeyError:
        return token.encode()
