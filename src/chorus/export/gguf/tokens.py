"""The tokenizer as llama.cpp has it: tokens by id, what each is, merges or scores, special ids, chat template.

Two kinds are known there by these models: byte-level BPE ("gpt2") and SentencePiece's BPE ("llama"). Types, the names
of padding and what counts as special are as llama.cpp's converter has them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.checkpoints.vocabulary import vocabulary_of
from chorus.errors import CheckpointError, some
from chorus.export.gguf import sentencepiece
from chorus.export.gguf.pre_tokenizers import recognised
from chorus.files import MAX_TOKENIZER, read_json, read_text
from chorus.plain import JsonMap, JsonObject

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the package's TokenType
ROLES = ("bos", "eos", "unk", "sep", "pad", "mask")
SPACE = "▁"  # SentencePiece's
TAKE = "take the tokenizer of the model that it was made of: --tokenizer DIR"


@dataclass
class Words:
    """What a file says of its tokens. `scores` are SentencePiece's, `merges` byte-level BPE's."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    scores: list[float] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    special: dict[str, int] = field(default_factory=dict)
    add_bos: bool = False
    add_eos: bool = False
    add_space_prefix: bool | None = None
    templates: dict[str, str] = field(default_factory=dict)


def read_words(files: Mapping[str, Path], config: JsonMap, *, usual: str, pre: str = "") -> Words:
    """The tokenizer among a model's files, padded to the rows that its config says.

    `usual` is the model's usual pre-tokenizer, `pre` the one that is asked for. Raises `CheckpointError` for what
    llama.cpp has not, or what no file says.
    """
    size = int(config["vocab_size"])
    # first, for it alone has every token: trainers add to it, and leave tokenizer.model as it was
    if "tokenizer.json" in files:
        words = _of_document(read_json(files["tokenizer.json"], limit=MAX_TOKENIZER), files, size, pre)
    elif "vocab.json" in files and "merges.txt" in files:
        words = _of_vocabulary(files, size, pre or usual)
    elif "tokenizer.model" in files:
        words = sentencepiece_words(sentencepiece.read(files["tokenizer.model"]), size)
        _add(words, _added(files), size)
    else:
        raise CheckpointError(
            "no tokenizer is beside it (tokenizer.json, vocab.json with merges.txt, or tokenizer.model)", TAKE
        )
    settings = _settings(files)
    if words.model == "gpt2" and not words.merges:
        raise CheckpointError("its tokenizer has no merges, without which llama.cpp loads no byte-level BPE", TAKE)
    _name_special(words, settings, config)
    for role in ("bos", "eos"):
        flag = settings.get(f"add_{role}_token")
        # where the settings name no such token, transformers has none to add
        if flag is False or (flag is True and settings.get(f"{role}_token")):
            setattr(words, f"add_{role}", flag and role in words.special)
    words.templates = chat_templates(files)
    _refuse_ambiguous(words.tokens)
    return words


def _refuse_ambiguous(tokens: Sequence[str]) -> None:
    """llama.cpp ends with an assertion where two tokens have one text, which ends at a NUL; empty ones it numbers."""
    seen = Counter(token.partition("\0")[0] or f"[EMPTY_{i}]" for i, token in enumerate(tokens))
    if twice := [repr(token) for token, count in seen.items() if count > 1]:
        raise CheckpointError(f"more than one of its tokens is {some(twice, 3)}, which llama.cpp cannot load", TAKE)


def _of_document(document: JsonObject, files: Mapping[str, Path], size: int, pre: str) -> Words:
    """tokenizer.json."""
    model = document.get("model")
    model = model if isinstance(model, dict) else {}
    vocabulary, kind = model.get("vocab"), model.get("type") or ("BPE" if "merges" in model else "unknown")
    if kind != "BPE" or not isinstance(vocabulary, dict):
        raise CheckpointError(f"a tokenizer of the kind {kind}; llama.cpp has BPE for these models", TAKE)
    merges = _merges(model.get("merges"))
    tokens = {i: str(token) for token, i in vocabulary.items() if isinstance(i, int)}
    if len(tokens) != len(vocabulary):
        raise CheckpointError("its tokenizer has tokens without an id of their own", TAKE)
    # by what cuts and joins: GPT-2's letters and SentencePiece's both stand in a model of the type BPE
    if byte_level(document):
        normalizers = {str(part.get("type")) for part in _parts(document.get("normalizer"), "normalizers")}
        if normalizers - {"NFC", "None"}:
            raise CheckpointError(f"its texts are normalised by {sorted(normalizers)}, which llama.cpp does not", TAKE)
        words = _padded("gpt2", pre or recognised(document), tokens, size)
        # a space in a piece would read as the one between the two; the converter writes it so too
        words.merges = [" ".join(part.replace(" ", "Ġ") for part in pair) for pair in merges]
    elif model.get("byte_fallback"):
        words = sentencepiece_words(_pieces(tokens, merges, files), size)
        words.add_space_prefix = sentencepiece.prefixes(document)
    else:
        raise CheckpointError("a BPE that is neither of bytes nor falls back to them; llama.cpp has no such", TAKE)
    added = document.get("added_tokens")
    _add(words, [one for one in added if isinstance(one, dict)] if isinstance(added, list) else [], size)
    for role, token in zip(("bos", "eos"), _template(document), strict=True):
        setattr(words, f"add_{role}", bool(token))
        words.special |= {role: words.tokens.index(token)} if token in words.tokens else {}
    return words


def _pieces(
    tokens: Mapping[int, str], merges: Sequence[tuple[str, str]], files: Mapping[str, Path]
) -> list[sentencepiece.Piece]:
    """Pieces with scores: by the order of the merges, where that is all that a score says; else tokenizer.model's."""
    try:
        return sentencepiece.of_merges(tokens, merges)
    except CheckpointError:  # its own file has the scores
        if "tokenizer.model" not in files:
            raise
    return sentencepiece.read(files["tokenizer.model"])


def _of_vocabulary(files: Mapping[str, Path], size: int, pre: str) -> Words:
    """vocab.json with merges.txt, of which nothing says how texts are cut."""
    found = vocabulary_of({"vocab.json": files["vocab.json"]})
    words = _padded("gpt2", pre, found.tokens if found is not None else {}, size)
    lines = read_text(files["merges.txt"], MAX_TOKENIZER).replace("\r\n", "\n").split("\n")  # never at other signs
    words.merges = [line for line in lines if line and not line.startswith("#version")]
    _add(words, _added(files), size)
    return words


def _padded(model: str, pre: str, tokens: Mapping[int, str], size: int) -> Words:
    _refuse_beyond(max(tokens, default=0), size)
    if not tokens:
        raise CheckpointError("its tokenizer has no tokens", TAKE)
    names = [tokens.get(i, f"[PAD{i}]") for i in range(size)]
    return Words(model, pre, names, [NORMAL if i in tokens else UNUSED for i in range(size)])


def sentencepiece_words(pieces: Sequence[sentencepiece.Piece], size: int) -> Words:
    """Words of SentencePiece's, padded; a text begins with a space, and with the beginning of a text."""
    _refuse_beyond(len(pieces) - 1, size)
    words = _padded("llama", "default", {i: piece.text for i, piece in enumerate(pieces)}, size)
    words.types[: len(pieces)] = [piece.type for piece in pieces]
    words.scores = [piece.score for piece in pieces] + [-1000.0] * (size - len(pieces))
    # Llama's, where nothing says otherwise
    words.add_bos, words.add_space_prefix = True, True
    unknown = [i for i, piece in enumerate(pieces) if piece.type == UNKNOWN]
    words.special = {"unk": unknown[0]} if unknown else {}
    return words


def _refuse_beyond(last: int, size: int) -> None:
    if last >= size:
        raise CheckpointError(f"its tokenizer has a token {last:,}, its embedding {size:,} rows", TAKE)


def _add(words: Words, added: Sequence[JsonMap], size: int) -> None:
    """Tokens that were added, in the places of what is there: special ones, and those that stand as they are."""
    for one in added:
        i, token = one.get("id"), one.get("content")
        if not isinstance(i, int) or isinstance(i, bool) or not isinstance(token, str) or i < 0:
            raise CheckpointError(f"an added token without id or content: {str(dict(one))[:80]}", TAKE)
        _refuse_beyond(i, size)
        known = words.types[i]
        # <unk> is a special token too, but llama.cpp knows it by its type
        if one.get("special") or looks_special(token):
            words.types[i] = UNKNOWN if known == UNKNOWN else CONTROL
        else:
            words.types[i] = USER_DEFINED
            token = token.replace(SPACE, " ")
        words.tokens[i] = token
        if words.scores and known != UNKNOWN:  # below every piece, so that no merge makes it
            words.scores[i] = -1000.0


def looks_special(token: str) -> bool:
    """Whether llama.cpp's converter takes an added token for one of control, whatever its own file says."""
    return (
        token in ("<pad>", "<mask>", "<2mass>", "[@BOS@]")
        or (token.startswith(("<|", "<｜")) and token.endswith(("|>", "｜>")))
        or (token.startswith("<unused") and token.endswith(">"))
    )


def _added(files: Mapping[str, Path]) -> list[JsonObject]:
    """Added tokens where no tokenizer.json is: of added_tokens.json and the settings."""
    found: dict[int, JsonObject] = {}
    if "added_tokens.json" in files:
        for token, i in read_json(files["added_tokens.json"], limit=MAX_TOKENIZER).items():
            found[i] = {"id": i, "content": token}
    decoder = _settings(files).get("added_tokens_decoder")
    for key, one in (decoder if isinstance(decoder, dict) else {}).items():
        if isinstance(one, dict) and str(key).isdecimal():
            found[int(key)] = {"id": int(key), **one}
    return list(found.values())


def _settings(files: Mapping[str, Path]) -> JsonObject:
    return read_json(files["tokenizer_config.json"]) if "tokenizer_config.json" in files else {}


def _merges(given: object) -> list[tuple[str, str]]:
    """Pairs, written as such or with a space between them."""
    found = []
    for one in given if isinstance(given, list) else []:
        # tokenizers before 0.20 wrote them as one text
        pair = one.split(" ", 1) if isinstance(one, str) else one
        if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(part, str) for part in pair):
            raise CheckpointError(f"a merge that is no pair: {str(one)[:80]}", TAKE)
        found.append((pair[0], pair[1]))
    return found


def _parts(given: object, key: str) -> Iterator[JsonObject]:
    """The parts of a sequence of tokenizer.json's, or the one that stands alone."""
    if not isinstance(given, dict):
        return
    inner = given.get(key)
    if isinstance(inner, list):
        for one in inner:
            yield from _parts(one, key)
    else:
        yield given


def byte_level(document: JsonMap) -> bool:
    """Whether its tokens are GPT-2's letters for bytes."""
    parts = [*_parts(document.get("pre_tokenizer"), "pretokenizers"), *_parts(document.get("decoder"), "decoders")]
    return any(part.get("type") == "ByteLevel" for part in parts)


def _template(document: JsonMap) -> tuple[str, str]:
    """The special tokens that the post-processor puts before and after a text; empty where it does not."""
    for part in _parts(document.get("post_processor"), "processors"):
        single = part.get("single")
        if part.get("type") == "TemplateProcessing" and isinstance(single, list) and len(single) > 1:
            ends = [one.get("SpecialToken") if isinstance(one, dict) else None for one in (single[0], single[-1])]
            first, last = (str(end.get("id")) if isinstance(end, dict) else "" for end in ends)
            return first, last
    return "", ""


def _name_special(words: Words, settings: JsonMap, config: JsonMap) -> None:
    """Which token has which role: by the tokenizer's settings, then by the model's config."""
    ids = {token: i for i, token in enumerate(words.tokens) if words.types[i] != UNUSED}
    for role in ROLES:
        given = settings.get(f"{role}_token")
        token = given.get("content") if isinstance(given, dict) else given
        number = config.get(f"{role}_token_id")
        # several that end a text: the first is the one, as generation has it
        number = number[0] if isinstance(number, list) and number else number
        if role in words.special and role != "unk":  # what stands around every text is what it was trained with
            continue
        if isinstance(token, str) and token in ids:
            words.special[role] = ids[token]
        elif isinstance(number, int) and 0 <= number < len(words.tokens) and role not in words.special:
            words.special[role] = number


def chat_templates(files: Mapping[str, Path]) -> dict[str, str]:
    """Chat templates by name; the one that is meant is called default."""
    found = {}
    for name, path in files.items():
        folder, _, file = name.rpartition("/")
        if name == "chat_template.jinja":
            found["default"] = read_text(path, MAX_TOKENIZER)
        elif folder == "additional_chat_templates" and file.endswith(".jinja"):
            found[file.removesuffix(".jinja")] = read_text(path, MAX_TOKENIZER)
    if found:  # in the place of what the settings say, to transformers
        return found
    given = _settings(files).get("chat_template")
    if given is None and "chat_template.json" in files:
        given = read_json(files["chat_template.json"], limit=MAX_TOKENIZER).get("chat_template")
    if isinstance(given, str):
        return {"default": given}
    named = [one for one in given if isinstance(one, dict)] if isinstance(given, list) else []
    return {str(one.get("name")): one["template"] for one in named if isinstance(one.get("template"), str)}
