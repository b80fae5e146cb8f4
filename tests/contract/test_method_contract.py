"""What a method may say beside its arithmetic: inner methods, auxiliary inputs, memory, where a base goes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import pytest
import torch
from safetensors.torch import load_file, save_file

import chorus
from chorus.errors import PlanError, RecipeError
from chorus.merge.method import METHODS, Demand, method
from chorus.merge.recipes.dialects import DIALECTS
from chorus.testing import close, merge_tensors
from models import Family, load_all, write_recipe

CHUNK = 65_536


def at_least_a_byte(demand: Demand) -> int:
    return 10**12 if demand.directions else 1


@pytest.fixture
def fisher() -> Iterator[str]:
    """A mean weighted value by value by what each model's file of moments says; equal where there is none."""
    METHODS.names()

    @method("fisher_example", summary="s", paper="p", space="weights", base="input", auxiliary=("moments",))
    def fisher_example(
        tensors: Sequence[torch.Tensor], /, *, moments: Sequence[torch.Tensor | None], floor: float = 0.0
    ) -> torch.Tensor:
        """Return sum_i f_i x_i / sum_i f_i."""
        weights = [torch.ones_like(x) if f is None else f + floor for x, f in zip(tensors, moments, strict=True)]
        return sum(w * x for w, x in zip(weights, tensors, strict=True)) / sum(weights)

    yield "fisher_example"
    del METHODS._items["fisher_example"]


@pytest.fixture
def greedy() -> Iterator[str]:
    """A subspace method that says it needs a terabyte for each matrix."""
    METHODS.names()

    @method("greedy_example", summary="s", paper="p", space="deltas", subspace=True, memory=at_least_a_byte)
    def greedy_example(
        deltas: Sequence[torch.Tensor], /, *, treat: Annotated[str, "t"] = "auto", treatment: str
    ) -> torch.Tensor:
        """Return the first delta."""
        return deltas[0] if treatment == "vector" else deltas[0] * 1.0

    yield "greedy_example"
    del METHODS._items["greedy_example"]


def moments_of(model: Path, place: Path, seed: int, *, without: str = "") -> Path:
    numbers = torch.Generator().manual_seed(seed)
    tensors = {n: torch.rand(t.shape, generator=numbers) + 0.1 for n, t in load_all(model).items() if n != without}
    save_file(tensors, place)
    return place


def test_auxiliary_tensors_are_cut_as_the_models_are(fisher):
    shape = (3 * CHUNK + 5,)
    numbers = torch.Generator().manual_seed(0)
    tensors, moments = ([torch.rand(shape, generator=numbers) for _ in range(2)] for _ in range(2))
    wanted = (moments[0] * tensors[0] + moments[1] * tensors[1]) / (moments[0] + moments[1])
    for blocks in (CHUNK, 16 * CHUNK):
        close(merge_tensors(fisher, tensors, auxiliary={"moments": moments}, block_values=blocks), wanted)


def test_each_models_file_reaches_its_tensors(fisher, qwen: Family, out: Path, tmp_path: Path):
    missing = "model.norm.weight"
    files = [moments_of(m, tmp_path / f"{i}.safetensors", i, without=missing) for i, m in enumerate(qwen.tuned[:2])]
    models = [{"model": str(m), "auxiliary": {"moments": str(f)}} for m, f in zip(qwen.tuned[:2], files, strict=True)]
    chorus.merge({"merge_method": fisher, "models": models}, out)
    merged, (a, b) = load_all(out), (load_all(m) for m in qwen.tuned[:2])
    f, g = (load_file(path) for path in files)
    for name in merged:
        one, other = (x.get(name, torch.ones_like(merged[name])) for x in (f, g))
        close(merged[name], (one * a[name] + other * b[name]) / (one + other))
    inputs = json.loads((out / "chorus.json").read_text())["inputs"]
    assert [i["model"] for i in inputs] == ["tuned-0", "tuned-1", "tuned-0's moments", "tuned-1's moments"]
    assert "xxh3_tensors" in inputs[2]["files"]["0.safetensors"]


def test_a_missing_or_a_strange_auxiliary_file_is_named(fisher, qwen: Family, tmp_path: Path):
    models = [{"model": str(m)} for m in qwen.tuned[:2]]
    with pytest.raises(PlanError, match=r"models\[0\]: no moments; write auxiliary: \{moments: FILE.safetensors\}"):
        chorus.plan({"merge_method": fisher, "models": models})
    models[0]["auxiliary"] = {"moment": "x"}
    with pytest.raises(PlanError, match='no method here takes it; did you mean "moments"'):
        chorus.plan({"merge_method": fisher, "models": models})
    models[0]["auxiliary"] = {"moments": str(tmp_path / "nowhere.safetensors")}
    with pytest.raises(PlanError, match=r"nowhere.safetensors: no such file"):
        chorus.plan({"merge_method": fisher, "models": models})
    with pytest.raises(PlanError, match="no method here takes it"):
        chorus.plan({"merge_method": "linear", "models": [{**models[0], "parameters": {"weight": 1}}]})


def test_a_method_may_say_what_memory_it_needs(greedy, qwen: Family):
    plan = chorus.plan(qwen.recipe(greedy))
    assert plan.footprint.whole_bytes == 10**12
    assert any("working memory" in warning for warning in plan.warnings)


def test_a_base_that_comes_first_is_the_first_wherever_it_stands(qwen: Family, tmp_path: Path):
    models = [{"model": str(qwen.tuned[0])}, {"model": str(qwen.base)}]
    shared = {"merge_method": "slerp", "base_model": str(qwen.base), "parameters": {"t": 0.2}}
    recipes = [{**shared, "models": chosen} for chosen in (models, models[::-1], models[:1])]
    name = "model.layers.0.mlp.up_proj.weight"
    found = [chorus.plan(recipe)[name].read() for recipe in recipes]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    base, tuned = load_all(qwen.base)[name], load_all(qwen.tuned[0])[name]
    close(found[0], 0.8 * base + 0.2 * tuned, 1e-4)


def test_an_inner_method_is_a_step_of_its_own_with_all_its_parameters(qwen: Family):
    parameters = {"inner": "breadcrumbs", "beta": 1.0, "gamma": 0.2, "density": 0.5, "rescale": True, "lambda": 0.5}
    boosted = chorus.plan(qwen.recipe("subspace_boosting", parameters=parameters))
    own = {k: v for k, v in parameters.items() if k not in ("inner", "beta")}
    plain = chorus.plan(qwen.recipe("breadcrumbs", parameters=own))
    name = "model.layers.1.self_attn.o_proj.weight"
    (tensor,) = (t for t in boosted.tensors() if t.name == name)
    assert [s.method for s in tensor.steps] == ["breadcrumbs", "subspace_boosting"]
    assert tensor.steps[0].parameters["rescale"] is True
    assert tensor.steps[0].parameters["lambda_"] == 1.0, "lambda is the outer method's"
    for each in plain:  # beta 1 boosts nothing
        close(boosted[each].read(), plain[each].read(), 1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "words"),
    [
        ("subspace_boosting", {"inner": "ties", "gamma": 0.1}, "no such parameter"),
        ("subspace_boosting", {"inner": "subspace_boosting"}, "has an inner method itself"),
        ("core_space", {"inner": "knots"}, "has an inner method itself"),
        ("core_space", {"inner": "tsv_m", "rank": 2, "rank_fraction": 0.5}, "give one of them"),
        ("subspace_boosting", {"inner": "ties", "density": 2}, "must lie in 0 to 1"),
    ],
)
def test_inner_methods_that_cannot_be_are_refused(name, parameters, words, qwen: Family):
    with pytest.raises(RecipeError, match=words):
        chorus.plan(qwen.recipe(name, parameters=parameters))


def test_the_inner_method_may_differ_from_tensor_to_tensor(qwen: Family):
    inner = [{"role": {"kind": "attention"}, "value": "ties"}, {"value": "dare_linear"}]
    plan = chorus.plan(qwen.recipe("subspace_boosting", parameters={"inner": inner, "density": 0.5, "weight": 1.0}))
    found = {t.role.kind: t.steps[0].method for t in plan.tensors()}
    assert found["attention"] == "ties"
    assert found["mlp"] == "dare_linear"


def test_within_a_method_the_inner_one_takes_its_own_parameters(qwen: Family):
    name = "model.layers.1.mlp.up_proj.weight"
    found = [
        chorus.plan(qwen.recipe("core_space", parameters={"inner": "ties", "normalize": normalize}))[name].read()
        for normalize in (True, False)
    ]
    assert not torch.equal(*found)


class Weights:
    """A dialect: {weights: {model: weight}}, a linear merge."""

    def recognises(self, documents):
        return len(documents) == 1 and set(documents[0]) == {"weights"}

    def translate(self, documents):
        weights = documents[0]["weights"]
        if not isinstance(weights, dict):
            raise ValueError("weights: a map from model to weight")
        models = [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]
        return {"merge_method": "linear", "models": models}


def test_a_dialect_is_translated_and_merges(qwen: Family, tmp_path: Path, out: Path):
    DIALECTS.add("weights", Weights())
    try:
        path = write_recipe(tmp_path / "w.yml", {"weights": {str(qwen.tuned[0]): 1, str(qwen.tuned[1]): 3}})
        loaded = chorus.load_recipe(path)
        assert loaded.dialect == "weights"
        chorus.merge(path, out)
        name = "model.layers.0.mlp.up_proj.weight"
        close(load_all(out)[name], (load_all(qwen.tuned[0])[name] + 3 * load_all(qwen.tuned[1])[name]) / 4)
        with pytest.raises(RecipeError, match="weights: weights: a map from model to weight"):
            chorus.plan({"weights": 3})
        with pytest.raises(RecipeError, match="merge_method: missing"):
            chorus.plan({"weight": {}})
    finally:
        del DIALECTS._items["weights"]


def test_an_inner_method_that_is_none_is_the_only_complaint(qwen: Family):
    recipe = qwen.recipe("subspace_boosting", each=[{"weight": 1, "density": 0.5}] * 3, parameters={"inner": "tis"})
    with pytest.raises(RecipeError) as caught:
        chorus.plan(recipe)
    assert caught.value.problems == ['parameters.inner: no method is called tis; did you mean "ties"?']
