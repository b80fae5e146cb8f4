"""What a plan fixes before any work: sizes, memory, threads, side files, notes."""

from __future__ import annotations

import json

import pytest

import chorus
from chorus.errors import PlanError, RecipeError
from chorus.merge.planning.describe import describe, draw_together
from models import copy_model, load_all


def linear(*paths, **keys):
    return {"merge_method": "linear", "models": [{"model": str(p), "parameters": {"weight": 1}} for p in paths], **keys}


def test_threads_follow_the_memory_budget(qwen):
    recipe = linear(*qwen.tuned)
    roomy = chorus.plan(recipe, chorus.Options(jobs=4))
    assert roomy.jobs == 4
    tight = chorus.plan(recipe, chorus.Options(jobs=4, memory_budget_bytes=2 * roomy.bytes_per_job))
    assert tight.jobs == 2
    assert tight.warnings == roomy.warnings
    tiny = chorus.plan(recipe, chorus.Options(jobs=4, memory_budget_bytes=1000))
    assert tiny.jobs == 1
    assert any("more than the budget" in w for w in tiny.warnings)


def test_working_memory_does_not_depend_on_the_size_of_tensors(qwen, whisper):
    small, large = (chorus.plan(linear(*f.tuned)).bytes_per_job for f in (qwen, whisper))
    assert small == large


def test_a_plan_as_data_holds_every_tensor(qwen):
    plan = chorus.plan(qwen.recipe("ties", each=[{"weight": [0, 1], "density": 0.5}] * 3, seed=2))
    facts = json.loads(json.dumps(describe(plan)))
    (output,) = facts["outputs"]
    assert {t["name"] for t in output["tensors"]} == set(plan) == set(load_all(qwen.base))
    by_name = {t["name"]: t for t in output["tensors"]}
    assert by_name["model.layers.3.mlp.up_proj.weight"]["parameters"]["weight"] == [1.0, 1.0, 1.0]
    assert by_name["model.layers.1.mlp.up_proj.weight"]["role"] == {
        "component": "language_model", "kind": "mlp", "layer": 1, "learned": True}  # fmt: skip
    assert by_name["model.norm.weight"]["base"] == ["base", "model.norm.weight"]
    assert sum(f["bytes"] for f in output["files"]) > facts["bytes_to_write"] == output["bytes"]
    drawn = draw_together(output["tensors"])
    assert sum(count for _, count in drawn) == len(output["tensors"])


def test_equal_layers_are_drawn_together(qwen):
    (output,) = describe(chorus.plan(linear(*qwen.tuned)))["outputs"]
    names = [t["name"] for t, count in draw_together(output["tensors"]) if count == 4]
    assert "model.layers.{0-3}.self_attn.q_proj.bias" in names


def test_the_tokenizer_comes_from_whom_the_recipe_says(qwen, tmp_path, out):
    paths = []
    for i, source in enumerate(qwen.tuned[:2]):
        paths.append(copy_model(source, tmp_path / f"m{i}"))
        (paths[-1] / "tokenizer_config.json").write_text(json.dumps({"whose": i}))
    for source, whose in ((None, 0), (str(paths[1]), 1)):
        keys = {"tokenizer_source": source} if source else {}
        chorus.merge(linear(*paths, **keys), out / str(whose))
        assert json.loads((out / str(whose) / "tokenizer_config.json").read_text()) == {"whose": whose}
    base = {**linear(*paths, tokenizer_source="base")}
    with pytest.raises(PlanError, match="needs a base_model"):
        chorus.plan(base)
    with pytest.raises(PlanError, match="neither base nor one of the models"):
        chorus.plan(linear(*paths, tokenizer_source="elsewhere"))


def test_seeds_come_from_the_options_then_the_recipe(qwen):
    recipe = qwen.recipe("dare_ties", each=[{"weight": 1, "density": 0.5}] * 3, seed=7)
    assert chorus.plan(recipe).seed == 7
    assert chorus.plan(recipe, chorus.Options(seed=9)).seed == 9
    assert chorus.plan({k: v for k, v in recipe.items() if k != "seed"}).seed == 0


def test_lambda_is_short_for_the_parameter(qwen):
    each = [{"weight": 1}] * 3
    plan = chorus.plan(qwen.recipe("task_arithmetic", each=each, **{"lambda": 0.25}))
    assert {t.parameters["lambda_"] for t in plan.variants[0].tensors.values()} == {0.25}
    with pytest.raises(RecipeError, match="linear has no such parameter"):
        chorus.plan(qwen.recipe("linear", base=False, each=each, **{"lambda": 0.25}))


def test_exclude_needs_a_base_and_known_roles(qwen):
    each = [{"weight": 1}] * 3
    with pytest.raises(RecipeError, match="needs a base_model"):
        chorus.plan(qwen.recipe("linear", base=False, each=each, exclude=[{"kind": "norm"}]))
    with pytest.raises(RecipeError, match='unknown kind "norms"; did you mean "norm"'):
        chorus.plan(qwen.recipe("ties", each=each, exclude=[{"kind": "norms"}]))


def test_slices_of_a_model_with_two_stacks_must_say_which(whisper):
    sources = [{"model": str(whisper.base), "layer_range": [0, 2]}]
    with pytest.raises(PlanError, match="write slices under modules"):
        chorus.plan({"merge_method": "passthrough", "slices": [{"sources": sources}]})


def test_layers_that_are_not_there_are_named(qwen):
    sources = [{"model": str(qwen.base), "layer_range": [2, 9]}]
    with pytest.raises(PlanError, match=r"layer_range \[2, 9\] is beyond the 4 layers of base"):
        chorus.plan({"merge_method": "passthrough", "slices": [{"sources": sources}]})


def test_a_whole_number_type_is_refused(qwen):
    with pytest.raises(RecipeError, match="round every weight"):
        chorus.plan(linear(*qwen.tuned, dtype="int64"))
    with pytest.raises(RecipeError, match='write "bfloat16"'):
        chorus.plan(linear(*qwen.tuned, out_dtype="bf16"))
