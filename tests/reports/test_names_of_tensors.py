"""What a model's tensors are called, and which there must be: asked of its architecture, not of the other inputs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

import chorus
from architectures import ARCHITECTURES, MROPE, QWEN_VISION, TOWER, loading_faults, make_pair
from chorus.cli.main import run
from chorus.errors import CheckpointError, PlanError
from models import Family, copy_model, load_all, write_model


def halves(*places, **keys):
    models = [{"model": str(place), "parameters": {"weight": 0.5}} for place in places]
    return {"merge_method": "linear", "models": models, **keys}


def renamed(source, target, change, **config):
    """A copy of a model whose tensors are called otherwise; None leaves one out."""
    tensors = {change(name): tensor for name, tensor in load_all(source).items()}
    tensors.pop(None, None)
    settings = json.loads((source / "config.json").read_text())
    return write_model(target, tensors, {**settings, **config})


WRAPPED = {
    "torch.compile": lambda n: f"_orig_mod.{n}",
    "DistributedDataParallel": lambda n: f"module.{n}",
    "Lightning": lambda n: f"model.{n}",
    "Lightning and torch.compile": lambda n: f"model._orig_mod.{n}",
    "FSDP": lambda n: n.replace("self_attn.", "_fsdp_wrapped_module.self_attn."),
    "checkpointed activations": lambda n: n.replace("fc1.", "_checkpoint_wrapped_module.fc1."),
    "PEFT without an adapter": lambda n: f"base_model.model.{n}",
    "a name of one's own": lambda n: f"student.{n}",
}


@pytest.mark.reported("torch-compile-prefix")
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_are_taken_off(tmp_path, whisper: Family, out, wrapper):
    places = [renamed(p, tmp_path / p.name, WRAPPED[wrapper]) for p in whisper.tuned[:2]]
    plan = chorus.plan(halves(*places))
    plain = chorus.plan(halves(*whisper.tuned[:2]))
    chorus.merge(plan, out)
    assert loading_faults("whisper", out) == {}
    assert set(plan) == set(plain)
    assert all(torch.equal(plan[name].read(), plain[name].read()) for name in plain)
    assert sum("saved with its wrapper" in w for w in plan.warnings) == 2


def test_a_tensor_with_and_without_its_wrapper_is_refused(tmp_path, whisper: Family):
    name = "model.encoder.layers.0.fc1.weight"
    tensors = load_all(whisper.base)
    config = json.loads((whisper.base / "config.json").read_text())
    twice = write_model(tmp_path / "twice", {**tensors, f"_orig_mod.{name}": tensors[name] + 1}, config)
    with pytest.raises(CheckpointError, match="with and without _orig_mod"):
        chorus.open_model(twice)


def test_a_wrapped_model_is_extracted_and_read_under_its_own_names(tmp_path, whisper: Family, out):
    wrapped = renamed(whisper.tuned[0], tmp_path / "wrapped", WRAPPED["torch.compile"])
    model = chorus.open_model(wrapped)
    assert set(model.checkpoint) == set(load_all(whisper.tuned[0]))
    assert not model.as_stored  # transformers itself would load it with random values
    chorus.extract_task_vector(wrapped, whisper.base, out)
    chorus.extract_task_vector(whisper.tuned[0], whisper.base, tmp_path / "plain")
    assert (out / "task_vector.safetensors").read_bytes() == (tmp_path / "plain/task_vector.safetensors").read_bytes()


@pytest.mark.parametrize("kind", ["lora", "task-vector"])
def test_extraction_says_what_it_takes_off_names(tmp_path, whisper: Family, out, kind, capsys):
    wrapped = renamed(whisper.tuned[0], tmp_path / "wrapped", WRAPPED["torch.compile"])
    assert run(["extract", kind, "--model", str(wrapped), "--base", str(whisper.base), "-o", str(out)]) == 0
    assert "warning: wrapped: saved with its wrapper" in capsys.readouterr().err
    assert "wrapper" not in ((out / "README.md").read_text() if kind == "lora" else "")


@pytest.mark.parametrize("kind", ["lora", "task-vector"])
def test_extraction_compares_what_no_shape_shows(tmp_path, qwen: Family, out, kind, capsys):
    config = json.loads((qwen.tuned[0] / "config.json").read_text())
    tensors = load_all(qwen.tuned[0])

    def extracted(**changes: object) -> int:
        tuned = write_model(tmp_path / "tuned", tensors, {**config, **changes})
        return run(["extract", kind, "--model", str(tuned), "--base", str(qwen.base), "-o", str(out)])

    assert extracted(hidden_act="gelu") == 4
    assert "tuned has hidden_act gelu in its config, base silu" in capsys.readouterr().err
    assert not out.exists()
    assert extracted(rms_norm_eps=1e-3) == 0
    assert (
        "warning: the config of tuned has rms_norm_eps 0.001, not 1e-06 as in its base, base" in capsys.readouterr().err
    )


ADAPTED = {
    "LoRA": ["base_layer.weight", "lora_A.default.weight", "lora_B.default.weight"],
    "what is left of one": ["base_layer.weight"],
    "modules to save": ["original_module.weight", "modules_to_save.default.weight"],
}


@pytest.mark.reported("unmerged-base-layer")
@pytest.mark.parametrize("kind", ADAPTED)
def test_an_unmerged_adapter_in_a_model_file_is_refused(tmp_path, qwen: Family, kind):
    tensors = load_all(qwen.tuned[0])
    module = "model.layers.0.self_attn.q_proj"
    weight = tensors.pop(f"{module}.weight")
    tensors |= {f"{module}.{name}": weight.clone() for name in ADAPTED[kind]}
    bad = write_model(tmp_path / "bad", tensors, json.loads((qwen.base / "config.json").read_text()))
    with pytest.raises(PlanError, match=rf"bad: an unmerged adapter in the model file: {module}\.") as told:
        chorus.plan(halves(qwen.base, bad))
    assert "merge_and_unload" in str(told.value)


MISSING = {
    "the head": ("lm_head.weight", {"tie_word_embeddings": False}, "tie_word_embeddings: true"),
    "the norm": ("model.norm.weight", {}, "not whole"),
    "a layer": ("model.layers.3.", {}, "and 9 more"),
    "the embedding": ("model.embed_tokens.weight", {}, "not whole"),
}


@pytest.mark.reported("missing-tensor")
@pytest.mark.parametrize("part", MISSING)
def test_what_all_models_lack_is_missed(tmp_path, qwen: Family, part):
    name, config, said = MISSING[part]
    places = [
        renamed(p, tmp_path / p.name, lambda n: None if n.startswith(name) else n, **config)
        for p in (qwen.base, qwen.tuned[0])
    ]
    with pytest.raises(PlanError, match=f"base: lacks {name}") as told:
        chorus.plan(halves(*places))
    assert said in str(told.value)
    assert "tuned-0: lacks" in str(told.value)


@pytest.mark.reported("state-space-stacks")
@pytest.mark.parametrize("kind", ["mamba", "lfm2"])
def test_slices_and_gradients_of_models_whose_layers_do_not_attend(tmp_path, out, kind):
    a, b = make_pair(kind, tmp_path)
    count = ARCHITECTURES[kind][1]["num_hidden_layers"]
    slices = [{"sources": [{"model": str(m), "layer_range": r}]} for m, r in ((a, [0, 2]), (b, [1, count]))]
    chorus.merge({"merge_method": "passthrough", "slices": slices}, out)
    found, first, second = load_all(out), load_all(a), load_all(b)
    assert loading_faults(kind, out) == {}
    prefix = next(n for n in found if ".layers." in n).partition("layers.")[0] + "layers."
    assert {n[len(prefix) :].split(".")[0] for n in found if n.startswith(prefix)} == {str(i) for i in range(count + 1)}
    for name, tensor in found.items():
        number, _, rest = name.removeprefix(prefix).partition(".")
        if name.startswith(prefix):
            own = first[name] if int(number) < 2 else second[f"{prefix}{int(number) - 1}.{rest}"]
            assert torch.equal(tensor, own), name
    graded = {**halves(a, b), "parameters": {"weight": [0.2, 0.8]}}
    graded["models"] = [{"model": str(a)}, {"model": str(b), "parameters": {"weight": 1.0}}]
    plan = chorus.plan(graded)
    weights = [t.parameters["weight"][0] for t in plan.tensors() if t.name.startswith(f"{prefix}0.")]
    assert weights
    assert set(weights) == {0.2}
    assert {t.parameters["weight"][0] for t in plan.tensors() if t.name.startswith(f"{prefix}{count - 1}.")} == {0.8}


@pytest.fixture(scope="module")
def omni(tmp_path_factory):
    """Qwen2.5-Omni in small, whole: thinker, talker, vocoder, and the speakers that lie in a file of their own."""
    import transformers

    place = tmp_path_factory.mktemp("omni")
    thinker = {"text_config": MROPE, "audio_config": {**TOWER, "output_dim": 16, "n_window": 4},
               "vision_config": QWEN_VISION}  # fmt: skip
    dit = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 8, "block_size": 8,
           "enc_channels": [8, 8, 8, 8, 24], "enc_kernel_sizes": [5, 3, 3, 3, 1], "enc_dim": 8, "enc_emb_dim": 8,
           "emb_dim": 16, "enc_attention_channels": 8, "enc_res2net_scale": 2, "enc_se_channels": 8, "num_embeds": 50,
           "mel_dim": 8}  # fmt: skip
    vocoder = {"mel_dim": 8, "upsample_initial_channel": 32, "upsample_rates": [2], "upsample_kernel_sizes": [4]}
    config = transformers.Qwen2_5OmniConfig(
        thinker_config=thinker, talker_config={**MROPE, "embedding_size": 16},
        token2wav_config={"dit_config": dit, "bigvgan_config": vocoder},
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.Qwen2_5OmniForConditionalGeneration(config).save_pretrained(place / "saved")
    speaker = {"cond": torch.zeros(1, 192), "ref_mel": torch.zeros(1, 10, 80), "bos_token": 1}
    torch.save({"Chelsie": speaker}, place / "saved" / "spk_dict.pt")
    return place / "saved"


@pytest.mark.reported("omni-of-the-hub")
def test_a_class_that_the_hub_calls_otherwise_is_found_by_the_model_type(tmp_path, omni, out):
    """The hub's config.json says `Qwen2_5OmniModel`, a fine-tune that was saved says the class."""
    import transformers

    hub = copy_model(omni, tmp_path / "hub", architectures=["Qwen2_5OmniModel"])
    (hub / "spk_dict.pt").write_bytes((omni / "spk_dict.pt").read_bytes())
    chorus.merge(halves(hub, omni, base_model=str(hub), merge_method="task_arithmetic"), out)
    found, expected = load_all(out), load_all(omni)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert (out / "spk_dict.pt").exists()
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen2_5OmniModel"]
    cls = transformers.Qwen2_5OmniForConditionalGeneration
    loaded, original = (cls.from_pretrained(place).state_dict() for place in (out, omni))
    assert all(torch.equal(loaded[name], original[name]) for name in original)


NAMELESS = {
    "missing": None,
    "empty": [],
    "torch.compile's": ["OptimizedModule"],
    "FSDP's": ["FSDPWav2Vec2ForCTC"],
    "PEFT's": ["PeftModelForCausalLM"],
    "an Auto class": ["AutoModelForCTC"],
    "nobody's": ["Wav2Vec2ForMyThesis"],
}


@pytest.mark.parametrize("architectures", NAMELESS)
def test_a_config_without_a_class_of_its_own(tmp_path, out, architectures):
    """The class is that of the model type whose tensors the file has."""
    a, b = make_pair("wav2vec2", tmp_path)
    other = copy_model(b, tmp_path / "other", architectures=NAMELESS[architectures])
    chorus.merge(halves(other, a), out)
    assert loading_faults("wav2vec2", out) == {}
    written = json.loads((out / "config.json").read_text())["architectures"]
    assert written == (NAMELESS["nobody's"] if architectures == "nobody's" else ["Wav2Vec2ForCTC"])


@pytest.mark.parametrize(
    ("architectures", "model_type"),
    [(["PeftModelForCausalLM"], "qwen2"), (None, "qwen2"), (["FSDPQwen2ForCausalLM"], "")],
)
def test_families_with_a_rule_are_found_without_transformers(tmp_path, qwen: Family, architectures, model_type):
    for place in (qwen.base, qwen.tuned[0]):
        copy_model(place, tmp_path / place.name, architectures=architectures, model_type=model_type)
    code = f"""
import sys, chorus
plan = chorus.plan({halves(tmp_path / "base", tmp_path / "tuned-0")!r})
print(plan.model().architecture, "torch" in sys.modules, "transformers" in sys.modules)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.split() == ["Qwen2ForCausalLM", "False", "False"]


def test_a_class_that_nobody_knows_is_merged_by_names_with_a_warning(tmp_path, qwen: Family, out):
    places = [
        copy_model(p, tmp_path / p.name, architectures=["MineForCausalLM"], model_type="mine")
        for p in (qwen.base, qwen.tuned[0])
    ]
    plan = chorus.plan(halves(*places))
    assert sum("override_architecture" in w and "MineForCausalLM" in w for w in plan.warnings) == 2
    assert set(plan) == set(load_all(qwen.base))
    assert max(t.role.layer or 0 for t in plan.tensors()) == 3
    told = {"model": str(places[0]), "override_architecture": "Qwen2ForCausalLM"}
    both = chorus.plan({**halves(), "models": [{"model": told, "parameters": {"weight": 1.0}}]})
    assert not any("MineForCausalLM" in w for w in both.warnings)
    sources = [{"sources": [{"model": str(m), "layer_range": [0, 3]}]} for m in places]
    stacked = chorus.plan({"merge_method": "passthrough", "slices": sources})
    assert [v.config["num_hidden_layers"] for v in stacked.variants] == [6]
    assert any("MineForCausalLM" in w for w in stacked.warnings)
    for place in places:  # whose count is another, or not there
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 7, "layer_types": None}))
    with pytest.raises(PlanError, match="no key that counts the layers"):
        chorus.plan({"merge_method": "passthrough", "slices": sources})


G, V = "parametrizations.weight.original0", "parametrizations.weight.original1"
SPELLINGS = {
    "weight norm": ("wav2vec2", lambda n: n.replace(G, "weight_g").replace(V, "weight_v")),
    "without the base model's prefix": ("gpt2", lambda n: n.removeprefix("transformer.")),
    "gamma and beta": (
        "bert", lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    ),
    "the module tree's": (
        "qwen2_audio", lambda n: n.replace("language_model.lm_head", "lm_head")
        .replace("language_model.model.", "model.language_model.").replace("audio_tower.", "model.audio_tower.")
        .replace("multi_modal_projector.", "model.multi_modal_projector."),
    ),
}  # fmt: skip


@pytest.mark.reported("two-spellings")
@pytest.mark.parametrize("kind", SPELLINGS)
@pytest.mark.parametrize("first", ["as saved", "otherwise"])
def test_a_model_in_two_spellings_is_one_model(tmp_path, out, kind, first):
    architecture, change = SPELLINGS[kind]
    a, b = make_pair(architecture, tmp_path)
    other = renamed(b, tmp_path / "other", change)
    assert set(load_all(other)) != set(load_all(b))
    order = [a, other] if first == "as saved" else [other, a]
    plan = chorus.plan(halves(*order))
    chorus.merge(plan, out)
    assert loading_faults(architecture, out) == {}
    kept = {t.name for t in plan.tensors() if not t.role.learned}  # sinusoids are the first model's
    found, mine, theirs = load_all(out), load_all(a), load_all(b)
    assert set(found) == set(load_all(order[0]))  # the spelling that is written is that of the config's model
    for name in mine:
        written = name if first == "as saved" else change(name)
        mean = (mine[name] + theirs[name]) / 2
        assert written in kept or torch.allclose(found[written], mean, atol=1e-6), name


IGNORED = {
    "llama": ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq"),
    "gpt2": ("transformer.h.0.attn.bias", "transformer.h.0.attn.masked_bias"),
    "bert": ("bert.embeddings.position_ids",),
    "gpt_neox": ("gpt_neox.layers.0.attention.masked_bias", "gpt_neox.layers.0.attention.rotary_emb.inv_freq"),
    "whisper": (),
}


@pytest.mark.reported("two-spellings")
@pytest.mark.parametrize("kind", IGNORED)
def test_what_transformers_ignores_is_left_out_with_a_word(tmp_path, out, kind):
    a, b = make_pair(kind, tmp_path)
    old = write_model(
        tmp_path / "old", {**load_all(b), **{n: torch.ones(4) for n in IGNORED[kind]}},
        json.loads((b / "config.json").read_text()),
    )  # fmt: skip
    plan = chorus.plan(halves(old, a))
    assert set(plan) == set(load_all(a))
    assert [w for w in plan.warnings if "left out" in w] == (
        [f"old: {', '.join(IGNORED[kind])} left out, which transformers ignores"] if IGNORED[kind] else []
    )


def test_another_heads_tensors_are_left_out_with_a_word(tmp_path):
    """bert-base-uncased: the config says BertForMaskedLM, the file holds the pretraining's second head as well."""
    import transformers

    a, _ = make_pair("bert", tmp_path)
    settings = transformers.BertConfig.from_pretrained(a)
    transformers.BertForPreTraining(settings).save_pretrained(tmp_path / "both")
    both = copy_model(tmp_path / "both", tmp_path / "b", architectures=["BertForMaskedLM"])
    plan = chorus.plan(halves(a, both))
    assert set(plan) == set(load_all(a))
    (told,) = [w for w in plan.warnings if "left out" in w]
    assert "of BertForPreTraining, not of BertForMaskedLM" in told
    assert "bert.pooler.dense.bias" in told


def test_experts_in_one_tensor_and_apart_are_the_same(tmp_path):
    """Both ways: what the module tree keeps in one is read in parts, and the parts as one."""
    a, _ = make_pair("mixtral", tmp_path)
    apart = chorus.plan(halves(a, tmp_path / "tree")).model().checkpoint
    together = chorus.plan(halves(tmp_path / "tree", a)).model().checkpoint
    whole = together["model.layers.1.mlp.experts.gate_up_proj"].read()
    half = whole.shape[1] // 2
    expected = apart["model.layers.1.block_sparse_moe.experts.1.w3.weight"].read()
    assert torch.equal(whole[1, half:], expected)
    assert torch.equal(together["model.layers.1.mlp.experts.gate_up_proj"].flat(100, 300), whole.flatten()[100:300])


def test_a_config_that_does_not_fit_its_weights_is_told(tmp_path, qwen: Family):
    resized = copy_model(qwen.tuned[0], tmp_path / "resized", vocab_size=95)
    with pytest.raises(PlanError, match=r"resized: model.embed_tokens.weight has the shape \[96, 32\]") as told:
        chorus.plan(halves(qwen.base, resized))
    assert "[95, 32]" in str(told.value)


ODD = {
    "a billion layers": ({"num_hidden_layers": 10**9}, "num_hidden_layers of its config.json is 1000000000"),
    "a word": ({"num_hidden_layers": "4"}, "num_hidden_layers"),
    "no heads": ({"num_attention_heads": 0}, "num_attention_heads"),
    "another width": ({"hidden_size": 64}, "has the shape"),
}


@pytest.mark.parametrize("kind", ["qwen2", "gemma2"])
@pytest.mark.parametrize("odd", ODD)
def test_a_config_that_no_model_can_have_is_told_at_once(tmp_path, kind, odd):
    _, b = make_pair(kind, tmp_path)
    changed, told = ODD[odd]
    bad = copy_model(b, tmp_path / "bad", **changed)
    with pytest.raises(PlanError, match="bad: ") as error:
        chorus.plan(halves(bad))
    # that it divides by zero is all that transformers' own class says of no heads
    unnamed = (kind, odd) == ("gemma2", "no heads")
    assert ("cannot build Gemma2ForCausalLM from its config" if unnamed else told) in str(error.value)


def test_an_implementation_that_is_not_installed_is_not_asked_for(tmp_path):
    a, b = make_pair("gemma2", tmp_path)
    flash = copy_model(b, tmp_path / "flash", attn_implementation="flash_attention_2")
    assert set(chorus.plan(halves(a, flash))) == set(load_all(a))


@pytest.mark.parametrize("first", [True, False])
def test_the_mask_that_only_training_uses_may_be_lacking(tmp_path, first):
    """facebook/wav2vec2-base-960h has none; a fine-tune that transformers saved does."""
    a, b = make_pair("wav2vec2", tmp_path)
    bare = renamed(b, tmp_path / "bare", lambda n: None if n.endswith("masked_spec_embed") else n)
    plan = chorus.plan(halves(*([bare, a] if first else [a, bare])))
    assert set(plan) == set(load_all(bare if first else a))
    assert sum("masked_spec_embed" in w for w in plan.warnings) == 1


def test_alignment_heads_follow_the_layers_of_a_whisper(whisper: Family):
    """[layer, head] of the decoder, which word timestamps go by."""
    whole = {"models": [{"model": str(whisper.base)}]}
    slices = [{"sources": [{"model": str(whisper.base), "layer_range": r}]} for r in ([2, 3], [0, 2], [0, 1])]
    modules = {"encoder": whole, "decoder": {"slices": slices}}
    plan = chorus.plan({"merge_method": "passthrough", "base_model": str(whisper.base), "modules": modules})
    (variant,) = plan.variants
    assert variant.config["decoder_layers"] == 4
    assert variant.generation["alignment_heads"] == [[1, 0], [3, 0]]  # the first layer stands there twice
