"""A language under every name that it is given."""

from __future__ import annotations

import subprocess
import sys

import pytest

from chorus.data.manifest import Row, select
from chorus.errors import DataError
from chorus.models.languages import (
    LANGUAGES,
    OTHER_NAMES,
    is_language,
    known_language,
    language_code,
    names_of,
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
        ("por", "por"),  # MMS's own
        ("azj-script_cyrillic", "azj-script_cyrillic"),
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
    assert not any(map(unspaced, ["pt", "ko", "Korean", "", "vi-VN", "por"]))


def test_asking_imports_no_transformers():
    code = "import sys; from chorus.models.languages import language_code; language_code('Thai');"
    code += "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
