"""A language under every name that it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chorus.data.manifest import Row, select
from chorus.errors import DataError
from chorus.models.languages import (
    LANGUAGES,
    NAMES,
    OTHER_CODES,
    OTHER_NAMES,
    is_known,
    is_language,
    known_language,
    language_code,
    names_of,
    published_code,
    unspaced,
)


@pytest.mark.parametrize("text", ["pt", "PT", "pt-BR", "pt_br", "pt-PT", "Portuguese", " portuguese ", "pt_BR.utf8"])
def test_portuguese_is_portuguese(text):
    assert language_code(text) == "pt"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Haitian  Creole", "ht"),
        ("Burmese", "my"),
        ("zh-Hant-TW", "zh"),
        ("cmn_hans_cn", "zh"),  # as FLEURS has it
        ("yue_hant_hk", "yue"),
        ("fil_ph", "tl"),
        ("jv", "jw"),
        ("nb-NO", "no"),
        ("iw", "he"),
        ("haw", "haw"),
        ("", ""),
        ("por", "pt"),
        ("ger", "de"),
        ("arb", "ar"),
        ("arz_Arab", "ar"),
        ("jpn_Jpan", "ja"),  # as FLORES and NLLB have it
        ("zh-yue-HK", "yue"),
        ("zh-CHN", "zh"),
        ("zh-nan", "nan"),  # not Mandarin
        ("azj-script_cyrillic", "az"),  # as MMS has it
        ("English-US", "en"),
        ("Spanish; Castilian", "es"),  # as ISO 639-2 has it
        ("latin-american", "latin-american"),
        ("Chinese, Cantonese", "chinese, cantonese"),
        ("umb_ao", "umb_ao"),
        ("Klingon", "klingon"),
    ],
)
def test_other_names_of_languages(text, code):
    assert language_code(text) == code


def test_the_table_is_whispers():
    from transformers.models.whisper.tokenization_whisper import LANGUAGES as THEIRS
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    assert len(LANGUAGES) == 100
    assert dict(THEIRS) == LANGUAGES
    assert {name: code for name, code in TO_LANGUAGE_CODE.items() if LANGUAGES.get(code) != name} == OTHER_NAMES
    assert all(language_code(name) == code for name, code in TO_LANGUAGE_CODE.items())


def test_every_code_and_name_has_one_meaning():
    assert not set(LANGUAGES) & (set(LANGUAGES.values()) | set(OTHER_NAMES))
    assert all(language_code(code) == code for code in LANGUAGES)
    assert names_of(["es"]) == ["es", "castilian", "spanish"]


def test_a_language_that_a_model_must_know():
    known = {"en", "pt"}
    assert known_language("pt_BR", known, where="a.wav", hint="") == "pt"
    for text, told in (
        ("", "a.wav: no language"),
        ("portugese", 'a.wav: the tokenizer knows no language "portugese"; did you mean "portuguese"?'),
        ("de", 'a.wav: the tokenizer knows no language "de"; known: en, pt'),
    ):
        with pytest.raises(DataError) as error:
            known_language(text, known, where="a.wav", hint="")
        assert error.value.message == told


@pytest.mark.parametrize(
    ("spoken", "asked", "so"),
    [("pt-BR", "pt", True), ("Portuguese", "pt", True), ("pt", "pt-BR", False), ("pt_br", "pt-BR", True)],
)
def test_rows_of_a_language_are_chosen_by_any_of_its_names(spoken, asked, so):
    assert is_language(spoken, asked) is so
    assert bool(select([Row("a.wav", language=spoken)], {"language": [asked, "xx"]})) is so


def test_languages_without_spaces():
    assert all(map(unspaced, ["zh", "zh_CN", "cmn_hans_cn", "Japanese", "yue-HK", "tha", "Thai", "MY"]))
    assert all(map(unspaced, ["zh-nan", "wuu", "dzo_Tibt", "und-Hant", "shn_Mymr"]))  # which Whisper does not have
    assert not any(map(unspaced, ["pt", "ko", "Korean", "", "vi-VN", "por", "zh-Latn", "ja_Latn", "english-us"]))


def test_all_spellings_of_a_language_are_one_in_every_use():
    """Over all of Whisper's: the other codes, with and without region and script, and the names."""
    seen = 0
    for code, name in LANGUAGES.items():
        others = [*OTHER_CODES.get(code, "").split(), name, *(n for n, c in NAMES.items() if c == code)]
        spellings = [
            code,
            code.upper(),
            f"{code}-XX",
            f"{code}_xx",
            f"{code}_XX.UTF-8",
            *others,
            *map(str.title, others),
        ]
        spellings += [f"{other}_xx" for other in OTHER_CODES.get(code, "").split()]
        assert {language_code(one) for one in spellings} == {code}
        assert len({unspaced(one) for one in spellings}) == 1
        assert len({published_code(one) for one in spellings}) == 1
        assert all(is_language(one, code) and is_known(one) for one in spellings)
        seen += len(spellings)
    assert seen > 900


def test_the_other_codes_are_those_of_iso_639():
    """CLDR's aliases; beside them the old codes and the members of Arabic, Persian and Pashto."""
    aliases = pytest.importorskip("babel.core").get_global("language_aliases")
    ours = {other: code for code, others in OTHER_CODES.items() for other in others.split()}
    assert len(ours) == sum(len(others.split()) for others in OTHER_CODES.values())
    differ = {
        other for other, code in ours.items() if aliases.get(other, code) != {"jw": "jv", "tl": "fil"}.get(code, code)
    }
    assert differ == {"ajp", "fil", "jv", "nob", "prs"}  # CLDR: apc, fil and jv themselves, nb, fa-AF
    missing = {c for c in LANGUAGES if c not in OTHER_CODES}
    assert missing == {"haw", "yue"}  # which have three letters already


def test_languages_as_the_hub_has_them():
    assert [published_code(one) for one in ("jw", "Portuguese", "cmn_hans_cn", "ckb_iq", "some dialect")] == [
        "jv", "pt", "zh", "ckb", ""
    ]  # fmt: skip


def test_asking_imports_no_transformers():
    code = "import sys; from chorus.models.languages import language_code; language_code('Thai');"
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
