"""Losses on the way between models, and states by layer, of a small Whisper on tones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

import chorus
from chorus.analyse.deltas import open_all
from chorus.analyse.live import AnalysedRows, load_live
from chorus.analyse.path import PathAnalysis, barrier
from chorus.analyse.states import POSITIONS, states_of
from chorus.errors import ChorusError, DataError, UsageError
from chorus.linalg.similarity import unbiased_hsic
from models import Family, load_all, write_model
from sounds import BASE, again, corpus, tiny


def tuned(place: Path, seed: int, spread: float = 0.05) -> Path:
    """The small Whisper, every learnt tensor moved a little."""
    draw = torch.Generator().manual_seed(seed)
    tensors = load_all(BASE)
    moved = {
        name: value if "encoder.embed_positions" in name else value + spread * value.abs().mean()
        * torch.randn(value.shape, generator=draw) for name, value in tensors.items()
    }  # fmt: skip
    write_model(place, moved, json.loads((BASE / "config.json").read_text()))
    for file in BASE.iterdir():
        if file.name not in ("model.safetensors", "README.md", "config.json"):
            (place / file.name).write_bytes(file.read_bytes())
    return place


@pytest.fixture
def pair(tmp_path: Path) -> Mapping[str, Path]:
    return {name: tuned(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))}


@pytest.fixture
def tones(tmp_path: Path) -> AnalysedRows:
    manifest, _ = corpus(tmp_path / "tones", 8)
    return AnalysedRows([str(manifest)], window_s=1, split="all", batch_size=3)


def ways(found: PathAnalysis) -> dict[str, list[float]]:
    return {path.name: path.mean for path in found.paths}


def test_losses_are_those_of_the_written_merges(pair: Mapping[str, Path], tones: AnalysedRows, tmp_path: Path) -> None:
    found = chorus.analyse_path(pair, BASE, tones, points=3, until=1.5)
    assert [path.name for path in found.paths] == ["base to a", "base to b", "a to b"]
    assert [path.at for path in found.paths] == [[0.0, 0.5, 1.0, 1.5], [0.0, 0.5, 1.0, 1.5], [0.0, 0.5, 1.0]]
    assert found.domains == {"d0": 4, "d1": 4}
    half = [{"model": str(one), "parameters": {"weight": 0.5}} for one in (BASE, pair["a"], pair["b"])]
    for name, models in (("base to a", half[:2]), ("a to b", half[1:])):
        chorus.merge({"merge_method": "linear", "out_dtype": "float32", "models": models}, tmp_path / name)
        written = chorus.analyse_path([tmp_path / name], BASE, tones, points=2)
        assert ways(found)[name][1] == pytest.approx(written.paths[0].mean[1], rel=1e-4)
    everyone = ways(found)
    assert everyone["a to b"][0] == everyone["base to a"][2], "an end is measured once"
    assert everyone["base to a"][0] == everyone["base to b"][0]
    assert everyone["base to a"][3] != everyone["base to a"][2]
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_loss_is_transformers_own_of_each_row(tones: AnalysedRows) -> None:
    live = load_live(open_all([BASE], BASE), str(BASE), tones)
    found = live.losses()
    alone = load_live(open_all([BASE], BASE), str(BASE), replace(tones, batch_size=1))
    for domain, batches in alone.batches.items():
        summed = tokens = 0.0
        for one in batches:
            # by hand, from the logits: the mean over tokens of -log p
            with torch.inference_mode(), alone.backbone.window(alone.backbone.model, one.batch):
                logits = alone.backbone.model(**one.batch).logits.double()
            labels = one.batch["labels"]
            chosen = torch.log_softmax(logits, -1).gather(-1, labels[..., None].clamp(min=0))[..., 0]
            summed -= float(chosen[labels != -100].sum())
            tokens += one.labels
        assert found[domain] == pytest.approx(summed / tokens, rel=2e-4)


def test_a_recipe_and_an_adapter_s_kind_of_model_lie_on_the_way_too(
    pair: Mapping[str, Path], tones: AnalysedRows, tmp_path: Path
) -> None:
    models = [{"model": str(one), "parameters": {"weight": 0.5}} for one in pair.values()]
    recipe = tmp_path / "m.yml"
    recipe.write_text(json.dumps({"merge_method": "task_arithmetic", "base_model": str(BASE), "models": models}))
    found = chorus.analyse_path([*pair.values(), recipe], BASE, tones, points=2, between=False)
    assert [path.end for path in found.paths] == ["a", "b", "m"]
    assert len({path.mean[1] for path in found.paths}) == 3


@given(st.lists(st.floats(0, 10), min_size=2, max_size=8))
def test_a_barrier_is_never_below_the_ends(losses: list[float]) -> None:
    at = [i / (len(losses) - 1) for i in range(len(losses))]
    found = barrier(at, losses)
    line = [(1 - a) * losses[0] + a * losses[-1] for a in at]
    inside = [loss - one for loss, one in zip(losses[1:-1], line[1:-1], strict=True)]
    assert found.height == pytest.approx(max([0.0, *inside]))
    assert barrier([*at, 1.5], [*losses, 99.0]) == found, "beyond 1 nothing counts"


def test_states_are_transformers_hidden_states_of_sound_and_of_learnt_tokens(tones: AnalysedRows) -> None:
    live = load_live(open_all([BASE], BASE), str(BASE), replace(tones, batch_size=8))
    states = states_of(live)["d0"]
    model = live.backbone.model
    layers = model.config.encoder_layers, model.config.decoder_layers
    assert list(states) == [*(f"encoder {i}" for i in range(layers[0])), *(f"decoder {i}" for i in range(layers[1]))]
    given = next(iter(live.batches.values()))[0]
    with torch.inference_mode(), live.backbone.window(model, given.batch):
        out = model(**given.batch, output_hidden_states=True)
    # behind the first of two layers; behind the last transformers gives them normed
    heard = out.encoder_hidden_states[1][0]
    length = int(given.seconds[0] * 50)
    assert length < len(heard), "the window is longer than the sound"
    places = [i * length // POSITIONS for i in range(POSITIONS)]
    assert torch.allclose(states["encoder 0"][:POSITIONS], heard[places], atol=1e-6)
    tokens = torch.nonzero(given.batch["labels"][0] != -100)[:, 0]
    count = min(POSITIONS, len(tokens))
    written = out.decoder_hidden_states[1][0][[int(tokens[i * len(tokens) // count]) for i in range(count)]]
    with torch.inference_mode():
        normed = model.get_decoder().layer_norm(states["decoder 0"][:count])  # its only layer is its last
    assert torch.allclose(normed, written, atol=1e-5)


def together(states: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Of all rows."""
    first = next(iter(states.values()))
    return {name: torch.cat([row[name] for row in states.values()]) for name in first}


def test_cka_is_its_formula_of_the_states(pair: Mapping[str, Path], tones: AnalysedRows) -> None:
    found = chorus.analyse_cka([pair["a"]], BASE, tones, merges={"m": pair["b"]})
    assert found.labels == ["base", "a", "m"]
    assert found.merges == ["m"]
    live = load_live(open_all([pair["a"]], BASE), str(BASE), tones)
    live.put({})
    first = together(states_of(live))
    live.put({0: 1.0})
    second = together(states_of(live))
    assert len(found.layers) == len(first)
    for layer in found.layers:
        x, y = first[layer.name].double(), second[layer.name].double()
        assert layer.examples == len(x)
        k, other = x @ x.T, y @ y.T
        wanted = unbiased_hsic(k, other) / (unbiased_hsic(k, k) * unbiased_hsic(other, other)) ** 0.5
        assert layer.cka[0][1] == pytest.approx(wanted, rel=1e-4)
        assert layer.cka[0][1] == layer.cka[1][0]
        assert layer.cka[0][0] == pytest.approx(1.0)
        assert layer.difference[0][1] == pytest.approx(float((x - y).abs().mean()), rel=1e-4)
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_pages_are_whole(pair: Mapping[str, Path], tones: AnalysedRows, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    way = chorus.analyse_path(pair, BASE, tones, points=2)
    page = chorus.write_analysis(way, tmp_path / "path").read_text()
    assert page.count("data:image/svg+xml") == 6, "two domains and their mean, from the base and between"
    assert "no barrier" in page
    page = chorus.write_analysis(chorus.analyse_cka(pair, BASE, tones), tmp_path / "cka").read_text()
    assert page.count("data:image/svg+xml") == 4
    assert "CKA by layer" in page


def test_rows_that_have_no_loss_are_refused_by_name(pair: Mapping[str, Path], tmp_path: Path) -> None:
    manifest, rows = corpus(tmp_path / "long", 4, seconds=1.5)
    with pytest.raises(DataError, match=r"1\.[56]\d* s, and the model is given 1 s"):
        chorus.analyse_path(pair, BASE, AnalysedRows([str(manifest)], window_s=1, split="all"))
    silent = again(tmp_path / "long", rows, "silent.csv", text="  ")
    with pytest.raises(ChorusError, match="no text"):
        chorus.analyse_path(pair, BASE, AnalysedRows([str(silent)], window_s=2, split="all"))


def test_what_makes_no_sense_is_refused(pair: Mapping[str, Path], tones: AnalysedRows, qwen: Family) -> None:
    with pytest.raises(UsageError, match="two ends"):
        chorus.analyse_path(pair, BASE, tones, points=1)
    with pytest.raises(UsageError, match=r"until 0\.5"):
        chorus.analyse_path(pair, BASE, tones, until=0.5)
    with pytest.raises(UsageError, match="one manifest where a list"):
        chorus.analyse_path(pair, BASE, "test.csv")
    with pytest.raises(ChorusError):
        chorus.analyse_cka(qwen.tuned[:1], qwen.base, tones)


def test_a_speech_llm_whose_file_names_its_tensors_otherwise(tmp_path: Path, tones: AnalysedRows) -> None:
    """At its end a path is the other model, as it is by itself."""
    base = tiny(tmp_path / "base", "qwen2_audio")
    moved = {
        n: v if "embed_positions" in n else v + 0.3 * v.abs().mean() * torch.randn(v.shape)
        for n, v in load_all(base).items()
    }
    shutil.copytree(base, tmp_path / "a")
    save_file({n: v.contiguous() for n, v in moved.items()}, tmp_path / "a" / "model.safetensors", {"format": "pt"})
    there = chorus.analyse_path({"a": tmp_path / "a"}, base, tones, points=2, until=1.0).paths[0].mean
    back = chorus.analyse_path({"base": base}, tmp_path / "a", tones, points=2, until=1.0).paths[0].mean
    assert there[-1] == pytest.approx(back[0], rel=1e-5)
    assert there[0] == pytest.approx(back[-1], rel=1e-5)
    assert abs(there[0] - there[-1]) > 1e-3
