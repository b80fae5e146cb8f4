"""The commands on adapters and task vectors, as their users meet them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

import chorus
from adapters import make_adapters, recipe_of
from chorus.cli.main import run
from models import load_all, write_recipe


@pytest.fixture
def recipe(tmp_path):
    base, adapters = make_adapters(tmp_path, "qwen2", 2)
    return write_recipe(tmp_path / "recipe.yml", recipe_of("tsv_m", base, adapters, weight=False))


def test_merge_as_adapter_says_where_and_what(recipe, out, capsys):
    assert run(["merge", str(recipe), "-o", str(out), "--as", "adapter", "--max-rank", "3"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == str(out)
    assert "12 modules, rank 3, " in shown.err
    assert "keep less than 80 % of their energy" in shown.err
    assert {p.name for p in out.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "chorus.json",
    }


def test_merge_as_adapter_prints_json(recipe, out, capsys):
    assert run(["merge", str(recipe), str(out), "--as", "adapter", "--json", "-q"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["modules"]) == 12
    factors = load_file(out / "adapter_model.safetensors")
    assert facts["parameters"] == sum(t.numel() for t in factors.values())


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--max-rank", "8"], ["add --as adapter"]),
        (["--as", "adapter", "--max-rank", "0"], ["rank must be 1 or more", "got 0"]),
        (["--as", "adapter", "--energy", "1.5"], ["energy must lie above 0", "1.5"]),
        (["--as", "adapter", "--energy", "0"], ["energy must lie above 0"]),
        (["--as", "adapter", "--budget", "many"], ["not a number of parameters"]),
        (["--as", "adapter", "--energy", "0.9", "--budget", "1M"], ["give one of them"]),
        (["--as", "adapter", "--resume"], ["merged again from the start"]),
        (["--as", "something"], ["'model', 'adapter'"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_flags_that_make_no_sense_are_refused(recipe, out, capsys, flags, words):
    assert run(["merge", str(recipe), "-o", str(out), *flags]) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert not out.exists()


def test_the_plan_shows_what_is_decomposed_and_what_the_cache_gets(whisper, tmp_path, capsys):
    file = write_recipe(tmp_path / "r.yml", whisper.recipe("boosted_tsv_m"))
    assert run(["plan", str(file)]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.startswith("model.")}
    assert "boosted_tsv_m on matrix" in lines["model.encoder.layers.{0-1}.fc1.weight"]
    for name in ("model.encoder.conv1.weight", "model.decoder.embed_tokens.weight", "model.encoder.layer_norm.weight"):
        assert "boosted_tsv_m on vector" in lines[name], name
    assert "copy (not learned)" in lines["model.encoder.embed_positions.weight"]
    assert "of spectra and bases for the next run" in shown
    assert run(["plan", str(file), "--no-cache"]) == 0
    assert "of spectra and bases" not in capsys.readouterr().out


def test_per_role_parameters_work_on_subspace_methods(whisper, tmp_path, out):
    """Subspaces in attention, a plain mean elsewhere, another beta in the encoder."""
    recipe = whisper.recipe(
        "boosted_tsv_m",
        out_dtype="float32",
        parameters={
            "treat": [{"role": {"kind": "attention"}, "value": "auto"}, {"value": "vector"}],
            "beta": [{"role": {"component": "encoder"}, "value": 1.0}, {"value": 0.2}],
        },
    )
    chorus.merge(recipe, out)
    found, base = load_all(out), load_all(whisper.base)
    deltas = [{n: t - base[n] for n, t in load_all(p).items()} for p in whisper.tuned]
    name = "model.encoder.layers.0.fc1.weight"
    mean = sum(d[name].double() for d in deltas) / 3
    assert torch.allclose(found[name].double() - base[name].double(), mean, atol=1e-8)
    chorus.merge(whisper.recipe("tsv_m", out_dtype="float32"), tmp_path / "plain")
    plain = load_all(tmp_path / "plain")
    encoder, decoder = (f"model.{side}.layers.0.self_attn.q_proj.weight" for side in ("encoder", "decoder"))
    assert torch.equal(found[encoder], plain[encoder])
    assert float((found[decoder] - base[decoder]).norm()) > 1.02 * float((plain[decoder] - base[decoder]).norm())
    facts = json.loads((out / "chorus.json").read_text())["resolved"]["parameters"]
    assert {g.get("treatment") for g in facts if g["method"] != "copy"} == {"matrix", "vector"}


def test_convolutions_can_be_matrices(whisper, out):
    recipe = whisper.recipe(
        "iso_c",
        out_dtype="float32",
        parameters={"treat": [{"role": {"kind": "convolution"}, "value": "matrix"}, {"value": "auto"}]},
    )
    chorus.merge(recipe, out)
    name = "model.encoder.conv2.weight"
    delta = (load_all(out)[name].double() - load_all(whisper.base)[name].double()).flatten(1)
    s = torch.linalg.svdvals(delta)
    assert torch.allclose(s, s[0], rtol=1e-3)


@pytest.mark.parametrize(
    ("method", "parameters", "words"),
    [
        ("boosted_tsv_m", {"beta": 0}, ["beta", "above 0 to 1"]),
        ("boosted_tsv_m", {"beta": 1.2}, ["beta", "above 0 to 1"]),
        ("boosted_tsv_m", {"energy": "cubed"}, ["sum, squared"]),
        ("tsv_m", {"rank": 0}, ["rank", "1 or more"]),
        ("tsv_m", {"rank": 4, "rank_fraction": 0.1}, ["give one of them"]),
        ("tsv_m", {"rank_fraction": 0}, ["above 0 to 1"]),
        ("tsv_m", {"preset": "paper", "orth": "ns"}, ["preset: paper fixes"]),
        ("iso_cts", {"common_fraction": 2}, ["0 to 1"]),
        ("subspace_boosting", {"inner": "slerp"}, ["merges weights"]),
        ("subspace_boosting", {"inner": "tsv_m"}, ["subspace method itself"]),
        ("subspace_boosting", {"inner": "nonsense"}, ["no method is called nonsense"]),
        ("core_space", {"inner": "karcher"}, ["merges weights"]),
        ("knots", {"inner": "sce"}, ["ties, dare_ties"]),
        ("pcb", {"ratio": 1.5}, ["0 to 1"]),
        ("sce", {"select_topk": -1}, ["0 to 1"]),
    ],
    ids=str,
)
def test_parameters_out_of_range_are_refused_before_any_work(qwen, tmp_path, capsys, method, parameters, words):
    file = write_recipe(tmp_path / "r.yml", qwen.recipe(method, parameters=parameters))
    assert run(["merge", str(file), "-o", str(tmp_path / "x")]) == 2
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert not (tmp_path / "x").exists()


def test_a_rank_above_the_matrix_keeps_everything(qwen, tmp_path):
    for name, rank in (("a", 32), ("b", 10**6)):
        chorus.merge(qwen.recipe("tsv_m", parameters={"rank": rank}), tmp_path / name)
    a, b = (load_all(tmp_path / n) for n in "ab")
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_one_model_alone_comes_back(qwen, tmp_path):
    for method in ("tsv_m", "knots", "core_space", "sce"):
        chorus.merge(qwen.recipe(method, 1, out_dtype="float32"), tmp_path / method)
        found, tuned = load_all(tmp_path / method), load_all(qwen.tuned[0])
        for name in tuned:
            assert torch.allclose(found[name], tuned[name], atol=1e-8), (method, name)


def test_more_models_than_directions(qwen, tmp_path):
    base, adapters = make_adapters(tmp_path, "qwen2", 5, r=8)
    recipe = recipe_of("boosted_tsv_m", base, adapters, weight=False, rank=8)  # 5 * 8 of 16 in the key and value
    chorus.merge(recipe, tmp_path / "model")
    chorus.merge_into_adapter(recipe, tmp_path / "adapter")
    assert all(bool(torch.isfinite(t).all()) for t in load_all(tmp_path / "model").values())


def test_extract_and_apply_go_there_and_back(qwen, tmp_path, capsys):
    tuned, base = str(qwen.tuned[0]), str(qwen.base)
    vector, model = str(tmp_path / "vector"), str(tmp_path / "model")
    assert run(["extract", "task-vector", "--model", tuned, "--base", base, "-o", vector]) == 0
    assert "50 tensors" in capsys.readouterr().err
    assert run(["apply", base, vector, "-o", model]) == 0
    assert capsys.readouterr().out.strip() == model
    found, wanted = load_all(tmp_path / "model"), load_all(qwen.tuned[0])
    assert all(torch.allclose(found[n], wanted[n], atol=1e-8) for n in wanted)
    assert run(["apply", tuned, vector, "--weight", "-1", "-o", str(tmp_path / "back"), "-q"]) == 0
    origin = load_all(qwen.base)
    assert all(torch.allclose(load_all(tmp_path / "back")[n], origin[n], atol=1e-8) for n in origin)


def test_apply_takes_several_deltas_with_a_weight_each(qwen, tmp_path, capsys):
    base = str(qwen.base)
    for i in (0, 1):
        given = ["--model", str(qwen.tuned[i]), "--base", base, "-o", str(tmp_path / f"v{i}"), "-q"]
        assert run(["extract", "task-vector", *given]) == 0
    deltas = [str(tmp_path / "v0"), str(tmp_path / "v1")]
    assert run(["apply", base, *deltas, "-w", "0.5", "-w", "-2", "-o", str(tmp_path / "m"), "-q"]) == 0
    origin, a, b = (load_all(p) for p in (qwen.base, *qwen.tuned[:2]))
    found = load_all(tmp_path / "m")
    for name in origin:
        wanted = origin[name] + 0.5 * (a[name] - origin[name]) - 2 * (b[name] - origin[name])
        assert torch.allclose(found[name], wanted, atol=1e-7)
    assert run(["apply", base, *deltas, "-w", "1", "-w", "2", "-w", "3", "-o", str(tmp_path / "n")]) == 2
    assert "3 weights for 2 deltas" in capsys.readouterr().err


def test_extract_lora_prints_energies_and_json(whisper, tmp_path, capsys):
    given = ["--model", str(whisper.tuned[0]), "--base", str(whisper.base)]
    assert run(["extract", "lora", *given, "-o", str(tmp_path / "a"), "--max-rank", "2", "--energies"]) == 0
    shown = capsys.readouterr()
    assert "energy kept" in shown.out
    assert "model.encoder.layers.0.fc1.weight" in shown.out
    assert "keep less than 80 %" in shown.err
    assert run(["extract", "lora", *given, "-o", str(tmp_path / "b"), "--encoder-only", "--json", "-q"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {m["tensor"].split(".")[1] for m in facts["modules"]} == {"encoder"}
    assert run(["extract", "lora", *given, "-o", str(tmp_path / "c"), "--encoder-only", "--decoder-only"]) == 2
    assert "exclude each other" in capsys.readouterr().err


def test_the_whisper_alias_takes_the_guides_flags(whisper, tmp_path, capsys):
    given = ["--model", str(whisper.tuned[0]), "--base-model", str(whisper.base), "--out-path", str(tmp_path / "a")]
    assert run(["extract-whisper-lora", *given, "--max-rank", "6", "--decoder-only", "--distribute-scale"]) == 0
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["r"] == 6
    assert config["base_model_name_or_path"] == "base"
    given[-1] = str(tmp_path / "b")
    assert run(["extract-whisper-lora", *given, "--sv-epsilon", "1e9"]) == 0
    assert "rank 0" in capsys.readouterr().err
    given[-1] = str(tmp_path / "c")
    assert run(["extract-whisper-lora", *given]) == 0
    config = json.loads((tmp_path / "c" / "adapter_config.json").read_text())
    assert config["r"] == 16  # 128 asked by default, and no matrix here has more than 16


def test_the_cast_that_erases_a_delta_is_reported(qwen, tmp_path, capsys):
    file = write_recipe(tmp_path / "r.yml", qwen.recipe("tsv_m", out_dtype="bfloat16"))
    assert run(["merge", str(file), "-o", str(tmp_path / "m")]) == 0
    assert "out_dtype: float32" in capsys.readouterr().err
    loss = json.loads((tmp_path / "m" / "chorus.json").read_text())["cast_loss"]
    assert loss["language_model attention"]["of_delta"] > 0.05
