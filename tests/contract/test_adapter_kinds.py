"""Every kind of adapter that PEFT has, and every key of a LoRA's config: applied as PEFT applies it, or refused."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
import torch

from adapters import loaded_by_peft
from chorus.checkpoints import adapter_kinds as kinds
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import CheckpointError
from models import build, load_all

QKV = ["q_proj", "k_proj", "v_proj"]
HARMLESS_EXAMPLES = {
    "task_type": "CAUSAL_LM",
    "auto_mapping": {"base_model_class": "Qwen2ForCausalLM", "parent_library": "transformers.models.qwen2"},
    "peft_version": "0.99.0",
    "base_model_name_or_path": "somebody/another-name",
    "revision": "abc",
    "inference_mode": False,
    "loftq_config": {"loftq_bits": 4},
    "eva_config": {"rho": 1.5},
    "corda_config": {"corda_method": "kpm"},
    "lora_ga_config": {"stable_gamma": 8},
    "qalora_group_size": 32,
    "megatron_core": "megatron.other",
    "merge_weights": True,
}
# Written into the file of a plain adapter, and read there by PEFT too.
EDITED = {key: (value, {}) for key, value in HARMLESS_EXAMPLES.items() if key != "merge_weights"} | {
    "fan_in_fan_out": (True, {}),  # of linear maps: PEFT takes it back
    "init_lora_weights": ("gaussian", {}),
}
# Given to PEFT as the adapter is made.
MADE = {
    "peft_type": {},  # "LORA"; the others are below
    "r": {"r": 5},
    "target_modules": {"target_modules": r".*layers\.[02]\.self_attn\.(q|v)_proj"},
    "exclude_modules": {"exclude_modules": ["layers.0.self_attn.q_proj"]},
    "lora_alpha": {"lora_alpha": 3},
    "lora_dropout": {"lora_dropout": 0.1},
    "bias": {"bias": "all"},
    "use_rslora": {"use_rslora": True},
    "modules_to_save": {"modules_to_save": ["norm", "down_proj"]},
    "layers_to_transform": {"layers_to_transform": [1, 3]},
    "layers_pattern": {"layers_to_transform": [1], "layers_pattern": "layers"},
    "rank_pattern": {"rank_pattern": {"q_proj": 2, r"^model\.layers\.[13].*k_proj": 6}},
    "alpha_pattern": {"alpha_pattern": {r"layers\.\d\.self_attn\.(q|v)_proj": 3}},
    "use_dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "velora_config": {"velora_config": {"num_groups": 8}},
    "monteclora_config": {"monteclora_config": {"num_samples": 2}},
    "runtime_config": {},  # never written into a file
    "ensure_weight_tying": {"ensure_weight_tying": True},  # with the embedding among the targets: below
}
TARGETS = {"LN_TUNING": ["norm"], "TRAINABLE_TOKENS": ["embed_tokens"], "ADAPTION_PROMPT": "self_attn"}
STARTS = ("gaussian", "orthogonal", "mica", "pissa", "olora", "eva")
REFUSED = {
    "alora_invocation_tokens": [5, 6],
    "arrow_config": {"top_k": 2},
    "kasa_config": {"beta": 0.001},
    "use_qalora": True,
    "use_bdlora": {"target_modules_bd_a": ["q_proj"], "nblocks": 2},
    "layer_replication": [[0, 2], [1, 4]],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "trainable_token_indices": [1, 2],
    "megatron_config": {"hidden_size": 8},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("kinds") / "base"
    build("qwen2").save_pretrained(path)
    return path


def saved(directory, config, *, kind="qwen2"):
    """An adapter of a PEFT config, its tensors moved a little, as PEFT saves it."""
    from peft import get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(build(kind), config)
        numbers = torch.Generator().manual_seed(1)
        for name, parameter in tuned.named_parameters():
            if parameter.requires_grad and parameter.is_floating_point():
                size = 0.1 if "magnitude" in name else 0.1 * float(parameter.data.abs().mean()) + 0.02
                parameter.data += torch.randn(parameter.shape, generator=numbers) * size
        tuned.save_pretrained(directory)
    return directory


def lora(directory, **settings):
    from peft import LoraConfig

    given = {"r": 4, "lora_alpha": 16, "target_modules": QKV, "base_model_name_or_path": "org/base"}
    return saved(directory, LoraConfig(**{**given, **settings}))


def edited(adapter, **keys):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **keys}))
    return adapter


def read(base, adapter):
    checkpoint = open_model(parse_reference(f"{base}+{adapter}")).checkpoint
    return {name: tensor.read().float() for name, tensor in checkpoint.items()}


def equals_peft(base, adapter, *, changed=3, allowed=2e-6):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = loaded_by_peft("qwen2", base, adapter)
    found, original = read(base, adapter), load_all(base)
    assert set(found) <= set(expected)
    for name, value in found.items():
        size = expected[name].abs().max().clamp(min=1e-3)
        assert (value - expected[name]).abs().max() <= allowed * size, name
    assert sum(not torch.equal(found[n], original[n]) for n in original) >= changed


def refusal(base, adapter):
    with pytest.raises(CheckpointError) as caught:
        open_model(parse_reference(f"{base}+{adapter}"))
    return caught.value


def test_every_key_of_a_loras_config_is_known_and_has_an_example():
    from peft import AdaLoraConfig, LoraConfig

    keys = {f.name for f in dataclasses.fields(LoraConfig)}
    schedule = {f.name for f in dataclasses.fields(AdaLoraConfig)} - keys - {"init_r"}
    examples = [*MADE, *EDITED, *REFUSED]
    assert len(keys) == len(examples) == 42
    assert keys == set(examples)
    assert schedule | keys | {"merge_weights", "init_r"} == kinds.HARMLESS | kinds.READ | set(kinds.CHANGES)
    assert set(REFUSED) == set(kinds.CHANGES)


@pytest.mark.parametrize("key", MADE)
def test_a_key_given_to_peft_is_applied_as_peft_applies_it(tmp_path, base, key):
    equals_peft(base, lora(tmp_path / "a", **MADE[key]), changed=2)


def test_an_adapter_on_both_sides_of_a_tie_is_added_once(tmp_path, base):
    """PEFT adds both deltas to the one tensor that both sides share, and warns of it; its forward adds one to each."""
    adapter = lora(tmp_path / "a", target_modules=["embed_tokens", "q_proj"], ensure_weight_tying=True)
    factors = load_all(adapter)
    a, b = (factors[f"base_model.model.model.embed_tokens.lora_embedding_{x}"] for x in "AB")
    found = read(base, adapter)
    expected = load_all(base)["model.embed_tokens.weight"] + 16 / 4 * (b @ a).T
    assert torch.allclose(found["model.embed_tokens.weight"], expected, atol=1e-6)
    tied = open_model(parse_reference(f"{base}+{adapter}")).config["tie_word_embeddings"]
    assert tied or torch.allclose(found["lm_head.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("key", EDITED)
def test_a_key_in_the_file_means_what_it_means_to_peft(tmp_path, base, key):
    value, settings = EDITED[key]
    equals_peft(base, edited(lora(tmp_path / "a", **settings), **{key: value}))


@pytest.mark.parametrize("start", STARTS)
def test_every_start_that_can_be_undone_is(tmp_path, base, start):
    # EVA looks at data: its factors are written as those of any other
    adapter = lora(tmp_path / "a", **({} if start == "eva" else {"init_lora_weights": start}))
    if start == "eva":
        edited(adapter, init_lora_weights="eva")
    equals_peft(base, adapter, allowed=8e-6 if start == "pissa" else 2e-6)


@pytest.mark.parametrize("start", ["pissa_niter_4", "corda", "loftq", "lora_ga", "other"])
def test_a_start_that_changed_the_base_is_refused(tmp_path, base, start):
    message = str(refusal(base, edited(lora(tmp_path / "a"), init_lora_weights=start)))
    assert "a/adapter_config.json: init_lora_weights" in message
    assert ("changes the base's weights" in message) == (start != "other")


@pytest.mark.parametrize("key", REFUSED)
def test_a_key_that_no_weights_can_follow_is_refused_by_name(tmp_path, base, key):
    error = refusal(base, edited(lora(tmp_path / "a"), **{key: REFUSED[key]}))
    assert f"a/adapter_config.json: {key} is set: {kinds.CHANGES[key]}" in str(error)
    assert error.hint


def test_a_key_of_another_version_is_refused_where_it_says_something(tmp_path, base):
    adapter = lora(tmp_path / "a")
    plain = read(base, adapter)
    same = read(base, edited(adapter, use_next_thing=None, next_list=[], merge_weights=True))
    assert all(torch.equal(plain[name], same[name]) for name in plain)
    assert "use_next_thing: not known here" in str(refusal(base, edited(adapter, use_next_thing=True)))


def made_of(kind, cls):
    """A PEFT config of a kind, as small as it can be."""
    names = {f.name for f in dataclasses.fields(cls)}
    wanted = {
        "task_type": "CAUSAL_LM",
        "target_modules": TARGETS.get(kind, ["q_proj", "v_proj"]),
        "r": 4,
        "num_virtual_tokens": 4,
        "feedforward_modules": [],
        "token_indices": [1, 2],
        "num_tasks": 2,
        "cpt_token_ids": [1, 2],
        "cpt_mask": [1, 1],
        "cpt_tokens_type_mask": [1, 2],
        "group_size": 4,
        "n_frequency": 8,
        "vector_length": 4,
        "num_vectors": 8,
        "block_size": 4,
        "boft_block_size": 4,
        "oft_block_size": 0,
        "adapter_len": 2,
        "adapter_layers": 1,
    }
    given = {key: value for key, value in wanted.items() if key in names}
    if kind == "ADALORA":
        given |= {"total_step": 10, "tinit": 1, "tfinal": 2}
    return cls(**given)


def test_every_kind_of_peft_is_known():
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    known = {*kinds.KINDS, *kinds.MERGED_BY_PEFT, *kinds.IN_NO_WEIGHTS}
    assert {kind.value for kind in PEFT_TYPE_TO_CONFIG_MAPPING} == known
    assert len(known) == len(kinds.KINDS) + len(kinds.MERGED_BY_PEFT) + len(kinds.IN_NO_WEIGHTS) == 45


@pytest.mark.parametrize("kind", [*kinds.MERGED_BY_PEFT, *kinds.IN_NO_WEIGHTS])
def test_other_kinds_are_refused_and_what_is_said_of_peft_is_true(tmp_path, base, kind):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({"peft_type": kind}))
    error = refusal(base, tmp_path / "a")
    assert f"a/adapter_config.json: peft_type: {kind}" in str(error)
    merges = kind in kinds.MERGED_BY_PEFT
    assert ("merge_and_unload" in str(error.hint)) == merges == ("PEFT cannot merge it" not in str(error))
    # ADAMSS asks for scikit-learn's clusters, XLORA for trained adapters: what they do is in their documentation
    if kind not in ("ADAMSS", "XLORA"):
        assert peft_merges(kind) == merges


def peft_merges(kind):
    from peft import get_peft_model
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = made_of(kind, next(c for k, c in PEFT_TYPE_TO_CONFIG_MAPPING.items() if k.value == kind))
        tuned = get_peft_model(build("llama" if kind == "ADAPTION_PROMPT" else "qwen2"), config)
        try:
            tuned.merge_and_unload()
        except (AttributeError, NotImplementedError):
            return False
        return True


def adaptive(directory, steps=0, **settings):
    from peft import AdaLoraConfig, get_peft_model

    given = {"init_r": 6, "target_r": 3, "total_step": 12, "tinit": 1, "tfinal": 3, "target_modules": QKV}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = get_peft_model(build("qwen2"), AdaLoraConfig(**{**given, **settings}))
        tuned.train()
        numbers = torch.Generator().manual_seed(2)
        for parameter in (p for p in tuned.parameters() if p.requires_grad):
            parameter.data += torch.randn(parameter.shape, generator=numbers) * 0.1
        optimiser = torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], lr=0.01)
        for step in range(steps):
            tokens = torch.randint(96, (2, 8), generator=numbers)
            tuned(input_ids=tokens, labels=tokens).loss.backward()
            optimiser.step()
            tuned.base_model.update_and_allocate(step)
            optimiser.zero_grad()
        tuned.save_pretrained(directory)
    return directory


@pytest.mark.parametrize("steps", [0, 12], ids=["begun", "finished"])
def test_adalora_is_what_peft_makes_of_it(tmp_path, base, steps):
    adapter = adaptive(tmp_path / "a", steps)
    ranks = {t.shape[0] for n, t in load_all(adapter).items() if n.endswith("lora_A")}
    assert (len(ranks) > 1) == bool(steps)  # directions were given up
    equals_peft(base, adapter)
