"""Whole merges of tiny real models: values, files, what transformers makes of them."""

from __future__ import annotations

import json

import pytest
import torch

import chorus
from chorus.errors import PlanError
from models import build, copy_model, load_all, make_family, write_recipe

WEIGHTS = [{"weight": 0.5}, {"weight": 0.3}, {"weight": 0.2}]


def mean(family, weights):
    tensors = [load_all(p) for p in family.tuned]
    total = sum(weights)
    return {k: sum(w * t[k].double() for w, t in zip(weights, tensors, strict=True)) / total for k in tensors[0]}


def assert_close(found, expected, tolerance=1e-6):
    assert set(found) == set(expected)
    assert len(found) > 20
    for name, value in expected.items():
        error = (found[name].double() - value.double()).abs().max()
        assert error <= tolerance * value.abs().max().clamp(min=1e-6), name


def test_a_linear_merge_is_the_mean_of_every_tensor(qwen, out):
    result = chorus.merge(qwen.recipe("linear", base=False, each=WEIGHTS), out)
    assert_close(load_all(out), mean(qwen, [0.5, 0.3, 0.2]))
    assert result.tensors == len(load_all(qwen.base))
    assert result.bytes_written == sum(t.nbytes for t in load_all(out).values())
    assert result.bytes_read == 3 * result.bytes_written


def test_the_result_loads_in_transformers_and_generates(qwen, out):
    from transformers import AutoModelForCausalLM

    chorus.merge(qwen.recipe("task_arithmetic", each=WEIGHTS), out)
    model = AutoModelForCausalLM.from_pretrained(out)
    base, tuned = load_all(qwen.base), [load_all(p) for p in qwen.tuned]
    expected = {
        k: base[k] + sum(w["weight"] * (t[k] - base[k]) for w, t in zip(WEIGHTS, tuned, strict=True)) for k in base
    }
    state = model.state_dict()
    assert_close({k: state[k] for k in expected}, expected, 2e-6)
    assert state["lm_head.weight"].data_ptr() == state["model.embed_tokens.weight"].data_ptr()
    tokens = model.generate(torch.tensor([[1, 2, 3]]), max_new_tokens=4, do_sample=False)
    assert tokens.shape[0] == 1


def test_whisper_loads_with_its_generation_settings(whisper, out):
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    chorus.merge(whisper.recipe("linear", base=False, each=WEIGHTS), out)
    model = WhisperForConditionalGeneration.from_pretrained(out)
    assert model.generation_config.lang_to_id == {"<|en|>": 50259, "<|pt|>": 50267}
    assert model.generation_config.alignment_heads == [[0, 0]]
    assert WhisperFeatureExtractor.from_pretrained(out).chunk_length == 1
    assert {"preprocessor_config.json", "generation_config.json"} <= {p.name for p in out.iterdir()}
    ids = model.generate(
        input_features=torch.zeros(1, 80, 100), language="pt", task="transcribe", max_new_tokens=3, do_sample=False
    )
    assert ids.shape[0] == 1
    position = "model.encoder.embed_positions.weight"
    assert torch.equal(load_all(out)[position], load_all(whisper.base)[position])


def test_a_plan_is_a_checkpoint_with_the_merges_own_bytes(qwen, out):
    for method, each in (("linear", WEIGHTS), ("ties", [{**w, "density": 0.4} for w in WEIGHTS])):
        plan = chorus.plan(qwen.recipe(method, each=each, base=method == "ties"))
        chorus.merge(plan, out / method)
        written = load_all(out / method)
        assert list(plan) == sorted(written, key=list(plan).index)
        assert len(plan) == len(written)
        for name in plan:
            tensor = plan[name]
            assert torch.equal(tensor.read(), written[name])
            assert torch.equal(tensor.flat(3, 9), written[name].reshape(-1)[3:9])
            assert tuple(tensor.shape) == tuple(written[name].shape)


def test_variants_come_from_one_read(qwen, out):
    outputs = [
        {"name": "dense"},
        {"name": "sparse", "parameters": {"density": 0.2}},
        {"name": "mean", "merge_method": "task_arithmetic"},
        {"name": "half", "out_dtype": "float16"},
        {"name": "kept", "exclude": [{"component": "embeddings"}]},
    ]
    each = [{"weight": w["weight"]} for w in WEIGHTS]
    recipe = qwen.recipe("ties", each=each, outputs=outputs)
    plan = chorus.plan(recipe)
    result = chorus.merge(plan, out)
    assert sorted(p.name for p in out.iterdir()) == ["dense", "half", "kept", "mean", "sparse"]
    single = {k: v for k, v in recipe.items() if k != "outputs"}
    chorus.merge({**single, "parameters": {"density": 0.2}}, out.parent / "single")
    alone = load_all(out.parent / "single")
    assert all(torch.equal(alone[k], v) for k, v in load_all(out / "sparse").items())
    assert {t.dtype for t in load_all(out / "half").values()} == {torch.float16}
    embedding = "model.embed_tokens.weight"
    assert torch.equal(load_all(out / "kept")[embedding], load_all(qwen.base)[embedding])
    assert not torch.equal(load_all(out / "dense")[embedding], load_all(qwen.base)[embedding])
    assert result.bytes_read < 5 * 4 * plan.variants[0].nbytes / 2, "each variant read the inputs by itself"
    assert json.loads((out / "mean" / "chorus.json").read_text())["resolved"]["method"] == "task_arithmetic"


def test_variants_of_other_inputs_do_not_mix(qwen, out):
    """One takes the base as a model among the others, one as what deltas start at, one scales nothing."""
    outputs = [{"name": "mean", "merge_method": "linear"}, {"name": "sum", "merge_method": "task_arithmetic"}]
    outputs += [{"name": "sphere", "merge_method": "multislerp"}]
    models = [
        {"model": str(p), "parameters": {"weight": w["weight"]}} for p, w in zip(qwen.tuned, WEIGHTS, strict=True)
    ]
    recipe = {"merge_method": "linear", "base_model": str(qwen.base), "models": models, "parameters": {"weight": 0.5}}
    plan = chorus.plan({**recipe, "outputs": outputs})
    result = chorus.merge(plan, out)
    for output in outputs:
        alone = out.parent / output["name"]
        single = {**recipe, "merge_method": output["merge_method"]}
        chorus.merge(single, alone)
        expected = load_all(alone)
        assert all(torch.equal(expected[k], v) for k, v in load_all(out / output["name"]).items()), output["name"]
    assert result.bytes_read <= 2 * plan.bytes_to_read, "the passes are shared: one for the angles, one for the results"


def test_shards_with_an_index(qwen, out):
    from transformers import AutoModelForCausalLM

    options = chorus.Options(max_shard_bytes=40_000)
    chorus.merge(qwen.recipe("linear", base=False, each=WEIGHTS), out, options)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    files = sorted(p.name for p in out.glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in load_all(out).values())
    assert_close(load_all(out), mean(qwen, [0.5, 0.3, 0.2]))
    AutoModelForCausalLM.from_pretrained(out)


def test_roles_choose_parameters(whisper, out):
    roles = [
        {"role": {"component": "cross_attention"}, "value": 0.0},
        {"role": {"component": "decoder", "layers": [0, 1]}, "value": 1.0},
        {"value": 0.5},
    ]
    recipe = whisper.recipe("linear", 2, base=False, each=[{"weight": roles}, {"weight": 1.0}])
    chorus.merge(recipe, out)
    found, (a, b) = load_all(out), [load_all(p) for p in whisper.tuned[:2]]
    for name, share in (
        ("model.decoder.layers.1.encoder_attn.q_proj.weight", 0.0),
        ("model.decoder.layers.0.fc1.weight", 0.5),
        ("model.decoder.layers.1.fc1.weight", 1 / 3),
        ("model.encoder.layers.0.fc1.weight", 1 / 3),
    ):
        expected = share * a[name].double() + (1 - share) * b[name].double()
        assert torch.allclose(found[name].double(), expected, atol=1e-8), name


def test_excluded_roles_keep_the_base(qwen, out):
    recipe = qwen.recipe(
        "ties", each=[{"weight": 1, "density": 0.5}] * 3, exclude=[{"kind": "norm"}, {"layers": [1, 2]}]
    )
    chorus.merge(recipe, out)
    found, base = load_all(out), load_all(qwen.base)
    kept = {n for n in base if "norm" in n or ".layers.1." in n}
    assert len(kept) == 9 + 10
    assert {n for n in base if torch.equal(found[n], base[n])} == kept


def test_modules_have_their_own_recipes(whisper, out):
    models = [{"model": str(p)} for p in whisper.tuned]
    recipe = {
        "merge_method": "linear",
        "modules": {
            "encoder": {
                "models": [{**models[0], "parameters": {"weight": 1}}, {**models[1], "parameters": {"weight": 3}}]
            },
            "decoder": {"models": [{**models[2], "parameters": {"weight": 1}}]},
        },
    }
    chorus.merge(recipe, out)
    found, tuned = load_all(out), [load_all(p) for p in whisper.tuned]
    name = "model.encoder.layers.0.fc1.weight"
    assert torch.allclose(found[name], 0.25 * tuned[0][name] + 0.75 * tuned[1][name], atol=1e-8)
    decoder = [n for n in found if n.startswith("model.decoder")]
    assert len(decoder) > 70
    assert all(torch.equal(found[n], tuned[2][n]) for n in decoder)
    del recipe["modules"]["decoder"]
    with pytest.raises(PlanError, match="decoder is missing"):
        chorus.plan(recipe)


def test_stacked_layers_and_the_configs_lists_follow(tmp_path, out):
    from transformers import AutoModelForCausalLM

    family = make_family(tmp_path, "qwen2", 2)
    a, b = (str(p) for p in family.tuned)
    recipe = {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": a, "layer_range": [0, 3]}]},
            {
                "sources": [
                    {
                        "model": b,
                        "layer_range": [1, 4],
                        "parameters": {"scale": [{"filter": "o_proj", "value": 0}, {"value": 1}]},
                    }
                ]
            },
        ],
    }
    chorus.merge(recipe, out)
    config = json.loads((out / "config.json").read_text())
    assert config["num_hidden_layers"] == 6
    assert len(config["layer_types"]) == 6
    found, first, second = load_all(out), load_all(family.tuned[0]), load_all(family.tuned[1])
    for new, source, old in ((2, first, 2), (3, second, 1), (5, second, 3)):
        rest = "mlp.up_proj.weight"
        assert torch.equal(found[f"model.layers.{new}.{rest}"], source[f"model.layers.{old}.{rest}"])
    assert found["model.layers.4.self_attn.o_proj.weight"].abs().max() == 0
    assert torch.equal(found["model.embed_tokens.weight"], first["model.embed_tokens.weight"])
    assert torch.equal(found["model.norm.weight"], second["model.norm.weight"])
    assert AutoModelForCausalLM.from_pretrained(out).config.num_hidden_layers == 6


def test_slices_give_every_layer_its_place_on_the_gradient(qwen, out):
    a, b = (str(p) for p in qwen.tuned[:2])
    sources = [{"model": a, "layer_range": [0, 4]}, {"model": b, "layer_range": [0, 4]}]
    recipe = {"merge_method": "slerp", "base_model": a, "slices": [{"sources": sources}], "parameters": {"t": [0, 1]}}
    chorus.merge(recipe, out)
    found, x, y = load_all(out), load_all(qwen.tuned[0]), load_all(qwen.tuned[1])
    for layer in range(4):
        name = f"model.layers.{layer}.mlp.up_proj.weight"
        t = layer / 3
        assert torch.allclose(found[name].double(), (1 - t) * x[name].double() + t * y[name].double(), atol=1e-8)
    assert torch.equal(found["model.embed_tokens.weight"], x["model.embed_tokens.weight"])


def test_an_adapter_can_be_merged_like_a_model(tmp_path, out):
    from peft import LoraConfig, get_peft_model

    base = build("qwen2")
    base.save_pretrained(tmp_path / "base")
    expected, models = [], []
    for i in range(2):
        tuned = get_peft_model(build("qwen2"), LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
        torch.manual_seed(i)
        for n, p in tuned.named_parameters():
            if "lora_B" in n:
                p.data.normal_(0, 0.05)
        tuned.save_pretrained(tmp_path / f"ad{i}")
        expected.append(tuned.merge_and_unload().state_dict())
        models.append(
            {"model": str(tmp_path / "base"), "lora": str(tmp_path / f"ad{i}"), "parameters": {"weight": 0.5}}
        )
    chorus.merge({"merge_method": "linear", "models": models}, out)
    for name, value in load_all(out).items():
        assert torch.allclose(value, (expected[0][name] + expected[1][name]) / 2, atol=1e-7), name
    chorus.merge({"merge_method": "slerp", "models": models}, out.parent / "sphere")
    facts = json.loads((out / "chorus.json").read_text())
    files = {"adapter_model.safetensors", "adapter_config.json"}
    assert [set(i["adapter_files"]) for i in facts["inputs"]] == [files, files]
    assert [i["model"] for i in facts["inputs"]] == ["base+ad0", "base+ad1"]


def test_grown_vocabularies_need_the_flag(tmp_path, qwen, out):
    bigger = make_family(tmp_path, "qwen2", 1)
    tensors = load_all(bigger.tuned[0])
    tensors["model.embed_tokens.weight"] = torch.cat([tensors["model.embed_tokens.weight"], torch.ones(4, 32)])
    from models import write_model

    config = json.loads((bigger.tuned[0] / "config.json").read_text())
    grown = write_model(tmp_path / "grown", tensors, {**config, "vocab_size": 100})
    models = [{"model": str(p), "parameters": {"weight": 1}} for p in (bigger.base, grown)]
    recipe = {"merge_method": "linear", "models": models}
    with pytest.raises(PlanError, match=r"vocabulary of 100, base of 96.*--truncate-vocabulary"):
        chorus.plan(recipe)
    chorus.merge(recipe, out, chorus.Options(truncate_vocabulary=True))
    assert load_all(out)["model.embed_tokens.weight"].shape == (96, 32)
    assert json.loads((out / "config.json").read_text())["vocab_size"] == 96


def test_provenance_tells_what_went_in(qwen, out, tmp_path):
    recipe = qwen.recipe("ties", each=[{"weight": 1, "density": 0.5}] * 3, seed=4)
    chorus.merge(recipe, out, chorus.Options(sha256=True))
    text = (out / "chorus.json").read_text()
    facts = json.loads(text)
    assert str(qwen.base.parent) not in text + (out / "README.md").read_text()
    assert facts["resolved"]["seed"] == 4
    assert facts["resolved"]["base_model"] == "base"
    assert facts["recipe"]["merge_method"] == "ties"
    import hashlib

    for entry, path in zip(facts["inputs"], [*qwen.tuned, qwen.base], strict=True):
        assert {f.name for f in path.glob("*.safetensors")} == set(entry["files"])
        for name, identity in entry["files"].items():
            assert identity["sha256"] == hashlib.sha256((path / name).read_bytes()).hexdigest()
    card = (out / "README.md").read_text()
    front = card.split("---")[1]
    assert "base_model" not in front, "none of them is on the hub"
    assert "license:" not in front, "the licences differ, so the card must not state one"
    assert "| tuned-0 | mit |" in card


def test_the_identity_of_an_input_is_the_digest_of_its_bytes(qwen, out):
    import xxhash

    chorus.merge(qwen.recipe("linear", base=False, each=WEIGHTS), out)
    facts = json.loads((out / "chorus.json").read_text())
    tensors = load_all(qwen.tuned[0])
    lines = "".join(
        f"{n} {xxhash.xxh3_128(tensors[n].reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()}\n"
        for n in sorted(tensors)
    )
    assert (
        facts["inputs"][0]["files"]["model.safetensors"]["xxh3_tensors"] == xxhash.xxh3_128(lines.encode()).hexdigest()
    )


def test_the_casts_loss_is_measured_and_large_ones_are_told(tmp_path, out):
    family = make_family(tmp_path, "qwen2", 2, spread=1e-5)
    recipe = family.recipe("task_arithmetic", each=[{"weight": 0.5}] * 2, out_dtype="bfloat16")
    result = chorus.merge(recipe, out)
    assert any("float32" in w and "%" in w for w in result.warnings)
    losses = json.loads((out / "chorus.json").read_text())["cast_loss"]
    exact = out.parent / "exact"
    chorus.merge({**recipe, "out_dtype": "float32"}, exact)
    a, b, base = load_all(out), load_all(exact), load_all(family.base)
    names = [n for n in a if "self_attn" in n and n.endswith("weight")]
    error = sum(((a[n].float() - b[n]).double() ** 2).sum() for n in names) ** 0.5
    delta = sum(((b[n] - base[n]).double() ** 2).sum() for n in names) ** 0.5
    assert losses["language_model attention"]["of_delta"] == pytest.approx(float(error / delta), rel=1e-3)


def test_generation_settings_are_chosen_and_differences_shown(tmp_path, whisper, out):
    other = copy_model(whisper.tuned[1], tmp_path / "other")
    path = other / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "suppress_tokens": [9]}))
    models = [{"model": str(p), "parameters": {"weight": 1}} for p in (whisper.tuned[0], other)]
    recipe = {"merge_method": "linear", "models": models}
    plan = chorus.plan(recipe)
    assert any("suppress_tokens" in d and "other" in d for d in plan.generation_differences)
    chosen = {**recipe, "generation": {"source": str(other), "overrides": {"language": "pt"}}}
    chorus.merge(chosen, out)
    written = json.loads((out / "generation_config.json").read_text())
    assert (written["suppress_tokens"], written["language"]) == ([9], "pt")
    with pytest.raises(PlanError, match="not one of the models"):
        chorus.plan({**recipe, "generation": {"source": "elsewhere"}})


def test_a_recipe_file_and_its_python_twin_agree(qwen, out, tmp_path):
    recipe = qwen.recipe("linear", base=False, each=WEIGHTS)
    chorus.merge(write_recipe(tmp_path / "r.yml", recipe), out / "a")
    chorus.merge(chorus.load_recipe(recipe), out / "b")
    a, b = load_all(out / "a"), load_all(out / "b")
    assert all(torch.equal(a[k], b[k]) for k in b)


def test_the_configs_dtype_is_true(qwen, out):
    for dtype in ("bfloat16", "float16", "float32"):
        chorus.merge(qwen.recipe("linear", base=False, each=WEIGHTS, out_dtype=dtype), out / dtype)
        assert json.loads((out / dtype / "config.json").read_text())["dtype"] == dtype
        assert {str(t.dtype) for t in load_all(out / dtype).values()} == {f"torch.{dtype}"}
