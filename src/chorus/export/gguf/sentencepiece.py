"""SentencePiece's vocabularies: pieces with scores, from tokenizer.model or from the merges that tokenizer.json has.

SentencePiece's BPE, and llama.cpp's, joins the two neighbours whose piece has the highest score; tokenizer.json's joins
by the order of a list of pairs. The two are one where that list has every pair, in the order of the pieces that they
make.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from chorus.checkpoints.vocabulary import protobuf_fields
from chorus.errors import CheckpointError
from chorus.files import MAX_TOKENIZER, read_bytes
from chorus.plain import JsonMap

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6
BYTES = re.compile(r"<0x[0-9A-F]{2}>")
NAMELESS = "<unk>"
BPE = 2  # SentencePiece's number for it among its kinds of models; 1 is Unigram


class Piece(NamedTuple):
    """`type` is SentencePiece's number, which is GGUF's too."""

    text: str
    score: float
    type: int


def read(path: Path) -> list[Piece]:
    """The pieces of a tokenizer.model, in order."""
    pieces, kind = [], 1
    for number, body in protobuf_fields(read_bytes(path, MAX_TOKENIZER)):
        if number == 1 and isinstance(body, bytes):
            pieces.append(_piece(body))
        elif number == 2 and isinstance(body, bytes):
            kind = next((v for n, v in protobuf_fields(body) if n == 3 and isinstance(v, int)), kind)
    if not pieces:
        raise CheckpointError(f"{path}: no SentencePiece model", "take the base's tokenizer.model")
    if kind != BPE:
        raise CheckpointError(
            f"{path}: a SentencePiece model that is no BPE, which llama.cpp has for other models",
            "take the tokenizer of the model that it was made of: --tokenizer DIR",
        )
    return pieces


def _piece(body: bytes) -> Piece:
    fields = dict(protobuf_fields(body))
    text, score, kind = fields.get(1, b""), fields.get(2, b""), fields.get(3, NORMAL)
    # by the defaults of its protocol: a field that is left out has this value
    return Piece(
        text.decode("utf-8", "replace") if isinstance(text, bytes) else "",
        struct.unpack("<f", score)[0] if isinstance(score, bytes) and len(score) == 4 else 0.0,
        kind if isinstance(kind, int) else NORMAL,
    )


def of_merges(tokens: Mapping[int, str], merges: Sequence[tuple[str, str]]) -> list[Piece]:
    """The pieces of a tokenizer.json that was made of a SentencePiece model, with scores of the same order.

    `CheckpointError` where its merges are not what scores can say.
    """
    known, order = set(tokens.values()), dict[str, int]()
    for left, right in merges:
        made = left + right
        if order.setdefault(made, len(order)) != len(order) - 1:
            raise _no_scores(f"merges {made!r} at two places of its order")
    # SentencePiece joins any two neighbours that make a piece: a pair that is no merge here would be one there
    pairs = set(merges)
    for made in order:
        if any(pair not in pairs for pair in _splits(made) if pair[0] in known and pair[1] in known):
            raise _no_scores(f"has not every pair that makes {made!r}")
    # scores stand in a list without gaps
    missing = [i for i in range(len(tokens)) if i not in tokens]
    if missing:
        raise CheckpointError(f"its tokenizer has no token {missing[0]}", "take the base's tokenizer")
    return [_of_token(tokens[i], order) for i in range(len(tokens))]


def _splits(made: str) -> Iterator[tuple[str, str]]:
    return ((made[:at], made[at:]) for at in range(1, len(made)))


def _of_token(token: str, order: Mapping[str, int]) -> Piece:
    if BYTES.fullmatch(token):
        return Piece(token, 0.0, BYTE)
    # what no merge makes, a letter, has no rank: it is never compared
    rank = float(order.get(token, len(order)))
    return Piece(token, -rank, UNKNOWN if token == NAMELESS else NORMAL)


def _no_scores(why: str) -> CheckpointError:
    return CheckpointError(
        f"its tokenizer.json {why}: no SentencePiece model has such merges, and llama.cpp knows those by scores alone",
        "put the tokenizer.model beside it that its tokenizer.json was made of",
    )


def prefixes(document: JsonMap) -> bool:
    """Whether a space is put before a text: by a normalizer (Prepend), or by what cuts it (Metaspace)."""
    for key, inner in (("normalizer", "normalizers"), ("pre_tokenizer", "pretokenizers")):
        given = document.get(key)
        parts = given.get(inner, [given]) if isinstance(given, dict) else []
        for part in parts if isinstance(parts, list) else []:
            if isinstance(part, dict) and part.get("type") == "Prepend":
                return True
            if isinstance(part, dict) and part.get("type") == "Metaspace":
                return part.get("prepend_scheme", "always") != "never" and part.get("add_prefix_space", True) is True
    return False
