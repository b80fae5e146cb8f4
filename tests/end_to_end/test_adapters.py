"""Adapters in, an adapter or a model out: PEFT finds in the adapter what the merged model holds."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import chorus
from adapters import loaded_by_peft, make_adapters, recipe_of, worst_error
from chorus.errors import CheckpointError, ChorusError, PlanError
from models import load_all

CASES = {
    "weighted sum": ("whisper", "task_arithmetic", {}, {}),
    "soup": ("whisper", "linear", {}, {}),
    "boosted_tsv_m": ("whisper", "boosted_tsv_m", {}, {}),
    "iso_c": ("whisper", "iso_c", {}, {}),
    "iso_cts": ("qwen2", "iso_cts", {}, {}),
    "knots": ("qwen2", "knots", {"density": 0.5}, {}),
    "core space": ("qwen2", "core_space", {"inner": "ties", "density": 0.5}, {}),
    "subspace boosting": ("qwen2", "subspace_boosting", {}, {}),
    "model stock": ("qwen2", "model_stock", {}, {}),
    "karcher": ("qwen2", "karcher", {}, {}),
    "ties": ("qwen2", "ties", {"density": 0.5}, {}),
    "rsLoRA": ("qwen2", "task_arithmetic", {}, {"use_rslora": True}),
    "DoRA": ("qwen2", "task_arithmetic", {}, {"use_dora": True}),
    "PiSSA": ("qwen2", "task_arithmetic", {}, {"init_lora_weights": "pissa"}),
    "OLoRA": ("qwen2", "tsv_m", {}, {"init_lora_weights": "olora"}),
    "patterns": ("qwen2", "task_arithmetic", {}, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 3}}),
    "saved modules": ("qwen2", "tsv_m", {}, {"modules_to_save": ["norm", "input_layernorm"]}),
    "convolutions": ("whisper", "task_arithmetic", {}, {"target_modules": ["conv1", "conv2", "q_proj"]}),
    "embeddings": ("qwen2", "task_arithmetic", {}, {"target_modules": ["embed_tokens", "q_proj"]}),
}


def both(tmp_path, kind, method, parameters, settings, **rule):
    base, adapters = make_adapters(tmp_path, kind, 3, **settings)
    recipe = recipe_of(method, base, adapters, weight=method != "karcher", **parameters)
    if method in ("linear", "karcher"):
        del recipe["base_model"]
    chorus.merge(recipe, tmp_path / "model")
    result = chorus.merge_into_adapter(recipe, tmp_path / "merged", ranks=chorus.RankRule(**rule))
    return base, result


@pytest.mark.parametrize("name", CASES)
def test_the_adapter_is_the_model(tmp_path, name):
    kind, method, parameters, settings = CASES[name]
    rule = {"max_rank": 1000} if name in ("ties", "embeddings") else {}
    base, result = both(tmp_path, kind, method, parameters, settings, **rule)
    found = loaded_by_peft(kind, base, tmp_path / "merged")
    assert worst_error(found, load_all(tmp_path / "model"), load_all(base)) < 2e-6
    ways = {m.way for m in result.modules}
    dense = {"ties": {"dense"}, "embeddings": {"dense", "linear"}}
    low_rank = {"factors"} if method in ("boosted_tsv_m", "iso_c", "iso_cts", "knots", "core_space", "tsv_m") else None
    assert ways == (dense.get(name) or low_rank or ({"factors"} if method == "subspace_boosting" else {"linear"}))
    config = json.loads((tmp_path / "merged" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "org/base"
    assert config["use_dora"] == (name in ("DoRA", "karcher"))  # a mean on the sphere scales the base, too
    assert all(m.energy > 1 - 1e-6 for m in result.modules)


def test_adapters_with_different_targets_count_as_zero_where_they_have_none(tmp_path):
    base, first = make_adapters(tmp_path / "a", "qwen2", 1, target_modules=["q_proj", "k_proj"])
    _, second = make_adapters(tmp_path / "b", "qwen2", 1, target_modules=["k_proj", "down_proj"])
    recipe = recipe_of("task_arithmetic", base, [*first, *second])
    chorus.merge(recipe, tmp_path / "model")
    chorus.merge_into_adapter(recipe, tmp_path / "merged")
    found = loaded_by_peft("qwen2", base, tmp_path / "merged")
    assert worst_error(found, load_all(tmp_path / "model"), load_all(base)) < 2e-6
    factors = load_file(tmp_path / "merged" / "adapter_model.safetensors")
    ranks = {n.split(".")[-3]: t.shape[0] for n, t in factors.items() if n.endswith("lora_A.weight")}
    assert ranks == {"q_proj": 4, "k_proj": 8, "down_proj": 4}


def test_a_mixture_of_lora_and_dora_is_exact(tmp_path):
    base, plain = make_adapters(tmp_path / "a", "qwen2", 1)
    _, dora = make_adapters(tmp_path / "b", "qwen2", 1, use_dora=True, target_modules=["q_proj", "down_proj"])
    recipe = recipe_of("task_arithmetic", base, [*plain, *dora])
    chorus.merge(recipe, tmp_path / "model")
    chorus.merge_into_adapter(recipe, tmp_path / "merged")
    found = loaded_by_peft("qwen2", base, tmp_path / "merged")
    assert worst_error(found, load_all(tmp_path / "model"), load_all(base)) < 2e-6


@pytest.mark.parametrize("rule", [{"max_rank": 4}, {"energy": 0.9}, {"budget": 3000}], ids=str)
@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_ranks_are_cut_as_asked_and_the_energy_is_true(tmp_path, method, rule):
    base, result = both(tmp_path, "qwen2", method, {"density": 0.5}, {}, **rule)
    origin, model = load_all(base), load_all(tmp_path / "model")
    found = loaded_by_peft("qwen2", base, tmp_path / "merged")
    assert len(result.modules) == 12
    for module in result.modules:
        delta, kept = (x[module.tensor].double() - origin[module.tensor].double() for x in (model, found))
        s = torch.linalg.svdvals(delta)
        share = float((s[: module.rank] ** 2).sum() / (s**2).sum())
        assert module.energy == pytest.approx(share, rel=1e-4)
        assert float((delta - kept).norm()) == pytest.approx(float(s[module.rank :].norm()), rel=1e-3)
        if "max_rank" in rule:
            assert module.rank == 4
        if "energy" in rule:
            assert share >= 0.9
            assert float((s[: module.rank - 1] ** 2).sum() / (s**2).sum()) < 0.9 + 1e-4
    if "budget" in rule:
        assert 2900 < result.parameters <= 3000
    assert any("keep less than" in w for w in result.warnings) == any(m.energy < 0.8 for m in result.modules)


def test_variants_of_one_recipe_become_adapters_side_by_side(tmp_path):
    base, adapters = make_adapters(tmp_path, "qwen2", 2)
    recipe = recipe_of("tsv_m", base, adapters, weight=False)
    recipe["outputs"] = [{"name": "a"}, {"name": "b", "parameters": {"lambda": 0.5}}]
    result = chorus.merge_into_adapter(recipe, tmp_path / "merged")
    assert result.variants == ["a", "b"]
    assert len(result.modules) == 24
    for name in "ab":
        facts = json.loads((tmp_path / "merged" / name / "chorus.json").read_text())
        assert len(facts["adapter"]["modules"]) == 12  # its own, not the other's too
    a, b = (loaded_by_peft("qwen2", base, tmp_path / "merged" / name) for name in "ab")
    origin = load_all(base)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.allclose((a[name] - origin[name]) / 2, b[name] - origin[name], atol=1e-6)


def test_dora_beside_adapted_convolutions_is_refused_with_a_way_out(tmp_path):
    base, dora = make_adapters(tmp_path / "a", "whisper", 1, use_dora=True)
    _, plain = make_adapters(tmp_path / "b", "whisper", 1, target_modules=["conv1", "q_proj"])
    recipe = recipe_of("task_arithmetic", base, [*dora, *plain])
    with pytest.raises(ChorusError, match=r"model.encoder.conv1.*convolution"):
        chorus.merge_into_adapter(recipe, tmp_path / "merged")
    assert not list(tmp_path.glob("merged*"))
    recipe["exclude"] = [{"name": "conv1"}]
    chorus.merge_into_adapter(recipe, tmp_path / "merged")
    chorus.merge(recipe, tmp_path / "model")
    found = loaded_by_peft("whisper", base, tmp_path / "merged")
    assert worst_error(found, load_all(tmp_path / "model"), load_all(base)) < 2e-6


def test_full_fine_tunes_become_an_adapter_too(tmp_path, qwen):
    result = chorus.merge_into_adapter(qwen.recipe("tsv_m"), tmp_path / "merged", ranks=chorus.RankRule(max_rank=1000))
    found = loaded_by_peft("qwen2", qwen.base, tmp_path / "merged")
    chorus.merge(qwen.recipe("tsv_m", out_dtype="float32"), tmp_path / "model")
    model, origin = load_all(tmp_path / "model"), load_all(qwen.base)
    dropped = {name for name, _ in result.dropped}
    assert not dropped & set(result.saved)
    for name, value in model.items():
        if name not in dropped:
            assert torch.allclose(found[name], value, atol=2e-7), name
        else:
            assert torch.equal(found[name], origin[name])


def test_what_cannot_be_an_adapter_is_refused_with_the_reason(tmp_path):
    base, adapters = make_adapters(tmp_path, "qwen2", 2)
    with pytest.raises(PlanError, match="full rank: say --max-rank"):
        chorus.merge_into_adapter(recipe_of("ties", base, adapters), tmp_path / "x")
    mean = recipe_of("linear", base, adapters, normalize=False)
    del mean["base_model"]
    with pytest.raises(PlanError, match="do not sum to one"):
        chorus.merge_into_adapter(mean, tmp_path / "x")
    other, strange = make_adapters(tmp_path / "other", "qwen2", 1)
    recipe = recipe_of("task_arithmetic", base, adapters)
    recipe["models"].append({"model": str(other), "lora": str(strange[0]), "parameters": {"weight": 1}})
    with pytest.raises(PlanError, match="stands on another base"):
        chorus.merge_into_adapter(recipe, tmp_path / "x")
    del recipe["base_model"]
    recipe["merge_method"] = "linear"
    with pytest.raises(PlanError, match="needs a base_model"):
        chorus.merge_into_adapter(recipe, tmp_path / "x")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("settings", [{}, {"use_dora": True}, {"init_lora_weights": "pissa"}], ids=str)
@pytest.mark.parametrize("method", ["task_arithmetic", "boosted_tsv_m", "iso_c"])
def test_no_delta_of_the_matrixs_size_is_ever_formed(tmp_path, monkeypatch, method, settings):
    from chorus.checkpoints.adapted import AdaptedTensor
    from chorus.linalg.low_rank import LowRank

    if settings.get("use_dora") and method != "task_arithmetic":
        pytest.skip("subspace merges of DoRA adapters go through one dense delta a module, as documented")

    def refuse(*_):
        raise AssertionError("a dense delta was formed")

    base, adapters = make_adapters(tmp_path, "whisper", 3, **settings)
    recipe = recipe_of(method, base, adapters, weight=method == "task_arithmetic")
    for owner, name in (
        (LowRank, "dense"),
        (AdaptedTensor, "flat"),
        (AdaptedTensor, "read"),
        (AdaptedTensor, "difference"),
    ):
        monkeypatch.setattr(owner, name, refuse)
    result = chorus.merge_into_adapter(recipe, tmp_path / "merged", ranks=chorus.RankRule(max_rank=5))
    assert len(result.modules) == 2 * 2 + 3 * 4 + 5  # q and v of self- and cross-attention, fc1


@pytest.mark.parametrize("method", ["tsv_m", "task_arithmetic"])
@pytest.mark.parametrize("form", ["model", "adapter"])
def test_factors_that_are_not_finite_are_refused_by_name(tmp_path, method, form):
    base, adapters = make_adapters(tmp_path, "qwen2", 2)
    file = adapters[1] / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "layers.2" in n and "q_proj.lora_B" in n)
    tensors[name][1, 1] = float("nan")
    save_file(tensors, file)
    merge = chorus.merge if form == "model" else chorus.merge_into_adapter
    with pytest.raises(ChorusError, match=r"adapter-1.*layers.2.self_attn.q_proj"):
        merge(recipe_of(method, base, adapters), tmp_path / "x")


def test_the_same_recipe_gives_the_same_adapter_bytes(tmp_path):
    base, adapters = make_adapters(tmp_path, "whisper", 3)
    made = []
    for jobs in (1, 3):
        out = tmp_path / f"merged-{jobs}"
        chorus.merge_into_adapter(
            recipe_of("boosted_tsv_m", base, adapters),
            out,
            chorus.Options(jobs=jobs),
            ranks=chorus.RankRule(energy=0.9),
        )
        made.append({p.name: p.read_bytes() for p in sorted(out.iterdir())})
    assert made[0] == made[1]
    assert set(made[0]) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "chorus.json"}
    assert str(tmp_path).encode() not in b"".join(made[0].values())


def test_an_adapter_of_another_base_does_not_open(tmp_path):
    base, _ = make_adapters(tmp_path / "a", "qwen2", 1)
    _, adapters = make_adapters(tmp_path / "b", "whisper", 1)
    with pytest.raises(CheckpointError, match="no place in the base"):
        chorus.open_model(chorus.checkpoints.reference.parse_reference(f"{base}+{adapters[0]}"))
