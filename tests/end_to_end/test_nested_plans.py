"""Merges of merges, and models changed in memory: the same bytes in any thread, and never a stale result."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from safetensors.torch import save_file

import chorus
from adapters import make_adapters
from chorus.checkpoints.lazy_tensor import Checkpoint, MemoryTensor
from chorus.checkpoints.open import open_model
from chorus.merge.runs.resident import Resident
from chorus.testing import close
from models import Family, build, load_all, write_recipe

NAME = "model.layers.0.mlp.up_proj.weight"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models whose matrices have several blocks."""
    place = tmp_path_factory.mktemp("large")
    paths = []
    for seed in (0, 1):
        paths.append(place / f"m{seed}")
        build("qwen2", seed, hidden_size=256, intermediate_size=1536, num_hidden_layers=2).save_pretrained(paths[-1])
    return paths[0], paths[1]


def mean(paths: tuple[Path, Path]) -> dict:
    return {"merge_method": "linear", "models": [{"model": str(p), "parameters": {"weight": 0.5}} for p in paths]}


def test_threads_that_read_one_tensor_read_the_same(large):
    for method in ("linear", "nuslerp"):
        each = [{"model": str(p), "parameters": {"weight": 0.5}} for p in large]
        tensor = chorus.plan({"merge_method": method, "models": each})[NAME]
        wanted, found = tensor.read(), {}

        def read(i: int, tensor=tensor, found=found) -> None:
            found[i] = tensor.flat(i * 65_536, tensor.shape[0] * tensor.shape[1])

        for _ in range(4):
            threads = [Thread(target=read, args=(i % 3,)) for i in range(4)]
            [t.start() for t in threads]
            [t.join() for t in threads]
            assert all(torch.equal(x, wanted.reshape(-1)[i * 65_536 :]) for i, x in found.items()), method


def test_layers_that_a_merge_stacks_twice_are_the_same_with_any_threads(large, tmp_path):
    inner = write_recipe(tmp_path / "inner.yml", mean(large))
    slices = [{"sources": [{"model": str(inner), "layer_range": [i, i + 1]}]} for i in (0, 1, 0, 0)]
    recipe = {"merge_method": "passthrough", "slices": slices}
    for jobs in (1, 4):
        chorus.merge(recipe, tmp_path / f"{jobs}", chorus.Options(jobs=jobs, block_values=65_536))
    one, four = (load_all(tmp_path / name) for name in ("1", "4"))
    assert len(one) > 40
    assert all(torch.equal(one[n], four[n]) for n in one)


def test_what_was_read_is_not_kept_and_may_be_trained_on(large):
    plan = chorus.plan(mean(large))
    for tensor in plan.values():
        tensor.read()
        assert tensor._work is None
        assert tensor._last is None
    weight = torch.nn.Parameter(plan[NAME].read())
    (weight.sum() * 2).backward()
    assert float(weight.grad.min()) == 2.0


def test_searches_in_memory_tell_plans_of_one_name_apart(qwen: Family):
    inner = [chorus.plan(qwen.recipe("task_arithmetic", each=[{"weight": w}] * 3)) for w in (0.1, 0.9)]
    assert inner[0].label == inner[1].label
    resident = Resident()
    for first, second in (inner, inner[::-1]):
        models = [{"model": first, "parameters": {"weight": 0.75}}, {"model": second, "parameters": {"weight": 0.25}}]
        plan = chorus.plan({"merge_method": "linear", "models": models})
        found = resident.merge(plan)
        for name in (NAME, "model.norm.weight"):
            close(found[name].value, 0.75 * first[name].read() + 0.25 * second[name].read())


def test_a_model_that_was_changed_in_memory_is_another_model(qwen: Family):
    model = open_model(qwen.tuned[0])
    zeros = {n: MemoryTensor(n, torch.zeros(t.shape)) for n, t in model.checkpoint.items()}
    halved = {**dict(model.checkpoint), NAME: MemoryTensor(NAME, model.checkpoint[NAME].read() / 2)}
    other = open_model(qwen.tuned[1]).checkpoint
    variants = [
        model,
        replace(model, checkpoint=Checkpoint(zeros, "zeros")),
        replace(model, checkpoint=Checkpoint(halved, "halved")),
        replace(model, checkpoint=other),
        replace(model, config={**model.config, "rope_theta": 1.0}),
    ]
    assert len({one.fingerprint() for one in variants}) == len(variants)
    assert [one.as_stored for one in variants] == [True, False, False, False, True]


def test_adapters_on_adapters_are_all_seen(tmp_path):
    base, paths = make_adapters(tmp_path, "qwen2", 3)
    stacked = [open_model(replace_base(f"{base}+{first}", paths[2])) for first in paths[:2]]
    assert len({one.fingerprint() for one in [*stacked, *(open_model(f"{base}+{p}") for p in paths)]}) == 5
    assert len(stacked[0].adapter_paths) == 4


def replace_base(first: str, second: Path) -> object:
    """`second` on what `first` names, as recipes write it."""
    from chorus.checkpoints.reference import parse_reference

    return parse_reference(open_model(first), str(second))


@pytest.mark.parametrize("file", ["vocab.json", "processor_config.json", "tokenizer.model"])
def test_every_side_file_that_decides_a_text_is_seen(file, qwen: Family, tmp_path):
    import shutil

    shutil.copytree(qwen.base, tmp_path / "m")
    before = open_model(tmp_path / "m").fingerprint()
    (tmp_path / "m" / file).write_text("{}")
    assert open_model(tmp_path / "m").fingerprint() != before


def test_a_tokenizer_from_elsewhere_makes_another_model(qwen: Family):
    recipes = [qwen.recipe("ties", each=[{"weight": 1}] * 3, tokenizer_source=str(s)) for s in ("base", qwen.tuned[0])]
    assert len({chorus.plan(recipe).fingerprint() for recipe in recipes}) == 2


def test_other_options_plan_again(qwen: Family, out: Path):
    plan = chorus.plan(qwen.recipe("dare_ties", each=[{"weight": 0.5, "density": 0.5}] * 3))
    chorus.merge(plan, out, chorus.Options(seed=7, max_shard_bytes=20_000, device="auto"))
    assert len(list(out.glob("model-*.safetensors"))) > 1
    assert json.loads((out / "chorus.json").read_text())["resolved"]["seed"] == 7


def test_an_adapter_on_a_plan_stays_in_factors(tmp_path):
    base, paths = make_adapters(tmp_path, "qwen2", 2)
    other = tmp_path / "other"
    build("qwen2", 5).save_pretrained(other)
    models = [{"model": str(m), "parameters": {"weight": 0.5}} for m in (base, other)]
    recipe = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": models})
    result = chorus.merge_into_adapter(
        {"merge_method": "task_arithmetic", "base_model": str(recipe),
         "models": [{"model": str(recipe), "lora": str(p), "parameters": {"weight": 0.5}} for p in paths]},
        tmp_path / "adapter",
    )  # fmt: skip
    assert {module.way for module in result.modules} == {"linear"}


def test_licences_come_through_a_recipe(qwen: Family, tmp_path, out):
    inner = write_recipe(tmp_path / "r.yml", qwen.recipe("ties", each=[{"weight": 1}] * 3))
    models = [{"model": str(inner), "parameters": {"weight": 1}}]
    result = chorus.merge({"merge_method": "linear", "models": models}, out)
    assert any("licences differ" in warning for warning in result.warnings)
    card = (out / "README.md").read_text()
    assert "license:" not in card.split("---")[1], "they differ, so that the card states none"
    assert "tuned-0" in card
    assert "r.yml" not in card.split("---")[1]


def test_nothing_passes_the_door_that_only_has_a_model():
    class Wrapped:
        def model(self, x: int) -> int:
            raise AssertionError("called")

    with pytest.raises(chorus.ChorusError):
        open_model(Wrapped())


def test_a_changed_file_under_the_same_name_is_read_again(qwen: Family, tmp_path):
    import shutil

    shutil.copytree(qwen.base, tmp_path / "m")
    before = open_model(tmp_path / "m").fingerprint()
    tensors = load_all(tmp_path / "m")
    save_file({n: t + 1 for n, t in tensors.items()}, tmp_path / "m" / "model.safetensors", metadata={"format": "pt"})
    assert open_model(tmp_path / "m").fingerprint() != before


def test_a_file_has_no_revisions(qwen: Family, tmp_path):
    recipe = write_recipe(tmp_path / "r.yml", qwen.recipe("ties", each=[{"weight": 1}] * 3))
    for name in (f"{recipe}@main", f"{recipe}@main+{qwen.tuned[0]}"):
        with pytest.raises(chorus.ChorusError, match="a file has no revisions"):
            open_model(name)


@pytest.mark.parametrize(("name", "words"), [("x" * 5000, "5000 characters"), ("no.yml:a", "no.yml: no such file")])
def test_names_that_are_none_are_told(name, words):
    with pytest.raises(chorus.ChorusError, match=words):
        open_model(name)


def test_paths_may_stand_in_a_recipe_map(qwen: Family, out: Path):
    models = [{"model": path, "parameters": {"weight": 0.5}} for path in qwen.tuned[:2]]
    chorus.merge({"merge_method": "linear", "models": models}, out)
    assert "tuned-0" in (out / "README.md").read_text()
