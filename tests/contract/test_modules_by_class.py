"""Modules that a file calls otherwise than the model's class does: adapters on them, and adapters out of them."""

from __future__ import annotations

import json
import warnings

import pytest
import torch

import chorus
from architectures import class_of, make_pair
from chorus.architectures.modules import modules_of
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from models import build, load_all

OTHERWISE_NAMED = ("vit", "swin", "mixtral", "granitemoe")  # a router of theirs, or every layer
SPEECH_LLMS = ("qwen2_audio", "voxtral", "granite_speech", "qwen2_5_omni_thinker")
TAKEN_OUT = (*SPEECH_LLMS, "vit", "mixtral", "jamba", "mamba", "qwen2_5_vl", "wav2vec2", "wav2vec2-bert", "whisper")


def values(kind, place):
    return class_of(kind).from_pretrained(place, dtype=torch.float32).state_dict()


@pytest.mark.parametrize("kind", OTHERWISE_NAMED)
def test_an_adapter_finds_what_the_file_calls_otherwise(kind, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    base, _ = make_pair(kind, tmp_path)
    model = class_of(kind).from_pretrained(base, dtype=torch.float32)
    modules = model.named_modules()
    targets = [n for n, m in modules if isinstance(m, torch.nn.Linear) and n not in ("lm_head", "classifier")]
    tuned = get_peft_model(model, LoraConfig(r=3, target_modules=targets, init_lora_weights=False))
    tuned.save_pretrained(tmp_path / "adapter")
    recipe = {"merge_method": "passthrough", "models": [{"model": str(base), "lora": str(tmp_path / "adapter")}]}
    chorus.merge(recipe, tmp_path / "out")
    wanted = PeftModel.from_pretrained(class_of(kind).from_pretrained(base), tmp_path / "adapter").merge_and_unload()
    found = values(kind, tmp_path / "out")
    changed = [name for name, value in values(kind, base).items() if not torch.equal(value, found[name])]
    assert len(changed) == len(targets) >= 6
    for name, value in wanted.state_dict().items():
        assert torch.allclose(found[name], value, atol=1e-5), name


@pytest.mark.parametrize("kind", TAKEN_OUT)
def test_peft_finds_every_module_of_an_adapter_that_was_taken_out(kind, tmp_path):
    from peft import PeftModel

    base, tuned = make_pair(kind, tmp_path)
    # whole: the module's own rank, so that most have one of their own in the patterns
    result = chorus.extract_lora(tuned, base, tmp_path / "adapter", ranks=chorus.RankRule(max_rank=64))
    with warnings.catch_warnings():
        for word in ("missing", "unexpected", "mismatch"):  # of keys, of which PEFT only warns
            warnings.filterwarnings("error", message=f"(?s).*{word}")
        model = class_of(kind).from_pretrained(base, dtype=torch.float32)
        found = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload().state_dict()
    before, after = values(kind, base), values(kind, tuned)
    changed = [name for name, value in found.items() if not torch.equal(value, before[name])]
    assert len(changed) == len([m for m in result.modules if m.rank]) >= 6
    for name in changed:
        assert torch.allclose(found[name], after[name], atol=1e-4), name


@pytest.mark.parametrize("kind", ["qwen2_audio", "mixtral"])
def test_peft_finds_every_module_of_a_merged_adapter(kind, tmp_path):
    from peft import PeftModel

    base, tuned = make_pair(kind, tmp_path)
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [{"model": str(tuned)}]}
    result = chorus.merge_into_adapter(recipe, tmp_path / "adapter", ranks=chorus.RankRule(max_rank=64))
    model = PeftModel.from_pretrained(class_of(kind).from_pretrained(base), tmp_path / "adapter")
    found, before, after = model.merge_and_unload().state_dict(), values(kind, base), values(kind, tuned)
    changed = [name for name, value in found.items() if not torch.equal(value, before[name])]
    assert len([name for name in changed if found[name].dim() > 1]) == len([m for m in result.modules if m.rank]) >= 6
    for name in changed:
        assert torch.allclose(found[name], after[name], atol=1e-4), name


@pytest.mark.parametrize(
    ("kind", "dropped"), [("wav2vec2", "wav2vec2.encoder.pos_conv_embed.conv.bias"), ("bert", "cls.predictions.bias")]
)
def test_an_adapter_with_vectors_is_read_again(kind, dropped, tmp_path):
    """Where training changed the biases alone, a norm goes with its weight; what has matrices beside it is left."""
    base, _ = make_pair(kind, tmp_path)
    model = class_of(kind).from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(name.endswith("bias"))
    model.save_pretrained(tmp_path / "tuned")
    result = chorus.extract_lora(tmp_path / "tuned", base, tmp_path / "adapter", save_vectors=True)
    assert [name for name, _ in result.dropped] == [dropped]
    chorus.apply(base, [tmp_path / "adapter"], tmp_path / "out")
    found, wanted = values(kind, tmp_path / "out"), values(kind, tmp_path / "tuned")
    assert all(
        torch.allclose(found[name], wanted[name], atol=1e-6)
        for name in found
        if name not in (dropped, "cls.predictions.decoder.bias")
    )


def test_what_peft_leaves_alone_is_named(tmp_path):
    base, _ = make_pair("mixtral", tmp_path)
    model = open_model(parse_reference(str(base)))
    found = modules_of(model.config, {name: tensor.shape for name, tensor in model.checkpoint.items()})
    router = "model.layers.0.block_sparse_moe.gate"
    assert router in found.unfit
    assert found.names[router] == "model.layers.0.mlp.gate"
    assert "model.layers.0.self_attn.q_proj" in found.every
    assert "model.layers.0.self_attn.q_proj" not in found.unfit


def test_modules_of_a_class_that_nobody_knows_are_called_as_in_the_file(tmp_path):
    build("qwen2").save_pretrained(tmp_path)
    shapes = {name: tuple(tensor.shape) for name, tensor in load_all(tmp_path).items()}
    config = json.loads((tmp_path / "config.json").read_text()) | {"architectures": ["Ours"], "model_type": "ours"}
    found = modules_of(config, shapes)
    assert not found.names
    assert not found.unfit
    assert set(found.every) == {n.removesuffix(".weight") for n, shape in shapes.items() if len(shape) > 1}
