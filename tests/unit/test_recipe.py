"""Recipes: mergekit's forms are read, mistakes are all found and named."""

from __future__ import annotations

import pytest

from chorus.errors import RecipeError
from chorus.merge.recipes.loading import load_recipe
from chorus.merge.recipes.schema import LIMITS

TWO = "models: [{model: a}, {model: b}]\n"


def problems(text: str) -> list[str]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(text)
    return caught.value.problems


def test_reads_every_key_of_the_schema():
    recipe = load_recipe(
        """
merge_method: ties
base_model: {model: base, override_architecture: Qwen2ForCausalLM}
slices:
  - sources:
      - {model: a, layer_range: [0, 2], parameters: {weight: 1}}
      - {model: {path: b, revision: main}, layer_range: [1, 3]}
    base_model: a
    parameters: {density: 0.5}
dtype: float32
out_dtype: torch.bfloat16
tokenizer_source: base
parameters: {normalize: true}
seed: 3
lambda: 0.4
exclude: [{component: lm_head}]
outputs: [{name: x, parameters: {density: 0.2}}, {name: y, merge_method: linear}]
generation: {source: a, overrides: {language: pt}}
"""
    ).recipe
    assert recipe.slices[0].sources[1].layer_range == (1, 3)
    assert recipe.lambda_ == 0.4
    assert [o.name for o in recipe.outputs] == ["x", "y"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("merge_methd: linear\n" + TWO, 'merge_methd: unknown key; did you mean "merge_method"?'),
        ("merge_method: linear\nmodels: [{modle: a}]\n", 'models[0].modle: unknown key; did you mean "model"?'),
        ("merge_method: linear\ndtypee: x\n" + TWO, 'dtypee: unknown key; did you mean "dtype"?'),
        ("merge_method: linear\nmodels: [{model: a, paramters: {}}]\n", "did you mean \"parameters\"?"),
        ("merge_method: linear\nmodels: {a: b}\n", "models: input should be a valid list"),
        ("merge_method: linear\nmodels: [a, b]\n", "models[0]: "),
        ("merge_method: linear\n", "exactly one of models, slices and modules must be given; found none"),
        ("merge_method: linear\nmodels: []\n", "found none"),
        ("merge_method: linear\n" + TWO + "modules: {encoder: {models: [{model: a}]}}\n", "found models and modules"),
        (TWO, "merge_method: missing"),
        ("merge_method: linear\nmodules: {encoder: {}}\n", "modules.encoder: exactly one of models and slices"),
        ("merge_method: linear\nslices: [{sources: [{model: a}]}]\n", "layer_range: missing"),
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [0, 4, 5]}]}]\n", "layer_range"),
        ("merge_method: linear\nslices: [{sources: [{model: a, layer_range: [3, 1]}]}]\n", "needs b > a"),
        (
            "merge_method: slerp\nslices: [{sources: [{model: a, layer_range: [0, 2]}, "
            "{model: b, layer_range: [0, 3]}]}]\n",
            "same number of layers",
        ),
        ("merge_method: passthrough\nslices: [{sources: [{model: a, layer_range: [0, 2]}], residual_weight: 1}]\n",
         "residual_weight: has no effect"),
        ("merge_method: linear\nchat_template: chatml\n" + TWO, "chat_template: the result takes"),
        ("merge_method: linear\ntokenizer: {source: base, tokens: {x: y}}\n" + TWO, "tokenizer: write"),
        ("merge_method: linear\ntokenizer: {source: base}\ntokenizer_source: base\n" + TWO, "cannot both be given"),
        ("merge_method: linear\n" + TWO + "---\nmerge_method: linear\n" + TWO, "2 documents"),
        ("just text\n", "a recipe is a map"),
        ("merge_method: linear\nmodels: [\n", "not readable as YAML"),
        ("merge_method: linear\nmerge_method: ties\n" + TWO, "the key 'merge_method' stands twice"),
        ("merge_method: linear\noutputs: [{name: ../x}]\n" + TWO, "outputs: '../x' must be a directory's name"),
        ("merge_method: linear\noutputs: [{name: a}, {name: a}]\n" + TWO, "must be a directory's name of its own"),
    ],
)  # fmt: skip
def test_refuses_and_says_where(text, message):
    found = problems(text)
    assert any(message in p for p in found), found


def test_collects_every_problem():
    found = problems("merge_method: linear\ndtypee: x\nparamters: {}\nmodels: [{modle: a}]\n")
    assert len(found) == 4  # three unknown keys and the missing model


def test_refuses_a_bomb_of_aliases():
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 30)]
    assert "too much aliased" in problems("\n".join(lines) + "\n")[0]


def test_refuses_a_tower_of_brackets():
    assert "too deep" in problems("a: " + "[" * 100 + "]" * 100 + "\n")[0]


def test_refuses_python_objects():
    assert "not readable as YAML" in problems("a: !!python/object/apply:os.system ['true']\n")[0]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecipeError, match=r"nowhere\.yml: no such file"):
        load_recipe(tmp_path / "nowhere.yml")
    (tmp_path / "binary.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match="not UTF-8 text"):
        load_recipe(tmp_path / "binary.yml")


MODEL = {"model": "a"}
SOURCE = {"model": "a", "layer_range": [0, 1]}
PARTS = {
    "models": lambda n: {"models": [MODEL] * n},
    "outputs": lambda n: {"models": [MODEL], "outputs": [{"name": f"o{i}"} for i in range(n)]},
    "modules": lambda n: {"modules": {f"m{i}": {"models": [MODEL]} for i in range(n)}},
    "slices": lambda n: {"slices": [{"sources": [SOURCE]}] * n},
    "sources of slices": lambda n: {"slices": [{"sources": [SOURCE] * n}]},
}


@pytest.mark.parametrize("what", LIMITS)
def test_a_recipe_may_have_as_many_parts_as_the_limit_and_no_more(what):
    most = LIMITS[what]
    load_recipe({"merge_method": "linear", **PARTS[what](most)})
    with pytest.raises(RecipeError, match=f"{most + 1:,} {what}; the limit is {most:,}"):
        load_recipe({"merge_method": "linear", **PARTS[what](most + 1)})


def test_every_limit_is_tried():
    assert PARTS.keys() == LIMITS.keys()
