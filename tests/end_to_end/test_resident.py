"""Merges in memory, many after another: the tensors of the plan, whatever was merged before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapters import make_adapters, recipe_of
from chorus.merge.method import METHODS
from chorus.merge.options import Options
from chorus.merge.planning.planner import plan
from chorus.merge.runs.resident import Resident, Store
from models import Family
from sounds import tiny, tone

PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "ties": [{"density": 0.4, "lambda": 0.5}, {"density": 0.4, "lambda": 1.3}, {"density": 0.7}],
    "dare_ties": [{"density": 0.5, "lambda": 0.5}, {"density": 0.5}],
    "boosted_tsv_m": [{"beta": 0.2, "lambda": 0.5}, {"beta": 0.2}, {"beta": 0.8}, {"beta": 0.2, "rank_fraction": 1.0}],
    "slerp": [{"t": 0.3}],
    "nuslerp": [{"weight": 1.0}],
}
TWO = ("slerp", "nuslerp")
ONE = ("passthrough",)


def recipe(method: Any, family: Family, parameters: dict[str, Any]) -> dict[str, Any]:
    count = 1 if method.name in ONE else 2 if method.name in TWO else 3
    given = dict(parameters)
    weight = method.parameters.get("weight")
    if weight is not None and weight.required:
        given.setdefault("weight", 1.0)
    made: dict[str, Any] = {
        "merge_method": method.name, "models": [{"model": str(p)} for p in family.tuned[:count]], "parameters": given,
        "seed": 3,
    }  # fmt: skip
    return {**made, "base_model": str(family.base)} if method.base == "required" else made


def test_every_method_gives_the_plans_tensors_in_any_order(whisper: Family) -> None:
    """Settings of all methods mixed, one store for all: what one left there must not show in another."""
    resident, compared = Resident(), 0
    jobs = [(m, p) for m in METHODS for p in PARAMETERS.get(m.name, [{}])]
    plans = [plan(recipe(m, whisper, p), Options(jobs=2, reuse=False)) for m, p in jobs]
    alone = [{name: planned[name].read() for name in planned} for planned in plans]
    for i in [*range(len(jobs)), *reversed(range(len(jobs)))]:
        method, _ = jobs[i]
        found = resident.merge(plans[i])
        assert list(found) == list(plans[i])
        for name, tensor in found.items():
            expected = alone[i][name]
            assert tensor.value.dtype == expected.dtype
            scale = float(expected.abs().max()) or 1.0
            assert float((tensor.value.double() - expected.double()).abs().max()) <= 1e-6 * scale, (method.name, name)
            compared += 1
    assert compared > 2 * len(METHODS) * 30


def test_lambda_is_a_factor_of_the_merged_delta(whisper: Family) -> None:
    """What lets a sweep merge once for all values of lambda holds for every method that has it."""
    seen = 0
    for method in METHODS:
        if "lambda" not in method.parameters or method.space != "deltas":
            continue
        seen += 1
        once, twice = (
            plan({**recipe(method, whisper, {"lambda": factor}), "dtype": "float32"}) for factor in (0.5, 1.0)
        )
        base = plan({"merge_method": "passthrough", "models": [{"model": str(whisper.base)}]})
        for name in (
            "model.encoder.layers.0.fc1.weight",
            "model.decoder.embed_tokens.weight",
            "model.encoder.conv1.bias",
        ):
            origin = base[name].read().double()
            half, whole = (p[name].read().double() - origin for p in (once, twice))
            assert torch.allclose(2 * half, whole, atol=2e-6, rtol=1e-4), (method.name, name)
    assert seen >= 14


def test_a_full_store_computes_again_instead_of_growing(whisper: Family) -> None:
    method = METHODS.get("ties")
    planned = plan(recipe(method, whisper, {"density": 0.5}))
    small, large = Resident(budget_bytes=1000), Resident()
    a, b = small.merge(planned), large.merge(planned)
    assert small.store.used <= 1000 < large.store.used
    assert all(torch.equal(a[n].value, b[n].value) for n in a)


def test_the_store_keeps_the_first_value_of_a_key() -> None:
    store = Store(budget_bytes=64)
    first = torch.ones(4)
    store.keep("a", first)
    store.keep("a", torch.zeros(4))
    store.keep("b", torch.ones(100))
    assert store.values["a"] is first
    assert "b" not in store.values
    store.put("c", {"left": first})
    store.put("d", {"left": torch.ones(9)})
    assert store.get("c") == {"left": first}
    assert store.get("d") is None, "no room is left"


@pytest.mark.parametrize("method", ["tsv_m", "ties"])
def test_adapters_merge_in_memory_too(method: str, tmp_path: Path) -> None:
    base, paths = make_adapters(tmp_path, "whisper", 2)
    planned = plan(recipe_of(method, base, paths))
    found = Resident().merge(planned)
    assert len(found) == len(planned)
    for name, tensor in found.items():
        expected = planned[name].read().double()
        assert torch.allclose(tensor.value.double(), expected, atol=1e-6 * float(expected.abs().max())), name


@pytest.mark.parametrize("kind", ["qwen2_audio", "omni", "qwen3_asr", "voxtral", "wav2vec2"])
def test_models_that_rename_their_weights_are_loaded_anew(kind: str, tmp_path: Path) -> None:
    """Merges of speech language models are heard from memory as from disk, one after the other."""
    import chorus
    from chorus.data.audio import write_flac
    from chorus.data.manifest import Row, write_manifest
    from chorus.evaluate.run import Scoring, evaluate, run_request
    from chorus.transcribe.decoding import Decoding
    from chorus.transcribe.loaded import LoadedBackend
    from chorus.transcribe.request import Request
    from chorus.transcribe.systems import open_system
    from chorus.transcribe.test_sets import load_test_set

    models = [tiny(tmp_path / f"m{i}", kind, seed=i) for i in range(3)]
    write_flac(tmp_path / "a.flac", tone(0.8))
    test = load_test_set([write_manifest([Row("a.flac", "one", "en", root=tmp_path)], tmp_path / "m.csv")])
    loaded, settings = LoadedBackend(), Decoding(max_new_tokens=6)
    for i in (1, 2):
        recipe = {
            "merge_method": "linear", "models": [{"model": str(models[0])}, {"model": str(models[i])}],
            "parameters": {"weight": 1.0}, "out_dtype": "float32",
        }  # fmt: skip
        planned = plan(recipe)
        request = Request(open_system(planned, label=f"s{i}"), test, settings)
        backend = loaded.with_weights(request, Resident().merge(planned))
        ours = run_request(request, tmp_path / f"ours{i}", Scoring("raw"), lambda done, total: None, backend)
        chorus.merge(recipe, tmp_path / f"merged{i}")
        theirs = evaluate(str(tmp_path / f"merged{i}"), test, tmp_path / f"t{i}", decoding=settings, device="cpu")
        assert ours.summary["all"]["failed"] == 0, ours.rows
        assert ours.rows[0]["hypothesis"] == theirs.rows[0]["hypothesis"]
