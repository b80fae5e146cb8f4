"""What a language is called: `pt`, `pt-BR`, `pt_br` and `Portuguese` are one, wherever a language is written.

The codes and names are Whisper's (openai-whisper, tokenizer.py); a test holds them against transformers' table.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from chorus.errors import DataError, nearest

LANGUAGES: dict[str, str] = {  # code -> English name
    "af": "afrikaans", "am": "amharic", "ar": "arabic", "as": "assamese", "az": "azerbaijani", "ba": "bashkir",
    "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bo": "tibetan", "br": "breton", "bs": "bosnian",
    "ca": "catalan", "cs": "czech", "cy": "welsh", "da": "danish", "de": "german", "el": "greek", "en": "english",
    "es": "spanish", "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fo": "faroese",
    "fr": "french", "gl": "galician", "gu": "gujarati", "ha": "hausa", "haw": "hawaiian", "he": "hebrew",
    "hi": "hindi", "hr": "croatian", "ht": "haitian creole", "hu": "hungarian", "hy": "armenian", "id": "indonesian",
    "is": "icelandic", "it": "italian", "ja": "japanese", "jw": "javanese", "ka": "georgian", "kk": "kazakh",
    "km": "khmer", "kn": "kannada", "ko": "korean", "la": "latin", "lb": "luxembourgish", "ln": "lingala",
    "lo": "lao", "lt": "lithuanian", "lv": "latvian", "mg": "malagasy", "mi": "maori", "mk": "macedonian",
    "ml": "malayalam", "mn": "mongolian", "mr": "marathi", "ms": "malay", "mt": "maltese", "my": "myanmar",
    "ne": "nepali", "nl": "dutch", "nn": "nynorsk", "no": "norwegian", "oc": "occitan", "pa": "punjabi",
    "pl": "polish", "ps": "pashto", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sa": "sanskrit",
    "sd": "sindhi", "si": "sinhala", "sk": "slovak", "sl": "slovenian", "sn": "shona", "so": "somali",
    "sq": "albanian", "sr": "serbian", "su": "sundanese", "sv": "swedish", "sw": "swahili", "ta": "tamil",
    "te": "telugu", "tg": "tajik", "th": "thai", "tk": "turkmen", "tl": "tagalog", "tr": "turkish", "tt": "tatar",
    "uk": "ukrainian", "ur": "urdu", "uz": "uzbek", "vi": "vietnamese", "yi": "yiddish", "yo": "yoruba",
    "yue": "cantonese", "zh": "chinese",
}  # fmt: skip
OTHER_NAMES: dict[str, str] = {  # name -> code
    "burmese": "my", "castilian": "es", "flemish": "nl", "haitian": "ht", "letzeburgesch": "lb", "mandarin": "zh",
    "moldavian": "ro", "moldovan": "ro", "panjabi": "pa", "pushto": "ps", "sinhalese": "si", "valencian": "ca",
}  # fmt: skip
OTHER_CODES: dict[str, str] = {  # of ISO 639, for what Whisper codes otherwise
    "cmn": "zh", "fil": "tl",  # as FLEURS has them
    "iw": "he", "jv": "jw", "nb": "no",  # Whisper keeps an old code of Javanese
}  # fmt: skip
UNSPACED = {"bo", "ja", "km", "lo", "my", "th", "yue", "zh"}  # written without spaces between words
UNSPACED |= {"bod", "jpn", "khm", "lao", "mya", "tha", "zho"}  # as MMS codes them
# one map for all spellings; a code goes before a name that looks like it, of which there is none (a test)
_CODES = {name: code for code, name in LANGUAGES.items()} | OTHER_NAMES | OTHER_CODES | {c: c for c in LANGUAGES}


def language_code(text: str) -> str:
    """The code of a language that is given by code, code and region, or English name, in any case.

    What the table does not have stays as it is, in lower case: MMS's three letters mean what MMS means by them.

    >>> [language_code(text) for text in ("pt-BR", "pt_br", "Portuguese", "PT")]
    ['pt', 'pt', 'pt', 'pt']
    >>> language_code("azj-script_cyrillic")
    'azj-script_cyrillic'
    """
    name = _plain(text)
    return _CODES.get(name) or _CODES.get(name.replace("_", "-").split("-")[0], name)


def known_language(text: str, codes: Collection[str], *, where: object, hint: str) -> str:
    """The code of a language that must be one of a model's; `DataError` where it is none, or not given."""
    if not text:
        raise DataError(f"{where}: no language", hint)
    code = language_code(text)
    if code not in codes:
        near = nearest(_plain(text), names_of(codes))
        told = near if "did you mean" in near else nearest("", codes)  # a hundred names need not be told twice
        raise DataError(f'{where}: the tokenizer knows no language "{text}"{told}')
    return code


def is_language(spoken: str, asked: str) -> bool:
    """Whether a language is the one that is asked for.

    >>> is_language("pt-BR", "Portuguese"), is_language("pt_br", "pt-BR"), is_language("pt-PT", "pt-BR")
    (True, True, False)
    """
    if _plain(asked) in _CODES:
        return language_code(spoken) == language_code(asked)
    return _plain(spoken).replace("_", "-") == _plain(asked).replace("_", "-")


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def names_of(codes: Iterable[str]) -> list[str]:
    """What a user may call these languages, for messages: their codes and English names.

    >>> names_of({"pt"})
    ['pt', 'portuguese']
    """
    known = set(codes)
    return sorted(known) + sorted(name for name, code in _CODES.items() if code in known and name not in known)


def language_name(text: str) -> str:
    """The English name of a language, as a sentence writes it; what the table does not have stays as it is.

    >>> [language_name(text) for text in ("de", "pt-BR", "Haitian", "tpi")]
    ['German', 'Portuguese', 'Haitian Creole', 'tpi']
    """
    name = LANGUAGES.get(language_code(text))
    return name.title() if name else text


def unspaced(language: str) -> bool:
    """Whether a language puts no spaces between words, so that characters are counted."""
    return language_code(language).split("-")[0] in UNSPACED
