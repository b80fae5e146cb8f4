"""What two texts may differ in without being counted: normalisers by name, the same word in every table.

raw       as written, but for runs of white space
basic     Whisper's for any language: lower case, no punctuation; every combining mark becomes a space
english   Whisper's for English: also numbers, contractions, titles, British spellings
marks     as basic, but combining marks stay: for Indic, Arabic, Hebrew, Thai, where basic flatters
arabic    as marks, and unifies what Arabic spelling leaves open; `arabic:alef,tatweel` does only these

What the options of `arabic` do: alef (forms with hamza, madda, wasla -> bare), ya (alef maqsura -> ya),
ta_marbuta (-> ha), tatweel (taken out), diacritics (short vowels and Quranic signs taken out).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from chorus.errors import MissingExtraError, UsageError, nearest

Normalise = Callable[[str], str]
NORMALISERS = ("raw", "basic", "english", "marks", "arabic")
ARABIC: dict[str, tuple[str, str]] = {  # option -> (pattern, replacement)
    "alef": ("[\u0622\u0623\u0625\u0671]", "\u0627"),
    "ya": ("\u0649", "\u064a"),
    "ta_marbuta": ("\u0629", "\u0647"),
    "tatweel": ("\u0640", ""),
    "diacritics": ("[\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e8\u06ea-\u06ed]", ""),
}


def normaliser(name: str) -> Normalise:
    """The normaliser of this name; `UsageError` names the nearest.

    >>> normaliser("marks")("Hindi: हिन्दी!")
    'hindi हिन्दी'
    """
    kind, colon, options = name.partition(":")
    if kind not in NORMALISERS or (colon and kind != "arabic"):
        raise UsageError(f'unknown normaliser "{name}"{nearest(kind, NORMALISERS)}')
    if kind == "raw":
        return lambda text: " ".join(text.split())
    if kind == "marks":
        return keeping_marks
    if kind == "arabic":
        return _arabic(options.split(",") if colon else list(ARABIC))
    try:
        from whisper_normalizer.basic import BasicTextNormalizer
        from whisper_normalizer.english import EnglishTextNormalizer
    except ImportError:
        raise MissingExtraError("audio", f"the normaliser {kind}") from None
    made: Normalise = BasicTextNormalizer() if kind == "basic" else EnglishTextNormalizer()
    return lambda text: " ".join(made(text).split())


def keeping_marks(text: str) -> str:
    """Lower case, without punctuation, symbols and what stands in brackets; letters keep their marks."""
    # composed before it is lowered: a mathematical capital has a small letter only as the plain letter that it becomes
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = re.sub(r"[<\[][^>\]]*[>\]]", "", text)
    text = re.sub(r"\(([^)]+?)\)", "", text)
    kept = (" " if unicodedata.category(c)[0] in "PS" else c for c in text)
    return " ".join("".join(kept).split())


def _arabic(options: list[str]) -> Normalise:
    for option in options:
        if option not in ARABIC:
            raise UsageError(f'arabic: unknown option "{option}"{nearest(option, ARABIC)}')
    rules = [(re.compile(pattern), by) for name, (pattern, by) in ARABIC.items() if name in options]

    def normalise(text: str) -> str:
        text = unicodedata.normalize("NFKC", text)
        for pattern, by in rules:
            text = pattern.sub(by, text)
        return keeping_marks(text)

    return normalise
