"""What two texts may differ in without being counted: normalisers by name, the same word in every table.

raw       as written, but for runs of white space and what cannot be seen
basic     Whisper's for any language: lower case, no punctuation; every combining mark becomes a space
english   Whisper's for English: also numbers, contractions, titles, British spellings
marks     as basic, but combining marks stay: for Indic, Arabic, Hebrew, Thai, where basic flatters
arabic    as marks, and unifies what Arabic spelling leaves open; `arabic:alef,tatweel` does only these

What the options of `arabic` do: alef (forms with hamza, madda, wasla -> bare), ya (alef maqsura -> ya),
ta_marbuta (-> ha), tatweel (taken out), diacritics (short vowels and Quranic signs taken out).

What cannot be seen is never counted, whichever is chosen (`visible`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator

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


# The category Cf, and what Unicode has programs ignore that cannot show it (Default_Ignorable_Code_Point: variation
# selectors, fillers); a test holds both against Unicode's own tables
INVISIBLE = re.compile(
    "[\u00ad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]+"
)
# Malayalam's chillus as Unicode wrote them before 5.1, with a joiner that must stay: they are letters (chapter 12.9)
CHILLUS = {
    "\u0d15": "\u0d7f", "\u0d23": "\u0d7a", "\u0d28": "\u0d7b", "\u0d30": "\u0d7c", "\u0d32": "\u0d7d",
    "\u0d33": "\u0d7e",
}  # fmt: skip
_CHILLU = re.compile("([\u0d23\u0d28\u0d30\u0d32\u0d33\u0d15])\u0d4d\u200d")


def _named(value: str) -> str:
    # what follows a colon are options of it (arabic:OPTIONS)
    if value.split(":")[0] not in NORMALISERS:
        raise ValueError(f"one of {', '.join(NORMALISERS)}")
    return value


NormaliserName = Annotated[str, AfterValidator(_named)]  # of settings


def visible(text: str) -> str:
    """The text in Unicode's composed form, without format characters.

    Direction marks, byte order marks, zero-width spaces, soft hyphens and variation selectors are no letters; nor are
    the joiners: where Persian, Malayalam or Sinhala is written with them they choose a shape, and Unicode's own
    comparison ignores them (UTS 10). Two texts that look alike are equal.
    """
    if text.isascii():
        return text
    text = _CHILLU.sub(lambda found: CHILLUS[found[1]], text)
    return unicodedata.normalize("NFC", INVISIBLE.sub("", text))


def undotted(text: str) -> str:
    """The Turkish capital with a dot as it is lowered: in Unicode's own lower case a second dot stays above the i."""
    return text.replace("\u0130", "i").replace("i\u0307", "i")


def normaliser(name: str) -> Normalise:
    """The normaliser of this name; `UsageError` names the nearest.

    >>> normaliser("marks")("Hindi: हिन्दी!")
    'hindi हिन्दी'
    """
    kind, colon, options = name.partition(":")
    if kind not in NORMALISERS or (colon and kind != "arabic"):
        raise UsageError(f'unknown normaliser "{name}"{nearest(kind, NORMALISERS)}')
    if kind == "raw":
        return lambda text: " ".join(visible(text).split())
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
    return lambda text: " ".join(made(undotted(visible(text))).split())


def keeping_marks(text: str) -> str:
    """Lower case, without punctuation, symbols and what stands in brackets; letters keep their marks."""
    # composed before it is lowered: a mathematical capital has a small letter only as the plain letter that it becomes
    text = unicodedata.normalize("NFKC", visible(text))
    text = unicodedata.normalize("NFKC", undotted(undotted(text).lower()))
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
        text = unicodedata.normalize("NFKC", visible(text))
        for pattern, by in rules:
            text = pattern.sub(by, text)
        return keeping_marks(text)

    return normalise
