"""Adapters of drawn names, shapes, types and keys: each is applied or refused with its file, in time, never a fault."""

from __future__ import annotations

import json
import random
import time

import pytest
import torch
from safetensors.torch import save_file

from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import ChorusError
from models import build

QUERY = "base_model.model.model.layers.0.self_attn.q_proj"
KEYS = (
    "peft_type", "r", "init_r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias",
    "fan_in_fan_out", "init_lora_weights", "modules_to_save", "target_modules", "bias", "layers_to_transform",
    "base_model_name_or_path", "trainable_token_indices", "loftq_config", "layer_replication", "a key of tomorrow",
)  # fmt: skip
VALUES = (
    None, True, 0, 1, -1, 2**70, 1.5, float("nan"), float("inf"), "", "x", "a" * 10_000, "\x00", [], [1], ["q_proj"],
    [[1, 2]], {}, {"q_proj": 1}, {"": 1}, {"(": 1}, {"(.*)*x": 4}, {"[": 2}, {"q_proj": [True]}, ["x"] * 100_000,
    "ADALORA", {str(i): 4 for i in range(30_000)}, {"a" * 2000: 1},
)  # fmt: skip
NAMES = (
    f"{QUERY}.lora_A.weight", f"{QUERY}.lora_B.bias", f"{QUERY}.lora_magnitude_vector", f"{QUERY}.base_layer.weight",
    f"{QUERY}.lora_E", f"{QUERY}.lora_A.other.weight", "base_model.model.model.norm.lora_A.weight", ".lora_A.weight",
    "base_model.model.model.embed_tokens.lora_embedding_B", "base_model.model.lm_head.weight", "base_model.model.", "é",
    "base_model.model.model.norm.weight", "x" * 300 + ".lora_A.weight", "\n.lora_A.weight", "lora_A",
)  # fmt: skip
SHAPES = ((), (0,), (4,), (4, 32), (32, 4), (0, 32), (1, 4, 32), (4, 32, 1, 1), (4, 1, 1, 1, 1, 1), (96, 32), (32,))
TYPES = (torch.float32, torch.int64, torch.bool, torch.bfloat16, torch.uint8)
CASES = 200


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "base"
    build("qwen2").save_pretrained(path)
    return path


def write(path, numbers):
    tensors = {f"{QUERY}.lora_A.weight": torch.ones(4, 32), f"{QUERY}.lora_B.weight": torch.ones(32, 4)}
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    if numbers.random() < 0.5:
        for _ in range(numbers.randint(1, 3)):
            dtype = numbers.choice(TYPES)
            tensors[numbers.choice(NAMES)] = torch.ones(numbers.choice(SHAPES)).to(dtype)
    for _ in range(numbers.randint(0, 2)):
        config[numbers.choice(KEYS)] = numbers.choice(VALUES)
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps(config))


def test_whatever_is_drawn_is_applied_or_refused(tmp_path, base):
    numbers = random.Random(11)
    outcomes = {"applied": 0, "refused": 0}
    (tmp_path / "a").mkdir()
    for case in range(CASES):
        write(tmp_path / "a", numbers)
        started = time.process_time()
        try:
            model = open_model(parse_reference(f"{base}+{tmp_path / 'a'}"))
            assert model.checkpoint["model.layers.0.self_attn.q_proj.weight"].read().isfinite().all()
            outcomes["applied"] += 1
        except ChorusError:
            outcomes["refused"] += 1
        assert time.process_time() - started < 5, case
    assert outcomes["applied"] > 50 < outcomes["refused"]
