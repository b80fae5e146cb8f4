"""An adapter on its base is what PEFT's merge_and_unload makes of the two."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from adapters import untie
from chorus.checkpoints.adapter_config import MAX_NAMES, read_config
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import CheckpointError
from chorus.identity import file_hash
from models import build, load_all

QKV = ["q_proj", "k_proj", "v_proj"]
KINDS = {
    "lora": ("qwen2", {"target_modules": QKV}),
    "rslora": ("qwen2", {"target_modules": QKV, "use_rslora": True, "r": 8}),
    "patterns": (
        "qwen2",
        {
            "target_modules": [*QKV, "up_proj"],
            "rank_pattern": {"q_proj": 2, "layers.1.self_attn.k_proj": 6},
            "alpha_pattern": {"v_proj": 3, "layers.0.mlp.up_proj": 1},
        },
    ),
    "dora": ("qwen2", {"target_modules": QKV, "use_dora": True}),
    "modules to save": ("qwen2", {"target_modules": ["q_proj"], "modules_to_save": ["norm", "down_proj"]}),
    "pissa": ("qwen2", {"target_modules": QKV, "init_lora_weights": "pissa"}),
    "olora": ("qwen2", {"target_modules": QKV, "init_lora_weights": "olora"}),
    "pissa with dora": ("qwen2", {"target_modules": QKV, "init_lora_weights": "pissa", "use_dora": True}),
    "embeddings": ("qwen2", {"target_modules": ["embed_tokens", "q_proj"]}),
    "whisper": ("whisper", {"target_modules": ["q_proj", "v_proj", "fc1"]}),
    "whisper convolution": ("whisper", {"target_modules": ["conv1", "conv2", "q_proj"]}),
    "all linear": ("qwen2", {"target_modules": "all-linear", "r": 3, "lora_alpha": 7}),
}


def adapter_on_base(tmp_path, kind, settings):
    """Save a base and a random adapter on it; returns their paths and the tensors that PEFT merges."""
    from peft import LoraConfig, get_peft_model

    if kind == "gpt2":
        import transformers

        config = transformers.AutoConfig.for_model(
            "gpt2", n_embd=16, n_layer=2, n_head=2, vocab_size=32, n_positions=16
        )
        torch.manual_seed(0)
        model = transformers.GPT2LMHeadModel(config)
    else:
        model = build(kind)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    if "embed_tokens" in settings["target_modules"]:
        untie(model)  # as the adapter does; PEFT's merge adds it to the head as well
    tuned = get_peft_model(
        model, LoraConfig(**{"r": 4, "lora_alpha": 16, "base_model_name_or_path": str(base), **settings})
    )
    numbers = torch.Generator().manual_seed(1)
    for name, parameter in tuned.named_parameters():
        if parameter.requires_grad:
            scale = 0.1 * parameter.data.abs().mean() + 0.02 if "magnitude" not in name else 0.1
            parameter.data += torch.randn(parameter.shape, generator=numbers) * scale
    tuned.save_pretrained(adapter)
    merged = tuned.merge_and_unload()
    tied = set(getattr(merged, "all_tied_weights_keys", {}))
    return base, adapter, {n: t for n, t in merged.state_dict().items() if n not in tied}


@pytest.mark.parametrize("name", KINDS)
def test_equals_merge_and_unload(tmp_path, name):
    kind, settings = KINDS[name]
    base, adapter, expected = adapter_on_base(tmp_path, kind, settings)
    opened = open_model(parse_reference(f"{base}+{adapter}")).checkpoint
    assert set(opened) == set(expected)
    original = load_all(base)
    original["lm_head.weight"] = original.get("model.embed_tokens.weight")
    allowed = 8e-6 if "pissa" in name else 2e-6  # PEFT decomposes the base in float32
    changed = 0
    for tensor, value in expected.items():
        found = opened[tensor].read().float()
        assert (found - value).abs().max() <= allowed * value.abs().max().clamp(min=1e-3), tensor
        changed += not torch.equal(found, original[tensor])
    assert changed >= 2


def test_conv1d_of_gpt2_is_transposed(tmp_path):
    base, adapter, expected = adapter_on_base(tmp_path, "gpt2", {"target_modules": ["c_attn"], "fan_in_fan_out": True})
    opened = open_model(parse_reference(f"{base}+{adapter}")).checkpoint
    names = [n for n in expected if "c_attn.weight" in n]
    assert len(names) == 2
    for name in names:
        assert torch.allclose(opened[name].read(), expected[name], atol=1e-6)


def test_reading_by_pieces_gives_the_same_bits(tmp_path):
    base, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV, "use_dora": True})
    tensor = open_model(parse_reference(f"{base}+{adapter}")).checkpoint["model.layers.0.self_attn.q_proj.weight"]
    whole = tensor.read().reshape(-1)
    assert torch.equal(torch.cat([tensor.flat(0, 100), tensor.flat(100, 1024)]), whole)
    tensor.release()
    assert torch.equal(tensor.flat(37, 900), whole[37:900])


def refusal(base, adapter) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_model(parse_reference(f"{base}+{adapter}"))
    return str(caught.value)


def change(adapter, tensors=None, **config):
    path = adapter / "adapter_model.safetensors"
    if tensors is not None:
        save_file(tensors(load_all(adapter)), path)
    settings = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**settings, **config}))


def test_a_tensor_without_a_place_is_an_error(tmp_path):
    base, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV})
    change(adapter, lambda t: {k.replace("layers.3", "layers.9"): v for k, v in t.items()})
    assert "layers.9" in refusal(base, adapter)


def test_an_adapter_of_another_base_is_an_error(tmp_path):
    _, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV})
    build("qwen2", hidden_size=64, num_attention_heads=8).save_pretrained(tmp_path / "wide")
    message = refusal(tmp_path / "wide", adapter)
    assert "belongs to another base" in message
    assert "[16, 64]" in message


def test_a_base_of_other_weights_is_told_where_the_training_noted_its_own(tmp_path):
    """The same names and shapes: nothing else tells the two apart."""
    base, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV})
    noted = {"kind": "train", "base": {"model.safetensors": file_hash(base / "model.safetensors")}}
    (adapter / "chorus.json").write_text(json.dumps(noted))

    def told(on):
        return [w for w in open_model(parse_reference(f"{on}+{adapter}")).warnings if "another base" in w]

    assert told(base) == []
    torch.manual_seed(9)
    build("qwen2").save_pretrained(tmp_path / "other")
    change_weights(tmp_path / "other")
    (warning,) = told(tmp_path / "other")
    assert "model.safetensors has another content" in warning


def change_weights(directory):
    tensors = load_all(directory)
    save_file({k: (v + 1).contiguous() for k, v in tensors.items()}, directory / "model.safetensors")


def test_half_a_pair_of_factors_is_an_error(tmp_path):
    base, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV})
    change(adapter, lambda t: {k: v for i, (k, v) in enumerate(sorted(t.items())) if i})
    assert "only one of its two factors" in refusal(base, adapter)


def test_an_adapter_alone_says_how_to_name_it(tmp_path):
    _, adapter, _ = adapter_on_base(tmp_path, "qwen2", {"target_modules": ["q_proj"]})
    with pytest.raises(CheckpointError, match="an adapter, not a model"):
        open_model(parse_reference(str(adapter)))


def test_names_that_older_versions_wrote_find_their_place(tmp_path):
    """PEFT has written module names with and without the classes' wrappers; each must land on the same tensor."""
    base, adapter, expected = adapter_on_base(tmp_path, "qwen2", {"target_modules": QKV})
    change(adapter, lambda t: {k.replace("base_model.model.model.", "base_model.model."): v for k, v in t.items()})
    opened = open_model(parse_reference(f"{base}+{adapter}")).checkpoint
    name = "model.layers.2.self_attn.v_proj.weight"
    assert torch.allclose(opened[name].read(), expected[name], atol=1e-6)


def test_so_many_modules_may_be_saved_whole_and_no_more():
    names = [f"m{i}" for i in range(MAX_NAMES + 1)]
    config = {"peft_type": "LORA", "modules_to_save": names[:-1]}
    assert read_config(config, "a").saved == tuple(names[:-1])
    with pytest.raises(CheckpointError, match=r"modules_to_save: .*a list of at most 2,000 names"):
        read_config({**config, "modules_to_save": names}, "a")
