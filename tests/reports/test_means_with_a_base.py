"""Means that take the base in, and means without weights."""

from __future__ import annotations

import pytest
import torch

import chorus
from chorus.cli.main import run
from chorus.errors import PlanError
from models import load_all, write_recipe


@pytest.mark.parametrize(("method", "more"), [("linear", {}), ("karcher", {}), ("encoder_decoder_weighted", {})])
def test_a_base_that_a_mean_takes_in_is_told_with_the_number_of_models(qwen, tmp_path, capsys, method, more):
    recipe = qwen.recipe(method, 2, **more)
    told = f"{method}: base_model (base) is merged as well, 3 models in all"
    assert told in chorus.plan(recipe).warnings[0]
    path = write_recipe(tmp_path / "r.yml", recipe)
    assert run(["plan", str(path)]) == 0
    assert told in capsys.readouterr().out
    assert run(["merge", str(path), "-o", str(tmp_path / "out")]) == 0
    assert told in capsys.readouterr().err
    # listed, it was asked for; and to methods on task vectors it is what they are taken from
    listed = {**recipe, "models": [*recipe["models"], {"model": str(qwen.base)}]}
    vectors = qwen.recipe("task_arithmetic", 2, each=[{"weight": 0.5}] * 3)
    for other in (listed, qwen.recipe(method, 2, base=False), vectors):
        assert not any("merged as well" in warning for warning in chorus.plan(other).warnings)


@pytest.mark.parametrize("normalize", [True, False])
def test_linear_without_weights_is_the_mean(qwen, out, normalize):
    chorus.merge(qwen.recipe("linear", 3, base=False, parameters={"normalize": normalize}), out)
    each = [load_all(path) for path in qwen.tuned]
    for name, value in load_all(out).items():
        wanted = sum(tensors[name].double() for tensors in each) / 3
        assert torch.allclose(value.double(), wanted, atol=1e-7), name


def test_linear_with_a_weight_for_some_is_refused(qwen):
    with pytest.raises(PlanError, match="linear needs weight for base"):
        chorus.plan(qwen.recipe("linear", 2, each=[{"weight": 0.5}] * 3))


def test_linear_with_weights_of_which_none_holds_for_a_tensor_is_refused(qwen):
    each = [{"weight": [{"filter": "mlp", "value": value}]} for value in (0.5, 1.5)]
    with pytest.raises(PlanError, match="linear needs weight for tuned-0"):
        chorus.plan(qwen.recipe("linear", 2, base=False, each=each))
    whole = [{"weight": [*one["weight"], {"value": 1.0}]} for one in each]
    plan = chorus.plan(qwen.recipe("linear", 2, base=False, each=whole))
    assert {t.parameters["weight"] for t in plan.tensors()} == {(0.5, 1.5), (1.0, 1.0)}
