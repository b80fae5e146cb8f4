"""Byte-pair encoding from a table of tokens alone: its merges, and the tokens of a text.

A table of tokens in the order of their ranks (tiktoken's, whisper.cpp's) is a whole tokenizer: of the pairs that stand
side by side, the one of the lowest rank is joined first. Sennrich et al., Neural Machine Translation of Rare Words with
Subword Units, 2016.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from chorus.errors import CheckpointError

Pair = tuple[bytes, bytes]
AGAIN = "give --tokenizer DIR: the tokenizer of the model that it was made from"


def ranks_of(tokens: Sequence[bytes], where: str) -> dict[bytes, int]:
    """Token -> rank; `CheckpointError` where the table cannot be a tokenizer's."""
    ranks = {token: rank for rank, token in enumerate(tokens) if token}
    lacking = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if lacking or len(ranks) < sum(map(bool, tokens)):
        # old converters wrote tokens as texts, which loses all that are parts of a letter
        told = f"no token for {len(lacking)} of the 256 bytes" if lacking else "tokens that stand in it twice"
        raise CheckpointError(f"{where}: its table of tokens has {told}: no text can be encoded with it", AGAIN)
    return ranks


def merges_of(tokens: Sequence[bytes], where: str) -> list[Pair]:
    """The pairs that make each token of more than a byte, in the order of their ranks.

    Each token is encoded with those before it: two are left, and they are its pair.
    """
    ranks, found = ranks_of(tokens, where), []
    for rank, token in enumerate(tokens):
        if len(token) < 2:
            continue
        parts = joined(token, ranks, below=rank)
        if len(parts) != 2:
            raise CheckpointError(
                f"{where}: token {rank:,} of its table ({token!r}) is not made of two before it", AGAIN
            )
        found.append((parts[0], parts[1]))
    return found


def joined(word: bytes, ranks: Mapping[bytes, int], *, below: int | None = None) -> list[bytes]:
    """The tokens of a word; of those below a rank alone, where one is given.

    >>> joined(b"aab", {b"a": 0, b"b": 1, b"ab": 2})
    [b'a', b'ab']
    """
    limit = len(ranks) + 1 if below is None else below
    parts = [word[i : i + 1] for i in range(len(word))]
    while len(parts) > 1:
        pairs = [ranks.get(one + other, limit) for one, other in pairwise(parts)]
        best = min(pairs)
        if best >= limit:
            break
        at = pairs.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts
