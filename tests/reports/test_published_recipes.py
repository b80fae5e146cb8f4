"""Published recipes, unchanged: each runs, or is refused with a sentence that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import chorus
from chorus.errors import ChorusError
from models import build

GROUPS = yaml.safe_load((Path(__file__).parent / "published_recipes.yml").read_text(encoding="utf-8"))
ALL = {f"{kind}: {name}": one for kind, group in GROUPS.items() for name, one in group.items()}
RUN = ("example: ties with gradients", "card: lazy slerp", "card: seeded dare", "card: modules")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and its like of as many layers as the recipes speak of, each a few numbers wide."""
    place = tmp_path_factory.mktemp("published")
    small = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    small |= {"head_dim": 4, "vocab_size": 16}
    for layers in (12, 32, 40):
        (place / str(layers)).mkdir()
        for seed, name in enumerate(("base", "a", "b", "c")):
            model = build("llama", seed, **small, num_hidden_layers=layers)
            model.save_pretrained(place / str(layers) / name)
    return place


def outcome(text, models, monkeypatch):
    layers = 40 if "40]" in text else 12 if "12]" in text else 32
    monkeypatch.chdir(models / str(layers))
    try:
        return chorus.plan(text if "\n" in text else text + "\n")
    except ChorusError as error:
        return error


@pytest.mark.reported("published-recipe-keys")
@pytest.mark.parametrize("name", ALL)
def test_runs_or_says_what_to_do(name, models, monkeypatch):
    wanted = ALL[name]["then"]
    found = outcome(ALL[name]["recipe"], models, monkeypatch)
    if wanted == "runs":
        assert not isinstance(found, ChorusError), found
    else:
        assert isinstance(found, ChorusError)
        assert wanted in str(found)


def test_so_many_run_and_so_many_say_what_to_do():
    counts = {kind: [one["then"] == "runs" for one in group.values()] for kind, group in GROUPS.items()}
    found = {kind: (sum(runs), len(runs)) for kind, runs in counts.items()}
    assert found == {"example": (6, 9), "test": (26, 37), "card": (25, 40)}


@pytest.mark.parametrize("name", RUN)
def test_what_is_planned_is_merged(name, models, monkeypatch, tmp_path):
    result = chorus.merge(outcome(ALL[name]["recipe"], models, monkeypatch), tmp_path / "merged")
    assert result.tensors == 32 * 9 + 3


def test_a_name_is_the_title_and_a_seed_by_either_name_the_seed(models, monkeypatch, tmp_path):
    text = ALL["card: seeded dare"]["recipe"]
    for key in ("random_seed", "seed"):
        assert outcome(text.replace("random_seed: 0", f"{key}: 7"), models, monkeypatch).seed == 7
    both = outcome(text.replace("random_seed: 0", "random_seed: 7, seed: 7"), models, monkeypatch)
    assert "random_seed: is another name of seed" in str(both)
    chorus.merge(outcome(ALL["card: named stock"]["recipe"], models, monkeypatch), tmp_path / "named")
    assert "# Athena-exp" in (tmp_path / "named" / "README.md").read_text()


WRONG = {
    "parameters: {weight: true}": "parameters.weight: must be a number, got True",
    "parameters: {weight: 1e30}": "parameters.weight: must be at most 1e+06",
    "parameters: {weight: .nan}": "parameters.weight: must be a number",
    "parameters: {weight: [0.1, .inf]}": "parameters.weight[1]: must be a number",
    "parameters: {normalize: 2}": "parameters.normalize: must be true or false",
    "seed: true": "seed: must be a whole number, not a truth",
    "seed: 1e400": "seed: ",
    "seed: 99999999999999999999": "seed: ",
    "name: [a]": "name: ",
    f"parameters: {{weight: [{', '.join(['0.5'] * 2000)}]}}": "parameters.weight: a list of 2,000 values",
}


@pytest.mark.parametrize("text", WRONG)
def test_values_of_another_kind_are_refused_by_their_key(text, models, monkeypatch):
    found = outcome("{merge_method: linear, models: [{model: a}, {model: b}], " + text + "}", models, monkeypatch)
    assert isinstance(found, ChorusError)
    assert WRONG[text] in str(found)
    assert len(str(found)) < 400


def test_a_union_of_equal_vocabularies_is_that_vocabulary_and_no_other_is_made(models, monkeypatch, tmp_path):
    words = {word: i for i, word in enumerate("abcdefghijklmnop")}
    for name in "ab":
        shutil.copytree(models / "12" / name, tmp_path / name)
        (tmp_path / name / "vocab.json").write_text(json.dumps(words))
    monkeypatch.chdir(tmp_path)
    text = "{merge_method: karcher, models: [{model: a}, {model: b}], tokenizer_source: union}\n"
    assert not chorus.plan(text).warnings
    (tmp_path / "b" / "vocab.json").write_text(json.dumps({**words, "q": 15, "p": 14, "o": 13, "n": 12}))
    with pytest.raises(ChorusError) as caught:
        chorus.plan(text)
    assert "union" in str(caught.value) or "other tokens" in str(caught.value)
    (tmp_path / "b" / "vocab.json").write_text(
        json.dumps({"q" if word == "p" else word: i for word, i in words.items()})
    )
    with pytest.raises(ChorusError, match="tokenizer_source: union: the vocabularies differ"):
        chorus.plan(text)
