"""Configs of inputs compared: what no shape shows is refused or told, what a training or a saving leaves is not."""

from __future__ import annotations

import json

import pytest

import chorus
from chorus.checkpoints.configs import apart
from chorus.errors import PlanError
from models import CLASSES, build, copy_model

REFUSED = [
    ("qwen2", {"num_attention_heads": 2, "num_key_value_heads": 1}),  # of 16 values each instead of 8: the same shapes
    ("qwen2", {"hidden_act": "relu"}),
    ("qwen2", {"audio_config": {"encoder_attention_heads": 8}}),
    ("whisper", {"encoder_attention_heads": 4}),
    ("whisper", {"decoder_attention_heads": 1}),
    ("whisper", {"activation_function": "relu"}),
    ("whisper", {"scale_embedding": True}),
]
TOLD = {
    "qwen2": {
        "rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 4.0}, "rms_norm_eps": 1e-3,
        "sliding_window": 8, "max_position_embeddings": 128, "eos_token_id": 7, "bos_token_id": 5, "pad_token_id": 3,
        "id2label": {"0": "no"}, "layer_types": ["full_attention"] * 3 + ["sliding_attention"],
        "rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 10_000.0},
        "residual_multiplier": 0.2, "audio_config": {"conv_chunksize": 7},
    },
    "whisper": {"num_mel_bins": 96, "max_source_positions": 40, "n_window": 4, "layer_norm_eps": 1e-6},
}  # fmt: skip
FREE = {
    "dtype": "float16", "torch_dtype": "bfloat16", "transformers_version": "4.30.0", "use_cache": False,
    "_name_or_path": "runs/checkpoint-500", "attention_dropout": 0.3, "activation_dropout": 0.1, "layerdrop": 0.2,
    "initializer_range": 0.5, "apply_spec_augment": True, "mask_time_prob": 0.3, "ctc_loss_reduction": "mean",
    "forced_decoder_ids": [[1, 2]], "suppress_tokens": [1], "max_length": 7, "gradient_checkpointing": True,
    "_attn_implementation": "eager", "unsloth_version": "2025", "problem_type": "x", "output_hidden_states": True,
}  # fmt: skip


def config_of(place):
    return json.loads((place / "config.json").read_text())


def planned(kind, tmp_path, theirs, mine=None):
    model = build(kind)
    model.save_pretrained(tmp_path / "saved")
    a = copy_model(tmp_path / "saved", tmp_path / "a", **(mine or {}))
    b = copy_model(tmp_path / "saved", tmp_path / "b", **theirs)
    models = [{"model": str(place), "parameters": {"weight": 0.5}} for place in (a, b)]
    return chorus.plan({"merge_method": "linear", "models": models}, chorus.Options(copy_tokenizer=False))


def audio_of_both(theirs):
    """The donor's changes: an audio part of its own, where the other has one."""
    return {key: dict.fromkeys(value, 1) for key, value in theirs.items() if key == "audio_config"}


@pytest.mark.parametrize(("kind", "theirs"), REFUSED, ids=[f"{kind}-{min(keys)}" for kind, keys in REFUSED])
def test_other_heads_and_activations_are_refused(tmp_path, kind, theirs):
    with pytest.raises(PlanError, match=r"b has [\w.]+ \w+ in its config, a .*different arithmetic"):
        planned(kind, tmp_path, theirs, audio_of_both(theirs))


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, keys in TOLD.items() for key in keys])
def test_what_the_result_computes_otherwise_is_told(kind, key):
    model = build(kind).config.to_dict()
    theirs = {key: TOLD[kind][key]}
    default = {"residual_multiplier": 1.0, "n_window": 50, "layer_norm_eps": 1e-5}
    found = apart({**default, **model, **theirs}, {**default, **model, **audio_of_both(theirs)}, stacked=False)
    assert not found.structure
    (told,) = found.other
    assert told.rpartition(".")[2] == (
        "rotary positions" if key.startswith("rope") else "conv_chunksize" if key == "audio_config" else key
    )


def test_the_line_names_each_key_once(tmp_path):
    theirs = {"rms_norm_eps": 1e-3, "rope_theta": 1e6, "rope_parameters": None}
    plan = planned("qwen2", tmp_path, theirs)
    (line,) = [w for w in plan.warnings if "config" in w]
    assert line.startswith("the config of b has rms_norm_eps 0.001, not 1e-06; rotary positions rope_theta 1000000.0")
    assert line.endswith("as in the result, from a")


@pytest.mark.parametrize("key", FREE)
def test_what_does_not_change_the_model_is_not_told(key):
    model = build("qwen2").config.to_dict()
    before = {**dict.fromkeys(FREE), **model}
    found = apart({**before, key: FREE[key]}, before, stacked=False)
    assert (found.structure, found.other) == ({}, {})


@pytest.mark.parametrize("kind", CLASSES)
def test_old_and_new_spellings_of_one_config_are_alike(kind):
    """transformers 4 wrote rope_theta and rope_scaling, left head_dim out, and called the type torch_dtype."""
    new = build(kind).config.to_dict()
    old = {key: value for key, value in new.items() if key not in ("rope_parameters", "dtype", "head_dim")}
    if "rope_parameters" in new:
        old |= {"rope_theta": new["rope_parameters"]["rope_theta"], "rope_scaling": None, "torch_dtype": "float32"}
    if kind == "qwen3":
        old["head_dim"] = 8  # which its hidden size does not tell
    for one, two in ((old, new), (new, old)):
        found = apart(one, two, stacked=False)
        assert (found.structure, found.other) == ({}, {})
    if "rope_parameters" in new:
        assert apart({**old, "rope_theta": 5e5}, new, stacked=False).other
        assert apart({**old, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, new, stacked=False).other


def test_names_of_one_activation_are_alike():
    assert not apart({"hidden_act": "silu"}, {"hidden_act": "swish"}, stacked=False).structure
    near = apart({"hidden_act": "gelu"}, {"hidden_act": "gelu_new"}, stacked=False)
    assert (near.structure, list(near.other)) == ({}, ["hidden_act"])
    assert apart({"hidden_act": "gelu"}, {"hidden_act": "quick_gelu"}, stacked=False).structure


def test_stacked_layers_count_otherwise(qwen):
    a = config_of(qwen.base)
    b = {**a, "num_hidden_layers": 9, "layer_types": ["full_attention"] * 9}
    assert not apart(b, a, stacked=True).other
    assert list(apart(b, a, stacked=False).other) == ["layer_types"]


def test_heads_that_one_config_leaves_out_are_derived():
    a = {"hidden_size": 32, "num_attention_heads": 4}
    assert not apart({**a, "head_dim": 8, "num_key_value_heads": 4}, a, stacked=False).structure
    assert not apart(
        {**a, "head_dim": None, "num_key_value_heads": None}, {**a, "head_dim": 8}, stacked=False
    ).structure
    assert list(apart({**a, "head_dim": None}, {**a, "head_dim": 16}, stacked=False).structure) == ["head_dim"]
    gemma = apart({"hidden_activation": None}, {"hidden_activation": "gelu_pytorch_tanh"}, stacked=False)
    assert (gemma.structure, list(gemma.other)) == ({}, ["hidden_activation"])
    assert list(apart({**a, "head_dim": 16}, a, stacked=False).structure) == ["head_dim"]
    assert list(apart(a, {**a, "num_key_value_heads": 2}, stacked=False).structure) == ["num_key_value_heads"]
