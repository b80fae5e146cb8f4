"""A plan is a checkpoint for everyone: one door for texts, paths, plans and models, in Python and in commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import chorus
from chorus.checkpoints.open import open_model
from chorus.errors import ChorusError, PlanError, UsageError
from commands import chorus as command
from models import Family, load_all, write_recipe


@pytest.fixture
def recipe(qwen: Family, tmp_path: Path) -> Path:
    return write_recipe(tmp_path / "mix.yml", qwen.recipe("ties", parameters={"density": 0.5, "weight": 1.0}))


def test_a_plan_is_a_mapping_of_lazy_tensors(recipe: Path, out: Path) -> None:
    plan = chorus.plan(recipe)
    chorus.merge(plan, out)
    merged = load_all(out)
    assert set(plan) == set(merged)
    assert len(plan) == len(merged)
    for name, tensor in plan.items():
        assert torch.equal(tensor.read(), merged[name]), name
    assert plan == plan
    assert plan != chorus.plan(recipe), "another plan of the same recipe is another object"
    with pytest.raises(KeyError):
        plan["no such tensor"]


def test_every_way_through_the_door_opens_the_same_model(recipe: Path, out: Path) -> None:
    plan = chorus.plan(recipe)
    chorus.merge(plan, out)
    name = "model.layers.1.mlp.up_proj.weight"
    wanted = load_all(out)[name]
    model = plan.model()
    sources = {"plan": plan, "model": model, "path": recipe, "text": str(recipe), "directory": str(out)}
    for kind, source in sources.items():
        opened = open_model(source)
        assert torch.equal(opened.checkpoint[name].read(), wanted), kind
        assert opened.config["model_type"] == "qwen2", kind
    assert open_model(model) is model


def test_an_output_of_several_is_named(qwen: Family, tmp_path: Path) -> None:
    each = {"outputs": [{"name": "a"}, {"name": "b", "parameters": {"density": 0.1}}]}
    path = write_recipe(tmp_path / "two.yml", qwen.recipe("ties", **each))
    plan = chorus.plan(path)
    first, second = (open_model(f"{path}:{name}") for name in ("a", "b"))
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(first.checkpoint[name].read(), second.checkpoint[name].read())
    for call in (lambda: plan[name], lambda: list(plan), lambda: open_model(path), plan.model):
        with pytest.raises(UsageError, match="several outputs: a, b"):
            call()
    with pytest.raises(UsageError, match='no output "c"; it has a, b'):
        open_model(f"{path}:c")


def test_the_fingerprint_of_a_plan_follows_what_its_bytes_follow(qwen: Family, tmp_path: Path) -> None:
    def of(**parameters: object) -> str:
        return chorus.plan(qwen.recipe("ties", parameters=parameters)).model().fingerprint()

    assert of(density=0.5) == of(density=0.5)
    assert of(density=0.5) != of(density=0.6)
    models = {open_model(path).fingerprint() for path in (qwen.base, *qwen.tuned)}
    assert len(models) == 4, "models with the same shapes and other weights are told apart"


def test_extraction_takes_a_plan_a_recipe_and_a_directory_alike(recipe: Path, qwen: Family, tmp_path: Path) -> None:
    plan = chorus.plan(recipe)
    chorus.merge(plan, tmp_path / "merged")
    found = []
    for i, source in enumerate((plan, str(recipe), tmp_path / "merged")):
        chorus.extract_lora(source, qwen.base, tmp_path / f"lora-{i}", ranks=chorus.RankRule(max_rank=4))
        chorus.extract_task_vector(source, qwen.base, tmp_path / f"vector-{i}")
        weights = (
            tmp_path / f"lora-{i}" / "adapter_model.safetensors",
            *(tmp_path / f"vector-{i}").glob("*.safetensors"),
        )
        found.append([path.read_bytes() for path in weights])
    assert found[0] == found[1] == found[2]


def test_the_commands_take_a_recipe_where_they_take_a_model(recipe: Path, qwen: Family, tmp_path: Path) -> None:
    base = str(qwen.base)
    lora = ["extract", "lora", "--model", str(recipe), "--base", base, "-o", str(tmp_path / "a"), "--max-rank", "2"]
    assert command(*lora).returncode == 0
    vector = ["extract", "task-vector", "--model", str(recipe), "--base", base, "-o", str(tmp_path / "v")]
    assert command(*vector).returncode == 0
    applied = ["apply", str(recipe), str(tmp_path / "v"), "-w", "-1", "-o", str(tmp_path / "back")]
    assert command(*applied).returncode == 0
    back, original = load_all(tmp_path / "back"), load_all(qwen.base)
    name = "model.layers.2.mlp.down_proj.weight"
    assert torch.allclose(back[name], original[name], atol=1e-7), "the merge less what it learnt is the base"


def test_a_recipe_may_name_a_recipe(recipe: Path, qwen: Family, out: Path, tmp_path: Path) -> None:
    chorus.merge(recipe, tmp_path / "first")
    shared = {"merge_method": "linear", "parameters": {"weight": 1.0}}
    staged = {**shared, "models": [{"model": str(recipe)}, {"model": str(qwen.tuned[0])}]}
    straight = {**shared, "models": [{"model": str(tmp_path / "first")}, {"model": str(qwen.tuned[0])}]}
    chorus.merge(staged, out)
    chorus.merge(straight, tmp_path / "straight")
    assert load_all(out).keys() == load_all(tmp_path / "straight").keys()
    for name, tensor in load_all(tmp_path / "straight").items():
        assert torch.allclose(load_all(out)[name], tensor, atol=1e-7), name
    facts = json.loads((out / "chorus.json").read_text())
    assert facts["inputs"][0]["model"] == "mix.yml"
    assert len(facts["inputs"][0]["fingerprint"]) == 40
    assert facts["inputs"][0]["recipe"]["parameters"] == {"density": 0.5, "weight": 1.0}
    assert facts["inputs"][0]["models"] == ["tuned-0", "tuned-1", "tuned-2", "base"]
    assert str(tmp_path) not in (out / "README.md").read_text() + (out / "chorus.json").read_text()


def test_a_plan_stands_in_a_recipe_for_the_model_that_it_makes(recipe: Path, qwen: Family, out: Path) -> None:
    plan = chorus.plan(recipe)
    models = [
        {"model": plan, "parameters": {"weight": 0.5}},
        {"model": str(qwen.tuned[1]), "parameters": {"weight": 0.5}},
    ]
    chorus.merge({"merge_method": "linear", "models": models}, out)
    name = "model.layers.0.mlp.up_proj.weight"
    mean = (plan[name].read() + load_all(qwen.tuned[1])[name]) / 2
    assert torch.allclose(load_all(out)[name], mean, atol=1e-7)
    assert "mix" in (out / "README.md").read_text()


def test_a_recipe_that_names_itself_is_refused(qwen: Family, tmp_path: Path) -> None:
    path = tmp_path / "loop.yml"
    write_recipe(path, {"merge_method": "linear", "models": [{"model": str(path), "parameters": {"weight": 1}}]})
    with pytest.raises(PlanError, match="names itself") as caught:
        chorus.plan(path)
    assert str(caught.value).count("loop.yml") == 2
    other = write_recipe(tmp_path / "other.yml", {"merge_method": "passthrough", "models": [{"model": str(path)}]})
    write_recipe(path, {"merge_method": "passthrough", "models": [{"model": str(other)}]})
    with pytest.raises(PlanError, match="names itself"):
        chorus.plan(other)


@pytest.mark.parametrize("name", ["", "a+b+c", "nothing-here/at-all/deep"])
def test_what_is_no_model_is_named(name: str) -> None:
    with pytest.raises(ChorusError):
        open_model(name)


def test_apply_adds_and_takes_away_in_python_too(qwen: Family, tmp_path: Path) -> None:
    from chorus.merge.api import apply

    for i, tuned in enumerate(qwen.tuned[:2]):
        chorus.extract_task_vector(tuned, qwen.base, tmp_path / f"v{i}")
    apply(qwen.base, [tmp_path / "v0", tmp_path / "v1"], tmp_path / "out", weights=[1, -0.5])
    name = "model.layers.0.mlp.up_proj.weight"
    base, a, b = (load_all(p)[name] for p in (qwen.base, *qwen.tuned[:2]))
    assert torch.allclose(load_all(tmp_path / "out")[name], base + (a - base) - 0.5 * (b - base), atol=1e-7)
    apply(qwen.base, str(tmp_path / "v0"), tmp_path / "alone")
    assert torch.allclose(load_all(tmp_path / "alone")[name], a, atol=1e-7)
    with pytest.raises(UsageError, match="3 weights for 2 deltas"):
        apply(qwen.base, [tmp_path / "v0", tmp_path / "v1"], tmp_path / "no", weights=[1, 2, 3])


def test_an_adapter_or_a_task_vector_on_a_recipe_changes_its_fingerprint(
    recipe: Path, qwen: Family, tmp_path: Path
) -> None:
    found = {open_model(recipe).fingerprint()}
    for i, tuned in enumerate(qwen.tuned[:2]):
        chorus.extract_task_vector(tuned, qwen.base, tmp_path / f"v{i}")
        chorus.extract_lora(tuned, qwen.base, tmp_path / f"a{i}", ranks=chorus.RankRule(max_rank=2))
        found |= {open_model(f"{recipe}+{tmp_path / kind}{i}").fingerprint() for kind in ("v", "a")}
    assert len(found) == 5
