"""A head that a fine-tune or an adapter has for itself, on a base that ties it, is in the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import chorus
from adapters import untie
from chorus.checkpoints.ties import tied_in
from chorus.cli.main import run
from models import CLASSES, Family, build, load_all, write_model, write_recipe

pytestmark = pytest.mark.reported("own-head")
HEADS = {"qwen2": ("lm_head.weight", "model.embed_tokens.weight"),
         "whisper": ("proj_out.weight", "model.decoder.embed_tokens.weight")}  # fmt: skip
IDS = torch.arange(12)[None]


def with_head(family: Family, place: Path, **config: Any) -> Path:
    """The first fine-tune with a head of its own."""
    head, embedding = HEADS[family.kind]
    tensors = load_all(family.tuned[0])
    settings = json.loads((family.tuned[0] / "config.json").read_text())
    return write_model(place, {**tensors, head: 1.5 * tensors[embedding] + 0.25}, {**settings, **config})


@pytest.fixture(params=["qwen", "whisper"])
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.getfixturevalue(request.param)
    return found


@pytest.mark.parametrize("config", [{"tie_word_embeddings": False}, {}], ids=["says so", "silent"])
def test_a_fine_tune_on_its_tied_base_keeps_its_head(family, config, tmp_path, capsys):
    head, embedding = HEADS[family.kind]
    tuned = with_head(family, tmp_path / "tuned", **config)
    recipe = {"merge_method": "task_arithmetic", "base_model": str(family.base),
              "models": [{"model": str(tuned), "parameters": {"weight": 0.5}}]}  # fmt: skip
    path = write_recipe(tmp_path / "r.yml", recipe)
    assert run(["plan", str(path)]) == 0
    assert f"tie {head} to {embedding}" in capsys.readouterr().out
    assert run(["merge", str(path), "-o", str(tmp_path / "out")]) == 0
    base, wanted, found = load_all(family.base), load_all(tuned), load_all(tmp_path / "out")
    assert torch.allclose(found[head], (base[embedding] + wanted[head]) / 2, atol=1e-6)
    assert torch.allclose(found[embedding], (base[embedding] + wanted[embedding]) / 2, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    model = getattr(transformers, CLASSES[family.kind]).from_pretrained(tmp_path / "out")
    assert torch.equal(model.get_output_embeddings().weight, found[head])
    # the same in memory, as searches merge
    from chorus.merge.runs.resident import Resident

    resident = Resident().merge(chorus.plan(recipe))
    assert torch.allclose(resident[head].read(), found[head], atol=1e-7)


def test_a_head_that_was_tied_and_equals_the_embedding_leaves_an_untied_config_as_it_is(qwen, tmp_path):
    tensors = load_all(qwen.tuned[0])
    config = json.loads((qwen.tuned[0] / "config.json").read_text())
    equal = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    untied = write_model(tmp_path / "untied", equal, {**config, "tie_word_embeddings": False})
    models = [{"model": str(p), "parameters": {"weight": 1.0}} for p in (untied, untied.parent / "other")]
    write_model(tmp_path / "other", equal, {**config, "tie_word_embeddings": False})
    plan = chorus.plan({"merge_method": "linear", "models": models})
    assert "lm_head.weight" in plan
    assert plan.variant().config["tie_word_embeddings"] is False


@pytest.mark.parametrize("place", [0, 1], ids=["first", "second"])
def test_a_file_that_stores_the_head_in_the_embeddings_place_is_the_same_model(family, place, tmp_path):
    head, embedding = HEADS[family.kind]
    tensors = {head if name == embedding else name: t for name, t in load_all(family.tuned[place]).items()}
    config = json.loads((family.tuned[place] / "config.json").read_text())
    models = list(family.tuned[:2])
    models[place] = write_model(tmp_path / "alone", tensors, config)
    found, wanted = (
        chorus.plan({"merge_method": "linear", "models": [{"model": str(m)} for m in every]})
        for every in (models, family.tuned[:2])
    )
    assert set(found) == set(wanted)
    assert all(torch.equal(found[name].read(), wanted[name].read()) for name in wanted)
    assert found.variant().config == wanted.variant().config


def test_a_vector_that_says_nothing_of_ties_leaves_its_base_tied(family, tmp_path):
    """Such as another tool writes: the embedding's difference is the head's too."""
    head, embedding = HEADS[family.kind]
    chorus.extract_task_vector(family.tuned[0], family.base, tmp_path / "vector")
    (tmp_path / "vector" / "chorus.json").unlink()
    found = chorus.open_model(f"{family.base}+{tmp_path / 'vector'}")
    assert tied_in(found) == {head: embedding}
    wanted = load_all(family.tuned[0])
    assert set(found.checkpoint) == set(wanted)
    assert torch.allclose(found.checkpoint[embedding].read(), wanted[embedding], atol=1e-7)


ADAPTERS = {
    "head": {"target_modules": ["lm_head", "q_proj"]},
    "embedding": {"target_modules": ["embed_tokens", "q_proj"]},
    "both": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved embedding": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "saved head": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "saved both": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "tied": {"target_modules": ["embed_tokens", "q_proj"], "ensure_weight_tying": True},
    "tied and saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
}


def adapter(place: Path, settings: dict[str, Any]) -> tuple[Path, Path, torch.Tensor]:
    """A tied base, an adapter on it, and the logits that PEFT computes with it."""
    from peft import LoraConfig, get_peft_model

    build("qwen2").save_pretrained(place / "base")
    tuned = get_peft_model(build("qwen2"), LoraConfig(r=4, base_model_name_or_path=str(place / "base"), **settings))
    numbers = torch.Generator().manual_seed(3)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=numbers)
    tuned.save_pretrained(place / "adapter")
    with torch.no_grad():
        return place / "base", place / "adapter", tuned.eval()(IDS).logits


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(IDS).logits
    return found


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_on_a_tied_base_is_what_peft_computes(name, tmp_path):
    # not what its merge_and_unload makes of it: that adds both modules' factors to the one tensor that they share
    base, place, wanted = adapter(tmp_path, ADAPTERS[name])
    chorus.apply(base, place, tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert torch.allclose(logits(model), wanted, atol=2e-5)
    assert model.config.tie_word_embeddings is name.startswith("tied")
    assert ("lm_head.weight" in load_all(tmp_path / "out")) is not name.startswith("tied")


SMALL = {"vocab_size": 64, "d_model": 16, "decoder_start_token_id": 0, "pad_token_id": 0}
TWO_STACKS = {
    "t5": lambda: transformers.T5Config(**SMALL, d_kv=8, d_ff=24, num_layers=1, num_heads=2),
    "bart": lambda: transformers.BartConfig(
        **SMALL, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("settings", [
    {"target_modules": ["shared", "k"]},
    {"target_modules": ["k"], "modules_to_save": ["shared"]},
    {"target_modules": ["embed_tokens", "k"]},
    {"target_modules": ["lm_head", "k"]},
], ids=["shared", "saved", "embeddings", "head"])  # fmt: skip
@pytest.mark.parametrize("kind", TWO_STACKS)
def test_ensured_ties_of_two_stacks_are_what_peft_trains(kind, settings, tmp_path):
    # PEFT looks for embed_tokens and lm_head alone: on `shared` its word changes nothing
    from peft import LoraConfig, get_peft_model

    transformers.AutoModelForSeq2SeqLM.from_config(TWO_STACKS[kind]()).save_pretrained(tmp_path / "base")
    base = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base")
    targets = [{"k": "k_proj" if kind == "bart" else "k"}.get(name, name) for name in settings["target_modules"]]
    tuned = get_peft_model(base, LoraConfig(r=2, **settings | {"target_modules": targets}, ensure_weight_tying=True))
    numbers = torch.Generator().manual_seed(3)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=numbers)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    chorus.apply(tmp_path / "base", tmp_path / "adapter", tmp_path / "out")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        wanted, found = (m.eval()(input_ids=IDS, decoder_input_ids=IDS).logits for m in (tuned, model))
    assert torch.allclose(found, wanted, atol=2e-5)


@pytest.mark.parametrize("name", ["head", "embedding", "both", "tied", "saved both"])
def test_a_merge_into_an_adapter_says_the_same(name, tmp_path):
    from peft import PeftModel

    base, place, wanted = adapter(tmp_path, ADAPTERS[name])
    models = [{"model": str(base), "lora": str(place), "parameters": {"weight": 1.0}}]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": models, "out_dtype": "float32"}
    # PEFT saves the embedding beside its factors, so that they do not stand on the base's own
    chorus.merge_into_adapter(recipe, tmp_path / "merged", ranks=chorus.RankRule(max_rank=1000))
    loaded = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "merged")
    assert torch.allclose(logits(loaded), wanted, atol=2e-5)


@pytest.mark.parametrize("own", [True, False], ids=["own head", "tied"])
def test_an_extracted_adapter_is_the_fine_tune(qwen, own, tmp_path):
    from peft import PeftModel

    tuned = with_head(qwen, tmp_path / "tuned") if own else qwen.tuned[0]
    chorus.extract_lora(
        tuned, qwen.base, tmp_path / "adapter", ranks=chorus.RankRule(max_rank=1000), embeddings=True, save_vectors=True
    )
    chorus.apply(qwen.base, tmp_path / "adapter", tmp_path / "out")
    known = {"dtype": torch.float32}
    wanted, found, base = (
        transformers.AutoModelForCausalLM.from_pretrained(path, **known)
        for path in (tuned, tmp_path / "out", qwen.base)
    )
    assert torch.allclose(logits(found), logits(wanted), atol=2e-5)
    assert torch.allclose(logits(PeftModel.from_pretrained(base, tmp_path / "adapter")), logits(wanted), atol=2e-5)
    # a difference that both have stays one tensor
    assert found.config.tie_word_embeddings is not own


def test_a_vector_of_tied_models_moves_both_on_an_untied_one(qwen, tmp_path):
    untied = untie(transformers.AutoModelForCausalLM.from_pretrained(qwen.base))
    untied.save_pretrained(tmp_path / "untied")
    chorus.extract_task_vector(qwen.tuned[0], qwen.base, tmp_path / "vector")
    chorus.apply(tmp_path / "untied", tmp_path / "vector", tmp_path / "out")
    found, tuned = load_all(tmp_path / "out"), load_all(qwen.tuned[0])
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.allclose(found[name], tuned["model.embed_tokens.weight"], atol=1e-7)


def test_an_evaluated_adapter_is_loaded_with_its_head(tmp_path):
    from chorus.transcribe.systems import open_system

    base, place, _ = adapter(tmp_path, ADAPTERS["head"])
    system = open_system(f"{base}+{place}")
    assert system.config is not None
    assert system.config["tie_word_embeddings"] is False
    assert "lm_head.weight" in (system.tensors or {})
    assert tied_in(chorus.open_model(base)) == {"lm_head.weight": "model.embed_tokens.weight"}
