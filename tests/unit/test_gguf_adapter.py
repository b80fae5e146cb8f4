"""A LoRA as llama.cpp's file: on the base's file its factors make the model that PEFT makes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chorus
from chats import language_model
from chorus.checkpoints.adapter import open_adapter
from chorus.checkpoints.adapter_places import apply_adapter
from chorus.cli.main import run
from chorus.errors import CheckpointError, UsageError

gguf = pytest.importorskip("gguf")
peft = pytest.importorskip("peft")
TARGETS = ["q_proj", "k_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bases")
    kinds = {"qwen2": True, "llama3": False}
    return {kind: language_model(folder / kind, kind, tie_word_embeddings=tied) for kind, tied in kinds.items()}


def adapter(place: Path, base: Path, **config: Any) -> tuple[Path, dict[str, np.ndarray]]:
    """An adapter's directory, and the weights that PEFT merges it to, under GGUF's names and in its order of rows."""
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": TARGETS, **config})
    on_it = peft.get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in on_it.named_parameters():
            if ".lora_" in name and settings.init_lora_weights != "pissa":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif ".lora_B" in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    on_it.save_pretrained(place)
    merged = on_it.merge_and_unload()
    plain = place.with_name(f"{place.name}-merged")
    merged.save_pretrained(plain)
    path = chorus.export(plain, plain / "m.gguf", "gguf", types="f32", tokenizer=base).places["f32"]
    return place, values_of(path)


def values_of(path: Path) -> dict[str, np.ndarray]:
    reader = gguf.GGUFReader(path)
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in reader.tensors}


def key(path: Path, name: str) -> Any:
    return gguf.GGUFReader(path).fields[name].contents()


def applied(base: Path, path: Path) -> dict[str, np.ndarray]:
    """What llama.cpp computes with: W + alpha / r B A, r by B's columns; of an embedding the rows of A by token."""
    weights, factors = values_of(base), values_of(path)
    alpha = key(path, "adapter.lora.alpha")
    for name in [n.removesuffix(".lora_a") for n in factors if n.endswith(".lora_a")]:
        a, b = factors[f"{name}.lora_a"], factors[f"{name}.lora_b"]
        change = (b @ a.T).T if name == "token_embd.weight" else b @ a
        assert change.shape == weights[name].shape
        weights[name] = weights[name] + alpha / b.shape[1] * change
    return weights


def assert_same(found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], count: int, base: Path) -> None:
    before = values_of(base)
    changed = [name for name in wanted if not np.array_equal(wanted[name], before[name])]
    assert len(changed) == count
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert np.allclose(found[name], value, rtol=0, atol=2e-6), name


@pytest.fixture(scope="module")
def files(bases: dict[str, Path]) -> dict[str, Path]:
    return {k: chorus.export(p, p.parent / f"{k}.gguf", "gguf", types="f32").places["f32"] for k, p in bases.items()}


@pytest.mark.parametrize("kind", ["qwen2", "llama3"])
@pytest.mark.parametrize(
    ("config", "alpha"),
    [
        ({}, 6.0),
        ({"use_rslora": True}, 6 * math.sqrt(4)),
        ({"alpha_pattern": {"q_proj": 12, "k_proj": 5}, "rank_pattern": {"v_proj": 2}}, 6.0),
        ({"init_lora_weights": "pissa", "lora_alpha": 4}, 8.0),
    ],
    ids=["plain", "rslora", "patterns", "pissa"],
)
def test_on_the_base_s_file_it_is_the_merged_model(bases, files, tmp_path, kind, config, alpha):
    place, merged = adapter(tmp_path / "a", bases[kind], **config)
    path = chorus.export(place, tmp_path / "a.gguf", "gguf-adapter").places["f32"]
    assert key(path, "general.type") == "adapter"
    assert key(path, "general.architecture") == {"qwen2": "qwen2", "llama3": "llama"}[kind]
    assert key(path, "adapter.type") == "lora"
    assert key(path, "adapter.lora.alpha") == pytest.approx(alpha)
    tensors = gguf.GGUFReader(path).tensors
    assert len(tensors) == 2 * 2 * len(TARGETS)
    assert all(t.name.startswith("blk.") and t.name.endswith((".weight.lora_a", ".weight.lora_b")) for t in tensors)
    assert_same(applied(files[kind], path), merged, 2 * len(TARGETS), files[kind])


def test_embedding_and_head_of_an_untied_model(bases, files, tmp_path):
    place, merged = adapter(tmp_path / "a", bases["llama3"], target_modules=["embed_tokens", "lm_head", "q_proj"])
    path = chorus.export(place, tmp_path / "a.gguf", "gguf-adapter").places["f32"]
    assert_same(applied(files["llama3"], path), merged, 4, files["llama3"])


def test_a_tied_embedding_is_refused(bases, tmp_path):
    place, _ = adapter(tmp_path / "a", bases["qwen2"], target_modules=["embed_tokens", "q_proj"])
    with pytest.raises(CheckpointError, match="has as its head") as caught:
        chorus.export(place, tmp_path / "a.gguf", "gguf-adapter")
    assert "without --adapter" in caught.value.hint


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"use_dora": True}, "DoRA's, which scales the base's rows too"),
        ({"modules_to_save": ["lm_head"]}, "trained whole"),
        ({"bias": "all"}, "trained whole"),
        ({"lora_bias": True}, "a bias of the adapter's own"),
    ],
)
def test_what_no_factors_are_is_refused(bases, tmp_path, config, told):
    base = bases["llama3"] if "bias" not in str(config) else language_model(tmp_path / "b", "qwen2")
    targets = ["q_proj", "k_proj", "v_proj"] if "lora_bias" in config else TARGETS
    place, _ = adapter(tmp_path / "a", base, target_modules=targets, **config)
    with pytest.raises(CheckpointError, match=told):
        chorus.export(place, tmp_path / "a.gguf", "gguf-adapter")
    assert not list(tmp_path.glob("a.gguf*"))


def test_two_adapters_or_none_are_refused(bases, tmp_path):
    place, _ = adapter(tmp_path / "a", bases["llama3"])
    other, _ = adapter(tmp_path / "b", bases["llama3"], target_modules=["q_proj"])
    twice = apply_adapter(chorus.open_model(f"{bases['llama3']}+{place}"), open_adapter(other, "other"), "twice")
    with pytest.raises(CheckpointError, match="more than one adapter"):
        chorus.export(twice, tmp_path / "a.gguf", "gguf-adapter")
    with pytest.raises(CheckpointError, match="no LoRA adapter is on it"):
        chorus.export(bases["llama3"], tmp_path / "a.gguf", "gguf-adapter")


def test_ranks_that_a_type_does_not_allow(bases, files, tmp_path):
    place, _ = adapter(tmp_path / "a", bases["llama3"])
    with pytest.raises(CheckpointError, match="rows of 4 values are no whole blocks of 32") as caught:
        chorus.export(place, tmp_path / "a.gguf", "gguf-adapter", types="q8_0")
    assert "--type f16" in caught.value.hint
    place, merged = adapter(tmp_path / "b", bases["llama3"], r=32, lora_alpha=1)
    path = chorus.export(place, tmp_path / "b.gguf", "gguf-adapter", types="q8_0").places["q8_0"]
    for name, value in applied(files["llama3"], path).items():
        assert np.allclose(value, merged[name], atol=0.02), name
    with pytest.raises(UsageError, match='no type "q4_0"'):
        chorus.export(place, tmp_path / "c.gguf", "gguf-adapter", types="q4_0")


def test_merged_on_its_base_it_is_a_model_s_file(bases, tmp_path):
    place, merged = adapter(tmp_path / "a", bases["llama3"])
    path = chorus.export(f"{bases['llama3']}+{place}", tmp_path / "m.gguf", "gguf", types="f32").places["f32"]
    found = values_of(path)
    assert all(np.allclose(found[name], value, rtol=0, atol=2e-6) for name, value in merged.items())


# ---- the command line ----


def test_chorus_export_writes_an_adapter_and_ollama_s_file(bases, tmp_path, capsys):
    place, _ = adapter(tmp_path / "mine", bases["llama3"])
    out = tmp_path / "out"
    out.mkdir()
    assert run(["export", str(place), "--to", "gguf", "--adapter", "--modelfile", "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out / 'mine-f32.gguf'}\n"
    text = (out / "Modelfile").read_text()
    assert "\nFROM ./llama3.gguf\nADAPTER ./mine-f32.gguf\n" in text
    assert sorted(p.name for p in out.iterdir()) == ["Modelfile", "mine-f32.gguf", "mine-f32.gguf.json"]
    facts = json.loads((out / "mine-f32.gguf.json").read_text())
    assert facts["format"] == "gguf-adapter"
    assert facts["modules"] == 8
    assert str(tmp_path) not in json.dumps(facts)


def test_chorus_export_writes_several_types_by_llama_cpp_s_names(bases, tmp_path):
    assert run(["export", str(bases["qwen2"]), "--to", "gguf", "--type", "f16,q8_0", "-o", str(tmp_path / "out")]) == 0
    assert sorted(p.name for p in (tmp_path / "out").glob("*.gguf")) == ["qwen2-f16.gguf", "qwen2-q8_0.gguf"]


def test_adapters_of_other_formats_fail_with_the_one_that_has_them(bases, tmp_path, capsys):
    assert run(["export", str(bases["qwen2"]), "--to", "ggml", "--adapter", "-o", str(tmp_path / "x")]) == 2
    assert "ggml has no adapters by themselves, gguf has" in capsys.readouterr().err
