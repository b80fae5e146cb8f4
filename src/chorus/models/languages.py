"""What a language is called: `pt`, `pt-BR`, `pt_br`, `por` and `Portuguese` are one, wherever a language is written.

The codes and names are Whisper's (openai-whisper, tokenizer.py); a test holds them against transformers' table.
"""

from __future__ import annotations

import re
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
MORE_NAMES: dict[str, str] = {  # that people write and Whisper's table does not have
    "azeri": "az", "bokmål": "no", "brazilian portuguese": "pt", "central khmer": "km", "european portuguese": "pt",
    "farsi": "fa", "filipino": "tl", "kiswahili": "sw", "mandarin chinese": "zh", "modern greek": "el",
    "modern standard arabic": "ar", "māori": "mi", "norwegian bokmål": "no", "norwegian nynorsk": "nn",
    "simplified chinese": "zh", "slovene": "sl", "standard arabic": "ar", "standard malay": "ms",
    "traditional chinese": "zh",
}  # fmt: skip
# The other codes of ISO 639-1, -2 and -3, by CLDR's aliases: a macrolanguage's and its standard member's. Of Arabic
# all members that corpora name: Whisper's Arabic is the macrolanguage. Not what only looks like one (zh is no `nan`)
OTHER_CODES: dict[str, str] = {
    "af": "afr", "am": "amh", "ar": "ara arb acm acq aeb afb ajp apc arq ars ary arz", "as": "asm", "az": "aze azj",
    "ba": "bak", "be": "bel", "bg": "bul", "bn": "ben", "bo": "bod tib", "br": "bre", "bs": "bos", "ca": "cat",
    "cs": "ces cze", "cy": "cym wel", "da": "dan", "de": "deu ger", "el": "ell gre", "en": "eng", "es": "spa",
    "et": "est ekk", "eu": "eus baq", "fa": "fas per pes prs", "fi": "fin", "fo": "fao", "fr": "fra fre", "gl": "glg",
    "gu": "guj", "ha": "hau", "he": "heb iw", "hi": "hin", "hr": "hrv scr", "ht": "hat", "hu": "hun", "hy": "hye arm",
    "id": "ind in", "is": "isl ice", "it": "ita", "ja": "jpn", "jw": "jav jv", "ka": "kat geo", "kk": "kaz",
    "km": "khm", "kn": "kan", "ko": "kor", "la": "lat", "lb": "ltz", "ln": "lin", "lo": "lao", "lt": "lit",
    "lv": "lav lvs", "mg": "mlg plt", "mi": "mri mao", "mk": "mkd mac", "ml": "mal", "mn": "mon khk", "mr": "mar",
    "ms": "msa may zsm", "mt": "mlt", "my": "mya bur", "ne": "nep npi", "nl": "nld dut", "nn": "nno",
    "no": "nor nb nob", "oc": "oci", "pa": "pan", "pl": "pol", "ps": "pus pbt pbu pst", "pt": "por",
    "ro": "ron rum mo mol", "ru": "rus", "sa": "san", "sd": "snd", "si": "sin", "sk": "slk slo", "sl": "slv",
    "sn": "sna", "so": "som", "sq": "sqi alb als", "sr": "srp scc", "su": "sun", "sv": "swe", "sw": "swa swh",
    "ta": "tam", "te": "tel", "tg": "tgk", "th": "tha", "tk": "tuk", "tl": "tgl fil", "tr": "tur", "tt": "tat",
    "uk": "ukr", "ur": "urd", "uz": "uzb uzn", "vi": "vie", "yi": "yid ydd ji", "yo": "yor", "zh": "zho chi cmn",
}  # fmt: skip
# written without spaces between words; beside Whisper's the Chinese languages, Dzongkha, Isan, Northern Thai and Shan,
# which corpora code by themselves, and the scripts, which a code may name too (`nan-Hant`, and `zh-Latn` is pinyin)
CHINESE = {"cdo", "cjy", "cpx", "czh", "czo", "gan", "hak", "hsn", "lzh", "mnp", "nan", "wuu", "yue"}
UNSPACED = {"bo", "ja", "km", "lo", "my", "th", "zh", "dz", "dzo", "nod", "shn", "tts"} | CHINESE
UNSPACED_SCRIPTS = {
    "hans", "hant", "hani", "jpan", "hira", "kana", "hrkt", "bopo", "thai", "laoo", "khmr", "mymr", "tibt", "lana",
    "talu", "tale", "java", "bali",
}  # fmt: skip
NAMES: dict[str, str] = {name: code for code, name in LANGUAGES.items()} | OTHER_NAMES | MORE_NAMES
# one map for all spellings; a code goes before a name that looks like it, of which there is none (a test)
_CODES = NAMES | {other: code for code, others in OTHER_CODES.items() for other in others.split()}
_CODES |= {code: code for code in LANGUAGES}


def language_code(text: str) -> str:
    """Whisper's code of a language given by any code of ISO 639, with region or script, or by its English name.

    What the table does not have stays as it is, in lower case: nothing is guessed.

    >>> [language_code(text) for text in ("pt-BR", "pt_br", "Portuguese", "por", "cmn_hans_cn", "jpn_Jpan")]
    ['pt', 'pt', 'pt', 'pt', 'zh', 'ja']
    >>> language_code("umb_ao")
    'umb_ao'
    """
    name = _plain(text)
    spaced = " ".join(name.replace("_", " ").replace("-", " ").split())
    if name in _CODES or spaced in NAMES:
        return _CODES.get(name) or NAMES[spaced]
    first, *rest = _subtags(name)
    code = _CODES.get(first, "")
    if code == "zh" and rest and rest[0] in CHINESE:  # BCP 47: a Chinese language behind the code of all (zh-yue)
        return _CODES.get(rest[0], rest[0])
    # behind a name only a region: "latin-american" is no Latin
    return code if code and (first not in NAMES or all(len(one) == 2 for one in rest)) else _either(name)


def _either(name: str) -> str:
    """The code of what ISO 639-2 names twice, such as `Spanish; Castilian`; else the name."""
    codes = {NAMES.get(one.strip(), "") for one in name.split(";")}
    return codes.pop() if len(codes) == 1 and codes != {""} else name


def _subtags(name: str) -> list[str]:
    """The parts of a code, by BCP 47 or POSIX: `zh-Hant-TW`, `pt_BR.UTF-8`, `sr_RS@latin`."""
    return re.split(r"[-_.@]", name)


def is_known(text: str) -> bool:
    """Whether the table has a language: its code is one of Whisper's."""
    return language_code(text) in LANGUAGES


def published_code(text: str) -> str:
    """The code that the hub knows a language by, ISO 639's; empty where the text is neither known nor a code.

    >>> [published_code(text) for text in ("pt-BR", "Javanese", "umb_ao", "the language of the hills")]
    ['pt', 'jv', 'umb', '']
    """
    code = language_code(text)
    if code not in LANGUAGES:
        code = _subtags(code)[0]
        return code if re.fullmatch("[a-z]{2,3}", code) else ""
    return "jv" if code == "jw" else code  # Whisper keeps an old code of Javanese


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

    >>> names_of({"it"})
    ['it', 'italian']
    """
    known = set(codes)
    return sorted(known) + sorted(name for name, code in NAMES.items() if code in known)


def language_name(text: str) -> str:
    """The English name of a language, as a sentence writes it; what the table does not have stays as it is.

    >>> [language_name(text) for text in ("de", "pt-BR", "Haitian", "tpi")]
    ['German', 'Portuguese', 'Haitian Creole', 'tpi']
    """
    name = LANGUAGES.get(language_code(text))
    return name.title() if name else text


def unspaced(language: str) -> bool:
    """Whether a language, as it is written here, puts no spaces between words, so that characters are counted.

    >>> [unspaced(text) for text in ("Japanese", "cmn_hans_cn", "zh-Latn", "hak", "ko")]
    [True, True, False, True, False]
    """
    scripts = [one for one in _subtags(_plain(language))[1:] if len(one) == 4 and one.isalpha()]
    if scripts:  # BCP 47 has no other subtag of four letters
        return scripts[0] in UNSPACED_SCRIPTS
    code = language_code(language)
    return code in UNSPACED or _subtags(code)[0] in UNSPACED
