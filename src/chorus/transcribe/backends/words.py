"""Tokens that carry times as words: a space begins one, and so does every letter where no spaces are written."""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence

from chorus.models.languages import unspaced
from chorus.models.times import Word

BEFORE, AFTER = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"  # marks that belong to the word after, or before, them


def begins_word(text: str, language: str) -> bool:
    """Whether a token's text begins a word. Marks do too: their time is none of the word's before them."""
    return unspaced(language) or text.startswith(" ") or text.strip() in string.punctuation


def of_tokens(tokens: Iterable[tuple[bytes, float, float, float]], language: str) -> tuple[Word, ...]:
    """Words of tokens (bytes, start, end, probability), of which several may share the bytes of a letter.

    >>> of_tokens([(b" h", 0, 1, 0.5), (b"\\xc3", 1, 2, 1), (b"\\xa9", 2, 3, 0.75), (b",", 3, 4, 1)], "fr")
    (Word(start=0, end=3, text=' hé,', probability=0.75),)
    """
    found: list[Word] = []
    counts: list[int] = []
    held: list[tuple[bytes, float, float, float]] = []
    every = list(tokens)
    for i, token in enumerate(every):
        held.append(token)
        text = b"".join(one[0] for one in held).decode(errors="replace")
        # the bytes of one letter may be several tokens
        if text.endswith("\ufffd") and i < len(every) - 1:
            continue
        chance = sum(one[3] for one in held)
        if found and not begins_word(text, language):
            last = found.pop()
            chance += last.probability or 0
            found.append(Word(last.start, held[-1][2], last.text + text, chance))
            counts[-1] += len(held)
        else:
            found.append(Word(held[0][1], held[-1][2], text, chance))
            counts.append(len(held))
        held = []
    whole = [w._replace(probability=round((w.probability or 0) / n, 4)) for w, n in zip(found, counts, strict=True)]
    return tuple(with_marks(whole))


def with_marks(words: Sequence[Word]) -> list[Word]:
    """Marks joined to their words, whose times stay: an opening one to the word after it, others to the one before.

    >>> [w.text for w in with_marks([Word(0, 1, " ("), Word(1, 2, "yes"), Word(2, 3, ")"), Word(3, 4, ".")])]
    [' (yes).']
    """
    found: list[Word] = []
    waiting = ""
    for word in words:
        mark = word.text.strip()
        if mark and mark in BEFORE and word.text.startswith(" "):
            waiting += word.text
        elif found and not waiting and word.text in AFTER and not found[-1].text.endswith(" "):
            found[-1] = found[-1]._replace(text=found[-1].text + word.text)
        else:
            found.append(word._replace(text=waiting + word.text))
            waiting = ""
    if waiting and found:
        found[-1] = found[-1]._replace(text=found[-1].text + waiting)
    return found
