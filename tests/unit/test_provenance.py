"""Cards and licences: what they say, what they do not know, and that nothing in them tells where or when."""

from __future__ import annotations

import os
import re

import pytest
import yaml

from chorus import provenance
from chorus.errors import CheckpointError
from chorus.provenance import Card, card_metadata, licence_of, licence_warnings, model_card, versions


def card(place, text):
    place.mkdir(exist_ok=True)
    (place / "README.md").write_text(text, encoding="utf-8")
    return place


def made(**changes):
    given = {
        "title": "Mine", "method": "ties", "base_models": ["org/a", "org/b"],
        "licences": {"org/a": "mit", "org/b": "mit"}, "languages": ["pt", "es"],
        "pipeline_tag": "automatic-speech-recognition", "recipe_yaml": "merge_method: ties\n", "losses": [],
    }  # fmt: skip
    return model_card(**{**given, **changes})


def front_of(text):
    return yaml.safe_load(text.split("---\n")[1])


# ---- reading ----


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_the_front_matter_is_read(tmp_path, line_break):
    text = line_break.join(["---", "license: apache-2.0", "language:", "- pt", "---", "# Mine", ""])
    assert card_metadata(card(tmp_path, text)) == {"license": "apache-2.0", "language": ["pt"]}


@pytest.mark.parametrize(
    "text",
    ["", "# No front matter\n", "---\n: {\n---\n# Damaged\n", "---\n- a list\n---\n", "---\nlicense: mit\n# no end\n",
     "a word before\n---\nlicense: mit\n---\n"],
)  # fmt: skip
def test_cards_without_front_matter_say_nothing(tmp_path, text):
    assert card_metadata(card(tmp_path, text)) == {}
    assert licence_of(tmp_path) is None


def test_a_card_in_another_encoding_is_read_as_far_as_it_goes(tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\nlicense: mit\n---\n# \xe7\xe3o\n")
    assert licence_of(tmp_path) == "mit"


LAUGH = "a: &a [mit, mit]\n" + "".join(
    f"k{i}: &k{i} [*{p}, *{p}]\n" for i, p in enumerate(["a", *(f"k{j}" for j in range(30))])
)


@pytest.mark.parametrize("front", [LAUGH, f"license: mit\n{'x' * 2_000_000}: 1", "license: !!int abc", "[" * 5000])
def test_a_card_that_unfolds_without_end_says_nothing(tmp_path, front):
    assert card_metadata(card(tmp_path, f"---\n{front}\n---\n")) == {}


def test_a_card_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "README.md")
    with pytest.raises(CheckpointError, match=r"README\.md: a pipe"):
        licence_of(tmp_path)


def test_norwegian_is_a_language_and_a_date_a_text(tmp_path):
    text = "---\nlanguage: [no, yes, 3]\ndate: 2024-13-45\nlicense: null\n---\n"
    assert card_metadata(card(tmp_path, text)) == {
        "language": ["no", "yes", "3"], "date": "2024-13-45", "license": None,
    }  # fmt: skip


def test_without_a_directory_or_a_card_nothing_is_known(tmp_path):
    assert card_metadata(None) == card_metadata(tmp_path) == {}


def test_a_licence_is_text_whatever_the_card_says(tmp_path):
    assert licence_of(card(tmp_path, "---\nlicense: 3\n---\n")) == "3"
    assert licence_of(card(tmp_path, "---\nlicense:\n---\n")) is None


# ---- licences ----


@pytest.mark.parametrize(
    ("licences", "told"),
    [
        ({"a": "mit", "b": "mit"}, []),
        ({"a": None, "b": "mit", "c": None}, ["no licence is stated by a, c"]),
        ({"a": "mit", "b": "apache-2.0"}, ["the licences differ: a: mit, b: apache-2.0"]),
        ({"a": "mit", "b": "cc", "c": None}, ["no licence is stated by c", "the licences differ: a: mit, b: cc"]),
        ({}, []),
    ],
)
def test_what_to_think_about_before_publishing(licences, told):
    assert licence_warnings(licences) == told


@pytest.mark.parametrize(
    ("licences", "stated"),
    [
        ({"a": "mit", "b": "mit"}, "mit"), ({"a": "mit", "b": None}, None), ({"a": "mit", "b": "cc"}, None), ({}, None),
        ({"a": "apache-2.0 + mit"}, None),  # of a merge, or of a model with adapters on it: two licences are none
    ],
)  # fmt: skip
def test_a_card_states_a_licence_only_where_all_models_state_it(licences, stated):
    assert front_of(made(licences=licences)).get("license") == stated


# ---- cards ----


def test_a_card_of_a_merge_is_what_the_hub_reads():
    text = made()
    assert front_of(text) == {
        "base_model": ["org/a", "org/b"], "base_model_relation": "merge", "license": "mit", "language": ["pt", "es"],
        "library_name": "transformers", "pipeline_tag": "automatic-speech-recognition",
        "tags": ["merge", "chorus", "ties"],
    }  # fmt: skip
    assert "# Mine\n" in text
    assert "A merge of 2 models by `ties`, made with Chorus" in text
    assert "| org/a | mit |" in text
    assert "```yaml\nmerge_method: ties\n```" in text
    assert "Rounding" not in text


def test_a_card_of_an_adapter():
    text = made(adapter=True, intro="An adapter", losses=["l.weight: 0.1 %"])
    assert front_of(text)["base_model_relation"] == "adapter"
    assert front_of(text)["library_name"] == "peft"
    assert "An adapter, made with Chorus" in text
    assert "## What it does not hold\n\n- l.weight: 0.1 %" in text


def test_a_card_of_an_extraction_is_no_merge():
    assert front_of(made(method="extract lora", adapter=True))["tags"] == ["lora", "chorus"]


def test_what_is_not_known_is_left_out_or_said_to_be_unknown():
    text = made(licences={"org/a": None, "org/b": "mit"}, languages=[], pipeline_tag=None, losses=["half a bit"])
    assert not {"license", "language", "pipeline_tag"} & set(front_of(text))
    assert "| org/a | not stated |" in text
    assert "## Rounding\n\n- half a bit" in text


def test_names_that_yaml_could_misread_come_back_as_they_are():
    names = ["org/a: b", "no", "1.0", "ação"]
    assert front_of(made(base_models=names))["base_model"] == names


def test_the_same_facts_give_the_same_card_and_no_time_in_it():
    assert made() == made()
    assert not re.search(r"\b20\d\d-\d\d|\d\d:\d\d", made())


# ---- versions ----


def test_versions_of_what_the_bytes_may_depend_on():
    found = versions()
    assert set(found) == {"chorus-merge", "python", *provenance.PACKAGES}
    assert versions(("pytest",)) == {**found, "pytest": pytest.__version__}
    assert versions(("no-such-package",)) == found


# ---- of any model ----


def trained(**changes):
    given = {
        "title": "radio", "intro": "whisper-small: full fine-tune", "base_models": ["org/base"], "relation": "finetune",
        "tags": ["chorus"], "rows": [("steps", "3"), ("learnt", "all")], "settings": ("Settings", "a: 1\n"),
        "kept": "the settings",
    }  # fmt: skip
    return Card(**{**given, **changes})


def test_a_fine_tune_names_its_one_base_alone_and_a_merge_all():
    assert front_of(trained().text())["base_model"] == "org/base"
    merged = trained(relation="merge", base_models=["org/a", "org/b"])
    assert front_of(merged.text())["base_model"] == ["org/a", "org/b"]
    assert front_of(merged.text())["library_name"] == "transformers"
    assert front_of(trained(relation="adapter").text())["library_name"] == "peft"


def test_a_card_holds_its_table_settings_picture_and_notes_in_their_order():
    text = trained(picture="![curve](curve.png)", notes=("Rounding", ["a little"])).text()
    places = [
        text.index(piece) for piece in ("# radio", "| steps | 3 |", "![curve]", "## Settings", "a: 1", "a little")
    ]
    assert places == sorted(places)
    assert "| | |\n|---|---|\n| steps | 3 |\n| learnt | all |\n" in text
    assert "## Rounding" not in trained().text()
    assert "license" not in trained().front
    assert trained(licence="mit", languages=["pt"], pipeline_tag="x").front["license"] == "mit"
