"""Which token each id stands for, from whatever files a tokenizer has; without transformers, for a plan."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from chorus.files import MAX_TOKENIZER, read_bytes, read_json, read_text
from chorus.identity import file_hash
from chorus.plain import JsonObject

Tokens = dict[int, str]
PIECES = "pieces"  # what transformers calls the tokens, by the ids that the model has


# Names of rows that nothing was trained on. Llama 3.1 gave two of 3's a use and numbered all others anew.
RESERVED = re.compile(r"reserved|unused|placeholder|dummy|madeup|[<\[_]extra[_ ]|control_\d", re.IGNORECASE)


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id. Two of different `form` cannot be compared: ids are counted, or words written, otherwise."""

    form: str
    tokens: Tokens

    @property
    def ids(self) -> dict[str, int]:
        return {token: i for i, token in self.tokens.items()}


@dataclass
class Misfits:
    """Ids that mean different tokens: moved where each of the two stands elsewhere in the other vocabulary."""

    moved: list[tuple[int, str, str]] = field(default_factory=list)
    renamed: list[tuple[int, str, str]] = field(default_factory=list)
    lacking: list[str] = field(default_factory=list)  # tokens that the first has not


def vocabulary_of(files: Mapping[str, Path]) -> Vocabulary | None:
    """The vocabulary among a model's files; None where there is none that could be read."""
    for name, form, read in _readers(files):
        tokens = read(files[name])
        if tokens:
            if name == "vocab.json" and "added_tokens.json" in files:
                tokens |= _by_token(read_json(files["added_tokens.json"], limit=MAX_TOKENIZER))
            return Vocabulary(form, tokens)
    return None


def _readers(files: Mapping[str, Path]) -> Iterator[tuple[str, str, Callable[[Path], Tokens]]]:
    """The files that may tell, in transformers' order."""
    known: list[tuple[str, str, Callable[[Path], Tokens]]] = [
        ("tokenizer.json", PIECES, _tokenizers),
        ("vocab.json", PIECES, lambda path: _by_token(read_json(path, limit=MAX_TOKENIZER))),
        ("tekken.json", "tekken", _tekken),
        ("vocab.txt", PIECES, lambda path: dict(enumerate(_lines(path)))),
    ]
    # ids of a model's own, which slow tokenizers shift, each in a way of its own
    models = ("tokenizer.model", "sentencepiece.bpe.model", "spiece.model", "source.spm")
    known += [(name, name, _sentencepiece) for name in models]
    known += [(name, name, _tiktoken) for name in sorted(files) if name.endswith(".tiktoken")]
    return ((name, form, read) for name, form, read in known if name in files)


def difference(mine: Vocabulary, theirs: Vocabulary, rows: int) -> Misfits:
    """Where two vocabularies of one form differ, of the first `rows` ids."""
    found = Misfits()
    if mine.form != theirs.form:
        return found
    here, there = set(mine.tokens.values()), set(theirs.tokens.values())
    for i, token in sorted(theirs.tokens.items()):
        own = mine.tokens.get(i)
        if i >= rows or own == token:
            continue
        if own is None:  # a row that is padding in the other model
            found.lacking.append(token)
        elif token in here and own in there and not (RESERVED.search(own) or RESERVED.search(token)):
            found.moved.append((i, own, token))
        else:
            found.renamed.append((i, own, token))
    return found


def shown_ids(different: Sequence[tuple[int, str, str]], theirs: str, mine: str) -> str:
    """The first ids that mean different tokens, with what each model calls them."""
    parts = [f"{i} is {token!r} in {theirs}, {own!r} in {mine}" for i, own, token in different[:2]]
    return "; ".join(parts) + ("; ..." if len(different) > 2 else "")


def same_files(one: Mapping[str, Path], other: Mapping[str, Path]) -> bool:
    """Whether the files that could tell are byte for byte the same, so that none need be parsed."""
    names = [name for name, _, _ in _readers(one)]
    if names != [name for name, _, _ in _readers(other)]:
        return False
    names += ["added_tokens.json"] if "added_tokens.json" in one or "added_tokens.json" in other else []
    return all(name in one and name in other and same(one[name], other[name]) for name in names)


def same(one: Path, other: Path) -> bool:
    """Whether two files have the same bytes."""
    # the hub's cache links equal files of two models to two blobs; a folder of one's own may hold links to one
    return one.samefile(other) or (one.stat().st_size == other.stat().st_size and file_hash(one) == file_hash(other))


def _lines(path: Path) -> list[str]:
    """Lines as transformers reads them: a token may hold any other sign at which `splitlines` breaks."""
    text = read_text(path, MAX_TOKENIZER).replace("\r\n", "\n")
    return text.removesuffix("\n").split("\n") if text else []


def _by_token(entries: Mapping[str, object]) -> Tokens:
    return {i: token for token, i in entries.items() if isinstance(i, int)}


def _tokenizers(path: Path) -> Tokens:
    """`tokenizer.json`: a map (BPE, WordPiece, WordLevel) or a list of [piece, score] (Unigram); what was added."""
    document = read_json(path, limit=MAX_TOKENIZER)
    model = document.get("model")
    entries = model.get("vocab") if isinstance(model, dict) else None
    tokens: Tokens = {}
    if isinstance(entries, dict):
        tokens = _by_token(entries)
    elif isinstance(entries, list):
        tokens = {i: str(one[0]) for i, one in enumerate(entries) if isinstance(one, list) and one}
    added = document.get("added_tokens")
    for one in added if isinstance(added, list) else ():
        if isinstance(one, dict) and isinstance(one.get("id"), int):
            tokens[one["id"]] = str(one.get("content"))
    return tokens


def _tekken(path: Path) -> Tokens:
    """Mistral's: the special tokens first, then the bytes by rank."""
    document = read_json(path, limit=MAX_TOKENIZER)
    config, entries, special = (document.get(key) for key in ("config", "vocab", "special_tokens"))
    if not isinstance(config, dict) or not isinstance(entries, list):
        return {}
    shift = config.get("default_num_special_tokens")
    shift = shift if isinstance(shift, int) else 0
    tokens = {shift + int(one["rank"]): str(one.get("token_bytes")) for one in _ranked(entries)}
    return tokens | {int(one["rank"]): str(one.get("token_str")) for one in _ranked(special)}


def _ranked(entries: object) -> list[JsonObject]:
    found = entries if isinstance(entries, list) else []
    return [one for one in found if isinstance(one, dict) and isinstance(one.get("rank"), int)]


def _tiktoken(path: Path) -> Tokens:
    """Lines of a token in base64 and its rank."""
    tokens: Tokens = {}
    for line in _lines(path):
        word, _, rank = line.partition(" ")
        try:
            tokens[int(rank)] = base64.b64decode(word).decode("utf-8", "backslashreplace")
        except ValueError:  # base64's errors are of these
            return {}
    return tokens


def _sentencepiece(path: Path) -> Tokens:
    """The pieces of a SentencePiece model, in order: field 1 of a protocol buffer, in each of them field 1 its text."""
    fields = protobuf_fields(read_bytes(path, MAX_TOKENIZER))
    return dict(enumerate(_text(body) for number, body in fields if number == 1 and isinstance(body, bytes)))


def _text(message: bytes) -> str:
    fields = protobuf_fields(message)
    return next((body.decode("utf-8", "replace") for n, body in fields if n == 1 and isinstance(body, bytes)), "")


def protobuf_fields(data: bytes) -> Iterator[tuple[int, bytes | int]]:
    """(number, value) of a protocol buffer's fields: a number where it is one, else its bytes (of a float all four).

    Nothing more once it is none.
    """
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = _varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            return
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value, at + i + 1
    return 0, len(data)
