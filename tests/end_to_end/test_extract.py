"""What is taken out of a fine-tune: PEFT loads it, and it holds what it says."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import chorus
from adapters import loaded_by_peft, make_adapters
from chorus.errors import CheckpointError, OutputError, UsageError
from models import copy_model, load_all, write_model


@pytest.fixture
def deltas(whisper):
    """The fine-tune's differences in float64."""
    tuned, base = load_all(whisper.tuned[0]), load_all(whisper.base)
    return {name: tuned[name].double() - base[name].double() for name in base}


def test_a_full_rank_extraction_is_the_fine_tune(whisper, out):
    result = chorus.extract_lora(
        whisper.tuned[0], whisper.base, out, ranks=chorus.RankRule(max_rank=10**6), embeddings=True, save_vectors=True
    )
    assert result.dropped == [] or {n for n, _ in result.dropped} == {"model.decoder.embed_positions.weight"}
    found, tuned = loaded_by_peft("whisper", whisper.base, out), load_all(whisper.tuned[0])
    for name, value in tuned.items():
        if name not in {n for n, _ in result.dropped}:
            assert torch.allclose(found[name], value, atol=2e-7), name
    assert len(result.modules) > 30
    assert min(m.energy for m in result.modules) > 1 - 1e-6


@pytest.mark.parametrize("rank", [1, 4])
def test_the_rank_keeps_the_best_and_says_how_much(whisper, deltas, out, rank):
    result = chorus.extract_lora(whisper.tuned[0], whisper.base, out, ranks=chorus.RankRule(max_rank=rank))
    found, base = loaded_by_peft("whisper", whisper.base, out), load_all(whisper.base)
    for module in result.modules:
        delta = deltas[module.tensor].flatten(1)
        s = torch.linalg.svdvals(delta)
        kept = (found[module.tensor].double() - base[module.tensor].double()).flatten(1)
        assert module.energy == pytest.approx(float((s[:rank] ** 2).sum() / (s**2).sum()), rel=1e-5)
        assert float((delta - kept).norm()) == pytest.approx(float(s[rank:].norm()), rel=1e-3)
    assert any("keep less than 80 %" in w for w in result.warnings)
    facts = json.loads((out / "chorus.json").read_text())
    assert facts["kind"] == "lora"
    assert [m["tensor"] for m in facts["modules"]] == sorted(m.tensor for m in result.modules)
    assert facts["base_model"]["model"] == "base"


def test_energy_and_budget(whisper, out, tmp_path):
    energy = chorus.extract_lora(whisper.tuned[0], whisper.base, out, ranks=chorus.RankRule(energy=0.9))
    assert all(m.energy >= 0.9 for m in energy.modules)
    assert len({m.rank for m in energy.modules}) > 1
    budget = chorus.extract_lora(
        whisper.tuned[0], whisper.base, tmp_path / "budget", ranks=chorus.RankRule(budget=4000)
    )
    assert 3900 < budget.parameters <= 4000
    found = load_file(tmp_path / "budget" / "adapter_model.safetensors")
    assert sum(t.numel() for t in found.values()) == budget.parameters


def test_parts_and_names_are_chosen(whisper, out, tmp_path):
    for part in ("encoder", "decoder"):
        result = chorus.extract_lora(whisper.tuned[0], whisper.base, tmp_path / part, selection=chorus.Selection(part))
        assert {m.tensor.split(".")[1] for m in result.modules} == {part}
    chosen = chorus.Selection(include=("fc1", "q_proj"), exclude=("layers.0",))
    result = chorus.extract_lora(whisper.tuned[0], whisper.base, out, selection=chosen)
    names = {m.tensor for m in result.modules}
    assert names == {
        f"model.{side}.{name}.weight"
        for side, layers in (("encoder", (1,)), ("decoder", (1, 2)))
        for i in layers
        for name in [f"layers.{i}.self_attn.q_proj", f"layers.{i}.fc1"]
        + ([f"layers.{i}.encoder_attn.q_proj"] if side == "decoder" else [])
    }
    with pytest.raises(UsageError, match="not a regular expression"):
        chorus.Selection(include=("(",))


def test_an_adapter_comes_back_out_of_its_merge(tmp_path):
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    result = chorus.extract_lora(f"{base}+{adapter}", base, tmp_path / "again")
    assert {m.rank for m in result.modules} >= {4}
    assert {m.rank for m in result.modules} <= {0, 4}
    found, wanted = (loaded_by_peft("qwen2", base, p) for p in (tmp_path / "again", adapter))
    assert all(torch.allclose(found[n], wanted[n], atol=1e-6) for n in wanted)


def test_a_task_vector_is_the_difference_and_applying_it_is_the_fine_tune(whisper, deltas, out, tmp_path):
    result = chorus.extract_task_vector(whisper.tuned[0], whisper.base, out)
    vector = load_file(out / "task_vector.safetensors")
    assert set(vector) == set(deltas) - {"model.encoder.embed_positions.weight"}
    for name, value in vector.items():
        assert torch.allclose(value.double(), deltas[name], atol=1e-8)
    assert result.norm == pytest.approx(sum(float(v.norm()) ** 2 for v in deltas.values()) ** 0.5, rel=1e-6)
    assert json.loads((out / "chorus.json").read_text())["kind"] == "task_vector"
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(whisper.base),
        "models": [{"model": str(whisper.base), "lora": str(out), "parameters": {"weight": 1}}],
    }
    chorus.merge(recipe, tmp_path / "back")
    tuned = load_all(whisper.tuned[0])
    for name, value in load_all(tmp_path / "back").items():
        assert torch.allclose(value, tuned[name], atol=1e-8), name


def test_models_that_do_not_fit_are_refused(whisper, qwen, out, tmp_path):
    with pytest.raises(CheckpointError, match="name the model's own base"):
        chorus.extract_lora(qwen.base, whisper.base, out)
    tensors = load_all(qwen.base)
    config = json.loads((qwen.base / "config.json").read_text())
    name = "model.layers.0.mlp.up_proj.weight"
    write_model(tmp_path / "wide", {**tensors, name: torch.zeros(50, 32)}, config)
    with pytest.raises(CheckpointError, match=f"{name}.*shape"):
        chorus.extract_task_vector(tmp_path / "wide", qwen.base, out)
    write_model(tmp_path / "short", {n: t for n, t in tensors.items() if n != name}, config)
    with pytest.raises(CheckpointError, match=f"lacks {name}"):
        chorus.extract_lora(tmp_path / "short", qwen.base, out)
    tensors[name][3, 3] = float("inf")
    write_model(tmp_path / "broken", tensors, config)
    for function in (chorus.extract_lora, chorus.extract_task_vector):
        with pytest.raises(CheckpointError, match=f"{name}.*NaN or infinity"):
            function(tmp_path / "broken", qwen.base, out)
    with pytest.raises(UsageError, match="no tensor is selected"):
        chorus.extract_task_vector(qwen.tuned[0], qwen.base, out, selection=chorus.Selection(include=("nothing",)))
    assert not out.exists()
    chorus.extract_lora(qwen.tuned[0], qwen.base, out)
    with pytest.raises(OutputError, match="exists"):
        chorus.extract_lora(qwen.tuned[0], qwen.base, out)


def test_another_tokenizer_than_the_bases_is_told(whisper, out, tmp_path):
    places = copy_model(whisper.base, tmp_path / "base"), copy_model(whisper.tuned[0], tmp_path / "tuned")
    vocabularies = [{"a": 0, "b": 1, "c": 2}, {"b": 0, "a": 1, "c": 2}]
    for place, words in zip(places, vocabularies, strict=True):
        (place / "vocab.json").write_text(json.dumps(words))
    found = chorus.extract_task_vector(places[1], places[0], out)
    told = [line for line in found.warnings if "token ids" in line]
    assert told == ["2 token ids of tuned mean other tokens than in its base, base: 0 is 'b' in tuned, 'a' in base; "
                    "1 is 'a' in tuned, 'b' in base"]  # fmt: skip
    (places[1] / "vocab.json").write_text(json.dumps(vocabularies[0]))
    found = chorus.extract_task_vector(places[1], places[0], out, overwrite=True)
    assert not [line for line in found.warnings if "token ids" in line]


def test_an_adapter_that_is_not_finite_is_refused(tmp_path, out):
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    tensors = load_file(adapter / "adapter_model.safetensors")
    next(t for n, t in tensors.items() if "layers.1" in n and "lora_A" in n)[0, 0] = float("nan")
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"layers.1.*NaN or infinity"):
        chorus.extract_lora(f"{base}+{adapter}", base, out)


def test_values_below_a_limit_are_dropped_whatever_chooses_the_rank(qwen, tmp_path):
    for i, rule in enumerate(({"max_rank": 8}, {"energy": 0.9}, {"budget": 4000})):
        result = chorus.extract_lora(
            qwen.tuned[0], qwen.base, tmp_path / str(i), ranks=chorus.RankRule(**rule), smallest=1e9
        )
        assert {m.rank for m in result.modules} == {0}


def test_a_model_that_did_not_change_gives_an_empty_adapter(qwen, out, tmp_path):
    copy = copy_model(qwen.base, tmp_path / "copy")
    result = chorus.extract_lora(copy, qwen.base, out)
    assert {m.rank for m in result.modules} == {0}
    assert result.parameters == 0
    assert result.warnings == []


def test_a_task_vector_of_another_shape_does_not_apply(whisper, qwen, out):
    chorus.extract_task_vector(qwen.tuned[0], qwen.base, out)
    with pytest.raises(CheckpointError, match="has no tensor"):
        chorus.open_model(chorus.checkpoints.reference.parse_reference(f"{whisper.base}+{out}"))
