"""Spaces, what cannot be seen, loops, the unit of a translation: what is an error and what is none."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.evaluate.scores import measures, value_of
from chorus.models.languages import LANGUAGES
from chorus.tasks.asr import ASR
from chorus.tasks.counts import align, shown
from chorus.tasks.loops import is_loop, without_spaces
from chorus.tasks.normalise import INVISIBLE, NORMALISERS, normaliser
from chorus.tasks.scored import Scored, score_texts
from chorus.tasks.st import ST
from chorus.train.measure import edits, rates
from results import counted


def scored(reference: str, heard: str, language: str = "", how: str = "marks", **more: object) -> Scored:
    row = {"name": "a", "condition": "clean", "language": language, "reference": reference, "hypothesis": heard, **more}
    return score_texts([row], how)[0]


# ---- spaces in characters ----


@pytest.mark.reported("spaces-in-characters")
@pytest.mark.parametrize("how", NORMALISERS)
@pytest.mark.parametrize(
    ("language", "reference", "heard"),
    [
        ("ja", "今日は、天気がいいですね。", "今日は天気がいいですね"),
        ("ja", "今日は天気がいいですね", "今日は、天気が いいですね。"),
        ("zh", "局部干涩的例子包括有口干、眼睛干燥、及阴道干燥。", "局部干涩的例子包括有口干眼睛干燥及阴道干燥"),
        ("th", "สวัสดีครับ ผมชื่อสมชาย", "สวัสดีครับผมชื่อสมชาย"),
        ("bo", "བཀྲ་ཤིས་བདེ་ལེགས།", "བཀྲ་ཤིས་ བདེ་ལེགས།"),
        ("yue", "我 係 香港人", "我係香港人"),
    ],
)
def test_spaces_are_no_characters(language, reference, heard, how):
    found = scored(reference, heard, language, how)
    punctuation = sum(unicodedata.category(c)[0] == "P" for c in reference + heard) if how == "raw" else 0
    assert found.unit == "characters"
    assert found.counts.errors <= punctuation
    assert (found.characters, found.alignment.counts) == (found.counts, found.counts)
    assert scored(reference, reference.replace(" ", ""), language, how).counts.errors == 0


@pytest.mark.reported("spaces-in-characters")
def test_a_cer_beside_a_wer_stays_every_other_tools():
    import jiwer

    found = scored("to day is fine", "today is fine", "en")
    assert found.characters.error_rate == pytest.approx(100 * jiwer.cer("to day is fine", "today is fine"))
    assert found.counts == found.words
    forced = score_texts([{"name": "", "condition": "", "reference": "a b", "hypothesis": "ab"}], "raw", "characters")
    assert value_of(forced) == 0.0


@pytest.mark.reported("spaces-in-characters")
def test_alignments_of_characters_show_no_spaces():
    found = scored("今日 は", "今 日わ", "ja")
    assert shown(found.reference, found.hypothesis, found.unit, found.alignment)[0] == "REF: 今 日 は"


@pytest.mark.reported("spaces-in-characters")
def test_training_counts_as_evaluation_does():
    sums = edits(["今日 は", "to day"], ["今日は", "today"], [True, False])
    assert (sums["char_edits"], sums["chars"]) == (1, 3 + 6)
    assert rates(sums)["cer"] == pytest.approx(100 / 9)


WORDS = st.lists(st.text("今日は天気がที่ນີ້མེད", min_size=1, max_size=5), min_size=1, max_size=4)


@given(WORDS, WORDS, st.lists(st.booleans(), min_size=30, max_size=30))
def test_spaces_never_change_the_errors_in_characters(reference, heard, flags):
    spaced = "".join(c + " " * flag for c, flag in zip("".join(heard), flags, strict=False))
    plain, other = (align(["".join(reference)], [text], "characters")[0] for text in ("".join(heard), spaced))
    assert plain.counts == other.counts


# ---- what cannot be seen ----


@pytest.mark.reported("invisible-characters")
@pytest.mark.parametrize("how", [*NORMALISERS, "arabic:alef"])
@pytest.mark.parametrize(
    ("language", "reference", "heard"),
    [
        ("ar", "مرحبا بكم", "\u200fمرحبا بكم\u200f"),
        ("he", "\u202bשלום עולם\u202c", "שלום עולם"),
        ("he", "\u2067שלום\u2069 עולם", "שלום עולם"),
        ("en", "\ufeffhello world", "hello world"),
        ("en", "hello\u200b world", "hello world"),
        ("en", "hel\u2060lo \u200eworld", "hello world"),
        ("de", "Donau\u00addampfer", "Donaudampfer"),
        ("fa", "می\u200cروم", "میروم"),
        ("si", "ක්\u200dෂ", "ක්ෂ"),
        ("ml", "അവന്\u200d", "അവൻ"),  # one letter, as Unicode wrote it before and after 5.1
        ("ja", "葛\U000e0100飾区", "葛飾区"),
        ("mn", "ᠮᠣᠩᠭᠣᠯ\u180b", "ᠮᠣᠩᠭᠣᠯ"),
        ("fr", "e\u0301te\u0301", "été"),  # one letter in two forms
    ],
)
def test_what_cannot_be_seen_is_no_error(language, reference, heard, how):
    assert scored(reference, heard, language, how).counts.errors == 0
    assert scored(heard, reference, language, how).counts.errors == 0
    assert scored(reference, heard, language, how).characters.errors == 0


@pytest.mark.reported("invisible-characters")
@pytest.mark.parametrize("how", [n for n in NORMALISERS if n != "raw"])
@pytest.mark.parametrize("heard", ["istanbul", "ISTANBUL", "İSTANBUL", "i̇stanbul"])
def test_the_dot_of_a_turkish_capital_is_no_error(heard, how):
    assert scored("İstanbul", heard, "tr", how).counts.errors == 0


@pytest.mark.reported("invisible-characters")
def test_what_is_invisible_is_unicodes():
    formats = [chr(i) for i in range(0x110000) if unicodedata.category(chr(i)) == "Cf"]
    selectors = [chr(i) for i in range(0x110000) if "VARIATION SELECTOR" in unicodedata.name(chr(i), "")]
    assert len(formats) > 150
    assert len(selectors) >= 256 + 3
    assert all(map(INVISIBLE.fullmatch, [*formats, *selectors, "\u034f", "\u3164"]))
    kinds = {unicodedata.category(chr(i)) for i in range(0x110000) if INVISIBLE.match(chr(i))}
    assert kinds == {"Cf", "Mn", "Lo", "Cn"}  # no letter but Hangul's fillers, no punctuation, no white space


FORMATS = st.sampled_from("\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202c\u2066\u2069\u2060\ufe0f\ufeff\u061c\u180e")
TEXTS = st.sampled_from(
    ["hello world", "Été à Paris", "مرحبا بكم", "می‌روم به خانه", "नहीं हिन्दी", "শুভ সকাল", "வணக்கம் ஐயா", "ಕನ್ನಡ ಭಾಷೆ",
     "今日は天気", "สวัสดีครับ", "ⵜⴰⵎⴰⵣⵉⵖⵜ", "Straße 12, bitte!", "ශ්‍රී ලංකාව", "한국어 입니다"]
)  # fmt: skip


@given(
    TEXTS,
    TEXTS,
    st.lists(st.tuples(st.integers(0, 20), FORMATS), max_size=6),
    st.sampled_from([*NORMALISERS, "arabic:ya"]),
)
def test_format_characters_never_change_the_errors(reference, heard, inserted, how):
    other = heard
    for place, mark in inserted:
        other = other[:place] + mark + other[place:]
    for language in ("en", "ja"):
        plain, marked = (scored(reference, text, language, how) for text in (heard, other))
        assert (plain.words, plain.characters, plain.counts) == (marked.words, marked.characters, marked.counts)
        assert plain.loops == marked.loops


# ---- loops ----

LOOPS = {
    "en": "no no no no no no", "hi": "नहीं नहीं नहीं नहीं नहीं नहीं", "bn": "আমি আমি আমি আমি আমি আমি",
    "ta": "ஆம் ஆம் ஆம் ஆம் ஆம் ஆம்", "te": "అవును అవును అవును అవును", "ar": "نعم نعم نعم نعم نعم", "ko": "네 네 네 네 네",
    "ja": "ご視聴ありがとうございました" * 6, "zh": "请不吝点赞" * 8, "yue": "多謝" * 7, "th": "ขอบคุณครับ" * 5,
    "km": "អរគុណ " * 5, "my": "ကျေးဇူးတင်ပါတယ်" * 4, "lo": "ຂອບໃຈ" * 5, "bo": "ཐུགས་རྗེ་ཆེ་" * 4,
    "ru": "Да, да, да, да!", "pt": "muito obrigado por tudo " * 4,
}  # fmt: skip


@pytest.mark.reported("loops")
@pytest.mark.parametrize("how", NORMALISERS)
@pytest.mark.parametrize("language", LOOPS)
def test_a_loop_is_seen_in_every_script(language, how):
    assert scored("x", LOOPS[language], language, how).loops
    assert not scored(LOOPS[language], LOOPS[language], language, how).loops  # it was said so


@pytest.mark.reported("loops")
@pytest.mark.parametrize(
    "text",
    [
        "seven seven seven", "no no no", "kura-kura itu lari-lari ke rumah-rumah", "anak anak", "2 2 2 5 5 5",
        "धीरे धीरे चलो", "ははははは", "いやいやいやいや", "もしもし、もしもし", "对对对对", "哈哈哈哈哈哈",
        "ช้าๆ ช้าๆ", "七七七七八八八八",
        "มาก ๆ มาก ๆ", "今日は今日は", "",
    ],
)  # fmt: skip
def test_what_people_say_again_is_no_loop(text):
    assert not is_loop(text)


@given(st.sampled_from(["ご視聴ありがとう", "请不吝点赞", "नहीं जी ", "thank you "]), st.integers(1, 9), TEXTS)
def test_a_loop_is_four_times_or_more_whatever_stands_around(part, times, around):
    assert is_loop(f"{around} {part * times} {around[::-1]}") == (times >= 4)


# ---- the unit ----


@pytest.mark.reported("translation-unit")
def test_a_translation_into_english_is_counted_in_words_whatever_was_spoken():
    rows = [
        {"name": str(i), "condition": "clean", "language": "ja", "written": ST.written(asked), "reference": text,
         "hypothesis": text + " now"}
        for i, (asked, text) in enumerate([(_Row(""), "the crown is gone"), (_Row("Japanese"), "今日は天気")])
    ]  # fmt: skip
    english, japanese = ST.score(rows, "marks")
    assert (english.unit, japanese.unit) == ("words", "characters")
    assert english.counts.error_rate == 25.0
    told = measures(ASR.score([rows[0]], "marks"), ST)
    assert told["unit"] == "words"


class _Row:
    text, language = "", "ja"

    def __init__(self, target: str) -> None:
        self.target = target

    def get(self, column: str) -> str:
        return self.target if column == "target_language" else ""


@pytest.mark.reported("translation-unit")
def test_training_measures_a_translation_in_words_too():
    from chorus.data.manifest import Row
    from chorus.data.utterance import Utterance
    from chorus.train.layers import load_train_config
    from chorus.train.measure import with_metric

    dev = [Utterance(Row("a.wav", "good day", "ja"))]
    for settings, metric in (({"task": "st"}, "wer"), ({}, "cer")):
        config = load_train_config({"model": {"base": "b"}, "data": {"train": "m.csv"}, **settings})
        assert with_metric(config, dev).metric == metric
    by_row = [Utterance(Row("a.wav", "good day", "ja", extra={"task": "translate"}))]
    assert with_metric(load_train_config({"model": {"base": "b"}, "data": {"train": "m.csv"}}), by_row).metric == "wer"


@given(st.sampled_from(sorted(LANGUAGES)), st.sampled_from(["{0}", "{0}-XX", "{0}_xx", "{1}", "{2}"]))
def test_the_unit_is_one_for_all_spellings(code, form):
    spelling = form.format(code, LANGUAGES[code], LANGUAGES[code].title())
    assert scored("a", "b", spelling).unit == scored("a", "b", code).unit


def test_texts_without_spaces_are_told_where_the_language_is_not():
    assert without_spaces("今日は天気がいい iPhone")
    assert not without_spaces("the 東京 tower")
    assert not without_spaces("123")


def test_an_evaluation_says_what_it_could_not_know(tmp_path):
    from chorus.evaluate.describe import unit_notes

    rows = [
        {"name": language, "condition": "clean", "language": language, "speaker": "", "domain": "", "seconds": 1.0,
         "reference": text, "hypothesis": text}
        for language, text in (("jp", "今日は天気"), ("quy", "allin punchaw"), ("en", "good day"), ("ja", "今日は天気"))
    ]  # fmt: skip
    assert unit_notes(counted(tmp_path, "a", rows)) == [
        "counted in words, though written without spaces: 1 references (--unit characters, or a column language)",
        "counted in words, of languages that are not known: jp, quy (--unit characters, or a column language)",
    ]
    assert unit_notes(counted(tmp_path, "b", rows[2:])) == []


def test_normalising_twice_changes_nothing_of_what_was_invisible():
    for text in ("\uff29\u0307", "i\u0307\u0307", "\u0130\u0307", "n\u0303\u200d"):
        once = normaliser("marks")(text)
        assert normaliser("marks")(once) == once


def test_a_cut_answer_is_counted():
    rows = [scored("a b", "a", cut=True), scored("a b", "a b")]
    assert measures(rows, ASR)["cut"] == 1
    assert np.isclose(value_of(rows), 25.0)
