"""Languages as corpora write them: locales, names, codes of three letters."""

from __future__ import annotations

from dataclasses import replace

import pytest

from chorus.data.manifest import read_manifest
from chorus.models.languages import LANGUAGES
from chorus.models.limits import Limits
from chorus.models.loading import limits_of
from chorus.tasks.scored import score_texts
from chorus.train.backbones.choose import load_backbone
from chorus.train.layers import load_train_config
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import Request
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import of_rows
from chorus.transcribe.transcriber import load_backend
from sounds import BASE, corpus


@pytest.mark.reported("locales")
def test_a_locale_is_taken_by_check_by_training_and_by_decoding(tmp_path):
    _, rows = corpus(tmp_path, 2)
    told = ["sv-SE", "zh-CN", "pa-IN", "pt-BR", "cmn_hans_cn", "Japanese", "por"]
    rows = [replace(rows[0], language=name) for name in told]
    settings = {"model": {"base": str(BASE)}, "data": {"train": "m.csv"}, "train": {"window_s": 3}}
    backbone = load_backbone(load_train_config(settings), "cpu", texts=())
    test = of_rows(rows)
    backend = load_backend(Request(open_system(str(BASE)), test, Decoding(window_s=3, max_new_tokens=1)))
    assert list(limits_of(str(BASE)).problems(rows)) == []
    codes = ["sv", "zh", "pa", "pt", "zh", "ja", "pt"]
    assert [backbone.language(row) for row in rows] == codes
    assert [backend.language(row) for row in rows] == codes
    backend.close()


@pytest.mark.reported("locales")
def test_rows_whose_language_the_model_is_not_told_are_named(tmp_path):
    """A row without a language, where the model asks for one; rows of others, where it knows one alone."""
    _, rows = corpus(tmp_path, 3)
    rows = [replace(row, language=name) for row, name in zip(rows, ("", "de-AT", "English"), strict=True)]
    asks = limits_of(str(BASE))
    assert [(row, kind) for row, kind, _ in asks.notices(rows)] == [(rows[0], "no language")]
    alone = Limits(asks.tokenizer, only="en")
    assert list(alone.notices(rows)) == [(rows[1], "not the model's language", "de-AT")]


@pytest.mark.reported("locales")
def test_common_voice_s_column_is_the_language(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("client_id\tpath\tsentence\tlocale\nx\tc1.flac\ttio av\tsv-SE\n")
    (row,) = read_manifest(path).rows
    assert row.language == "sv-SE"
    assert list(limits_of(str(BASE)).problems([row])) == []


@pytest.mark.reported("language-names")
def test_a_card_has_the_hub_s_codes(tmp_path):
    from chorus.train.outputs import card

    config = load_train_config({"model": {"base": "org/base"}, "data": {"train": "m.csv"}, "output": str(tmp_path)})
    languages = {"pt-BR": 3, "Portuguese": 1, "cmn_hans_cn": 2, "Javanese": 1, "a dialect": 1}
    facts = {
        "base_model": "org/base", "steps": 1, "best_step": 1, "trained_parameters": 1, "parameters": 2, "best": None,
        "config": {}, "data": {"train_rows": 8, "train_hours": 0.1, "dev_rows": 0, "language": languages},
    }  # fmt: skip
    front = card(config, facts, adapter=False, pipeline_tag="x").split("---")[1]
    assert "language:\n- pt\n- zh\n- jv\n" in front
    assert "dialect" not in front


SAID, HEARD = "今日は天気がいいですね", "今日は天気がいいですよ"


@pytest.mark.reported("language-names")
@pytest.mark.parametrize(
    "name", ["ja", "Japanese", "jpn", "ja-JP", "jpn_Jpan", "Chinese", "cmn_hans_cn", "Thai", "yue_hant_hk"]
)
def test_the_unit_is_the_same_under_every_name_of_a_language(name):
    row = {"name": "a", "condition": "clean", "language": name, "reference": SAID, "hypothesis": HEARD}
    (found,) = score_texts([row], "marks")
    assert found.unit == "characters"
    assert found.counts.error_rate == pytest.approx(100 / 11)


@pytest.mark.reported("language-names")
def test_every_language_of_whisper_has_one_unit():
    units = {
        code: {
            score_texts([{"name": "", "condition": "", "language": one, "reference": "", "hypothesis": ""}], "raw")[
                0
            ].unit
            for one in (code, name, name.title(), f"{code}_XX", f"{code}-xx-x-any")
        }
        for code, name in LANGUAGES.items()
    }
    assert len(units) == 100
    assert all(len(found) == 1 for found in units.values())
    assert {code for code, found in units.items() if found == {"characters"}} == {
        "bo", "ja", "km", "lo", "my", "th", "yue", "zh"
    }  # fmt: skip
