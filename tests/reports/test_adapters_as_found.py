"""Adapters that are not what they say, and forms of adapters that were refused without need."""

from __future__ import annotations

import json
import shutil
import time

import pytest
import torch
from safetensors.torch import save_file

import chorus
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import CheckpointError, ChorusError
from chorus.merge.api import apply_recipe
from models import build, load_all

CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "x"}
QUERY = "base_model.model.model.layers.{}.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters") / "base"
    build("qwen2").save_pretrained(path)
    return path


def factors(layers=4, rank=4):
    numbers = torch.Generator().manual_seed(3)
    shapes = {"A": (rank, 32), "B": (32, rank)}
    return {
        QUERY.format(layer, x): torch.randn(shape, generator=numbers) * 0.1
        for layer in range(layers)
        for x, shape in shapes.items()
    }


def write(path, tensors, **config):
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors, path / "adapter_model.safetensors")
    return path


def opened(base, adapter, **options):
    return open_model(parse_reference(f"{base}+{adapter}"), OpenOptions(**options))


def refusal(base, adapter, **options):
    started = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        opened(base, adapter, **options)
    assert time.process_time() - started < 5
    assert str(caught.value).startswith(("a:", "a/")), "the adapter, or its file, is named"
    return str(caught.value)


def values(model):
    return {name: tensor.read().float() for name, tensor in model.checkpoint.items()}


@pytest.mark.reported("empty-adapter")
def test_an_adapter_without_tensors_is_no_adapter(tmp_path, base):
    adapter = write(tmp_path / "a", {})
    with pytest.raises(ChorusError, match=r"a/adapter_model.safetensors: holds no tensor"):
        chorus.merge(apply_recipe(str(base), [str(adapter)]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    only_norm = {"base_model.model.model.norm.weight": torch.ones(32)}
    assert "no factors, though the config has target_modules" in refusal(base, write(tmp_path / "a", only_norm))


@pytest.mark.reported("zero3-adapter")
def test_factors_of_no_values_were_not_gathered(tmp_path, base):
    adapter = write(tmp_path / "a", {QUERY.format(0, x): torch.empty(0) for x in "AB"})
    message = refusal(base, adapter)
    assert "lora_A.weight has the shape [0]: its values were not saved" in message
    assert "DeepSpeed" in message
    one = {**factors(), QUERY.format(2, "B"): torch.empty(0)}
    assert "layers.2.self_attn.q_proj.lora_B" in refusal(base, write(tmp_path / "a", one))


@pytest.mark.reported("activated-and-adaptive-lora")
def test_activated_lora_is_refused_and_adaptive_lora_applied(tmp_path, base):
    message = refusal(base, write(tmp_path / "a", factors(), alora_invocation_tokens=[5, 6]))
    assert "alora_invocation_tokens" in message
    adaptive = {k.removesuffix(".weight"): v for k, v in factors(rank=6).items()}
    scales = {k.replace("lora_A", "lora_E"): torch.rand(6, 1) for k in adaptive if "lora_A" in k}
    keys = {"peft_type": "ADALORA", "init_r": 6, "target_r": 4, "total_step": 9}
    assert "has no lora_E, and its config says otherwise" in refusal(base, write(tmp_path / "a", adaptive, **keys))
    found = values(opened(base, write(tmp_path / "a", adaptive | scales, **keys)))
    name = "model.layers.1.self_attn.q_proj"
    a, b, e = (f"base_model.model.{name}.lora_{x}" for x in "ABE")
    expected = load_all(base)[f"{name}.weight"] + 8 / (6 + 1e-5) * adaptive[b] @ (scales[e] * adaptive[a])
    assert torch.allclose(found[f"{name}.weight"], expected, atol=1e-6)


@pytest.mark.parametrize("method", ["task_arithmetic", "tsv_m"])
def test_adaptive_lora_stays_in_factors(tmp_path, base, method):
    """A merge of an AdaLoRA and a LoRA becomes an adapter without a matrix of the model's size."""
    adaptive = {k.removesuffix(".weight"): v for k, v in factors(rank=6).items()}
    scales = {k.replace("lora_A", "lora_E"): torch.rand(6, 1) for k in adaptive if "lora_A" in k}
    first = write(tmp_path / "a", adaptive | scales, peft_type="ADALORA", init_r=6)
    second = write(tmp_path / "b", factors())
    recipe = {
        "merge_method": method,
        "base_model": str(base),
        "models": [{"model": str(base), "lora": str(path)} for path in (first, second)],
        "out_dtype": "float32",
    }
    result = chorus.merge_into_adapter(recipe, tmp_path / "merged")
    assert {m.way for m in result.modules} == {"linear" if method == "task_arithmetic" else "factors"}
    chorus.merge(recipe, tmp_path / "model")
    merged, found = load_all(tmp_path / "model"), values(opened(base, tmp_path / "merged"))
    assert all(torch.allclose(found[name], merged[name].float(), atol=2e-6) for name in merged)


def test_a_pickled_adapter_is_opened_on_request(tmp_path, base):
    tensors = factors()
    expected = values(opened(base, write(tmp_path / "a", tensors)))
    (tmp_path / "a" / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "a" / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        opened(base, tmp_path / "a")
    found = opened(base, tmp_path / "a", allow_pickle=True)
    assert all(torch.equal(v, expected[n]) for n, v in values(found).items())
    assert set(found.adapter_paths) == {"adapter_config.json", "adapter_model.bin"}
    saved = {**tensors, "base_model.model.model.norm.weight": torch.full((32,), 2.0)}
    torch.save(saved, tmp_path / "a" / "adapter_model.bin")
    recipe = {
        "merge_method": "task_arithmetic",
        "base_model": str(base),
        "models": [{"model": str(base), "lora": str(tmp_path / "a")}],
    }
    result = chorus.merge_into_adapter(recipe, tmp_path / "merged", chorus.Options(allow_pickle=True))
    assert (len(result.modules), result.saved, result.dropped) == (4, ["model.norm"], [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("base_model.model.", "base_model.model._orig_mod."),
        ("base_model.model.", "_orig_mod.base_model.model."),
        ("base_model.model.", "module.base_model.model."),
        ("base_model.model.", ""),
        ("base_model.model.model.", "base_model.model."),
        ("self_attn.", "_fsdp_wrapped_module.self_attn._checkpoint_wrapped_module."),
        (".weight", ".default.weight"),
    ],
)
def test_whatever_wrapped_the_model_the_names_find_their_places(tmp_path, base, old, new):
    expected = values(opened(base, write(tmp_path / "a", factors())))
    renamed = {name.replace(old, new): tensor for name, tensor in factors().items()}
    found = values(opened(base, write(tmp_path / "a", renamed)))
    assert all(torch.equal(v, expected[n]) for n, v in found.items())


def test_saved_modules_find_their_places_under_the_wrappers_names(tmp_path, base):
    norm = torch.full((32,), 2.0)
    for middle in ("", "modules_to_save.", "modules_to_save.default."):
        tensors = {**factors(), f"base_model.model.model.norm.{middle}weight": norm}
        if middle.endswith("default."):
            tensors["base_model.model.model.norm.original_module.weight"] = torch.ones(32)
        found = opened(base, write(tmp_path / "a", tensors, modules_to_save=["model.norm"]))
        assert torch.equal(found.checkpoint["model.norm.weight"].read(), norm)
    lost = write(tmp_path / "a", factors(), modules_to_save=["model.norm"])
    assert "no tensor of model.norm, which modules_to_save names" in refusal(base, lost)


def test_a_head_of_its_own_on_a_base_whose_head_is_tied(tmp_path, base):
    tensors = {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32), **factors()}
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.ones(96, 4)
    model = opened(base, write(tmp_path / "a", tensors))
    embedding = load_all(base)["model.embed_tokens.weight"]
    assert torch.allclose(model.checkpoint["lm_head.weight"].read(), embedding + 8.0)
    assert torch.equal(model.checkpoint["model.embed_tokens.weight"].read(), embedding)
    assert model.config["tie_word_embeddings"] is False


def test_the_class_decides_what_is_transposed_not_the_config(tmp_path):
    """c_proj of GPT-2 is square: with the wrong word it would be merged transposed, and no shape would tell."""
    import transformers

    config = transformers.AutoConfig.for_model("gpt2", n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(tmp_path / "gpt2")
    a, b = torch.randn(4, 16), torch.randn(16, 4)
    name = "transformer.h.0.attn.c_proj"
    tensors = {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
    for word in (True, False):
        found = opened(tmp_path / "gpt2", write(tmp_path / "a", tensors, fan_in_fan_out=word))
        weight = model.state_dict()[f"{name}.weight"]
        assert torch.allclose(found.checkpoint[f"{name}.weight"].read(), weight + 2 * (b @ a).T, atol=1e-5)


def test_an_adapter_of_a_resized_vocabulary_says_so(tmp_path, base):
    tensors = {**factors(), "base_model.model.model.embed_tokens.weight": torch.ones(99, 32)}
    message = refusal(base, write(tmp_path / "a", tensors, modules_to_save=["embed_tokens"]))
    assert "the vocabulary had 99 entries: resize the base" in message


WRONG_CONFIGS = {
    "r": (0, -1, True, 4.5, "4", None, [4]),
    "lora_alpha": (float("nan"), float("inf"), "16", True, None, [1]),
    "rank_pattern": ([1], {"q_proj": 0}, {"q_proj": "4"}, {"q_proj": True}),
    "alpha_pattern": ({"q_proj": float("nan")}, {"q_proj": "x"}, {"(?<=q)": 1}, {"(" * 99: 1}, {"q{3,1}": 1}),
    "use_rslora": ("false", 1, {}),
    "use_dora": ("no", True),
    "lora_bias": (True,),
    "modules_to_save": ("lm_head", [1], [""], {"a": 1}, ["x"] * 3000),
    "peft_type": ("", None, "LOR", 7, "OFT", "BONE"),
    "init_lora_weights": ("corda", "x", 3, ["a"]),
    "unheard_of": (1, "x", [0]),
}


@pytest.mark.parametrize("key", WRONG_CONFIGS)
def test_a_value_that_peft_would_not_take_is_refused_by_its_key(tmp_path, base, key):
    for value in WRONG_CONFIGS[key]:
        message = refusal(base, write(tmp_path / "a", factors(), **{key: value}))
        # what no config can show is asked of the file, whose message has the key in brackets
        by_key = message.startswith((f"a/adapter_config.json: {key}", "a/adapter_model.safetensors: module"))
        assert by_key, message
        assert message.startswith("a/adapter_config.json") or f"({key})" in message, message
        assert len(message) < 500


def test_a_pattern_that_would_never_end_is_answered(tmp_path, base):
    plain = values(opened(base, write(tmp_path / "a", factors())))
    started = time.process_time()
    found = values(opened(base, write(tmp_path / "a", factors(), alpha_pattern={"(.*)*x": 4})))
    assert time.process_time() - started < 5
    assert all(torch.equal(v, plain[n]) for n, v in found.items())  # no module ends in x


def changed(**shapes):
    return {**factors(), **{QUERY.format(1, x): tensor for x, tensor in shapes.items()}}


WRONG_TENSORS = {
    "integers": (changed(A=torch.ones(4, 32, dtype=torch.int64)), "holds int64"),
    "truths": (changed(B=torch.ones(32, 4, dtype=torch.bool)), "holds bool"),
    "one dimension": (changed(A=torch.ones(128)), "shapes"),
    "no dimension": (changed(A=torch.tensor(1.0)), "shapes"),
    "four dimensions": (changed(A=torch.ones(4, 32, 1, 1), B=torch.ones(32, 4, 1, 1)), "belongs to another base"),
    "rank 0": (changed(A=torch.ones(0, 32), B=torch.ones(32, 0)), "shape [0, 32]"),
    "two ranks": (changed(A=torch.ones(3, 32)), "ranks 3 and 4"),
    "another rank than the config's": (changed(A=torch.ones(2, 32), B=torch.ones(32, 2)), "r and rank_pattern"),
    "another width": (changed(A=torch.ones(4, 48)), "belongs to another base"),
    "one of two": ({k: v for k, v in factors().items() if k != QUERY.format(3, "B")}, "only one of its two factors"),
    "a magnitude too many": (
        {**factors(), QUERY.format(0, "magnitude_vector"): torch.ones(32)},
        "lora_magnitude_vector (use_dora)",
    ),
    "AdaLoRA's scales": (
        {**factors(), QUERY.format(0, "E").removesuffix(".weight"): torch.ones(4, 1)},
        "has a lora_E, and its config says otherwise",
    ),
    "a kind of tomorrow": ({**factors(), QUERY.format(0, "C"): torch.ones(4)}, "a kind that is not known"),
    "two names for one": ({**factors(), QUERY.format(0, "A.other"): torch.ones(4, 32)}, "are one tensor"),
    "two spellings of one": (
        {**factors(), QUERY.format(0, "A").replace("model.model.", "model."): torch.ones(4, 32)}
        | {QUERY.format(0, "B").replace("model.model.", "model."): torch.ones(32, 4)},
        "are both for model.layers.0.self_attn.q_proj.weight",
    ),
    "integers in a norm": (
        {**factors(), "base_model.model.model.norm.weight": torch.ones(32, dtype=torch.int32)},
        "holds int32, the base float32",
    ),
    "no place": ({**factors(5)}, "no place in the base"),
}


@pytest.mark.parametrize("name", WRONG_TENSORS)
def test_a_tensor_that_is_no_factor_is_refused_by_its_name(tmp_path, base, name):
    tensors, message = WRONG_TENSORS[name]
    assert message in refusal(base, write(tmp_path / "a", tensors))


def test_layers_that_an_adapter_leaves_out_unasked_are_told(tmp_path, base):
    half = write(tmp_path / "a", factors(2))
    (warning,) = opened(base, half).warnings
    assert "no factors for 2 modules (model.layers.2.self_attn.q_proj, ...)" in warning
    plan = chorus.plan(apply_recipe(str(base), [str(half)]))
    assert sum("is the file whole?" in w for w in plan.warnings) == 1
    assert opened(base, write(tmp_path / "a", factors(2), layers_to_transform=[0, 1])).warnings == []
    assert opened(base, write(tmp_path / "a", factors())).warnings == []


def test_the_class_that_peft_has_noted_is_compared(tmp_path, base):
    for library, count in (("transformers.models.qwen2.modeling_qwen2", 0), ("transformers.models.llama.x", 1), (7, 0)):
        noted = {"base_model_class": "x", "parent_library": library}
        warnings = opened(base, write(tmp_path / "a", factors(), auto_mapping=noted)).warnings
        assert len(warnings) == count
        assert all("trained on a model of the type llama, base is of qwen2" in w for w in warnings)


def test_an_alpha_of_zero_would_change_nothing(tmp_path, base):
    assert "lora_alpha: 0" in refusal(base, write(tmp_path / "a", factors(), lora_alpha=0))


def test_complex_factors_are_refused(tmp_path, base):
    adapter = write(tmp_path / "a", factors())
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(changed(A=torch.ones(4, 32, dtype=torch.complex64)), adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model.bin: tensor .*lora_A.weight is of the type complex64"):
        opened(base, adapter, allow_pickle=True)


def test_an_adapter_of_another_architecture_is_refused(tmp_path, base):
    shutil.copytree(base, tmp_path / "other")
    build("whisper").save_pretrained(tmp_path / "other")
    message = refusal(tmp_path / "other", write(tmp_path / "a", factors()))
    assert "its config names the base x, this is" in message
