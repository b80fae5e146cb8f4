"""Spectra and bases are computed once for the same deltas, and change no byte of a result."""

from __future__ import annotations

import json

import pytest
import torch

import chorus
from adapters import make_adapters, recipe_of
from chorus.cache import Cache, cache_key
from chorus.cli.main import run
from chorus.errors import UsageError
from models import files_of, load_all, write_model


@pytest.fixture
def count(monkeypatch):
    """How often something was decomposed, and how often bases were made orthogonal."""
    from chorus.linalg import polar, spectra
    from chorus.merge.methods import _bases

    calls = {"triplets": 0, "polar": 0}

    def counting(name, function):
        def wrapped(*args, **kwargs):
            calls[name] += 1
            return function(*args, **kwargs)

        return wrapped

    for name in ("singular_triplets", "smaller_side"):
        monkeypatch.setattr(_bases, name, counting("triplets", getattr(spectra, name)))
    monkeypatch.setattr(_bases, "polar_factor", counting("polar", polar.polar_factor))
    return calls


def merge(recipe, out, **options):
    chorus.merge(recipe, out, chorus.Options(**options))
    return files_of(out)


def test_another_beta_lambda_or_weight_costs_no_decomposition(qwen, tmp_path, count):
    recipe = qwen.recipe("boosted_tsv_m", out_dtype="float32")
    first = merge(recipe, tmp_path / "first")
    assert count == {"triplets": 3 * 28, "polar": 2 * 28}  # three models, seven matrices in each of four layers
    assert merge(recipe, tmp_path / "again") == first
    for i, changed in enumerate(({"beta": 0.6}, {"lambda": 0.5}, {"energy": "squared", "boost_on": "kept"})):
        cached = merge({**recipe, "parameters": changed}, tmp_path / f"cached-{i}")
        assert count == {"triplets": 3 * 28, "polar": 2 * 28}
        assert cached == merge({**recipe, "parameters": changed}, tmp_path / f"alone-{i}", reuse=False)
        count.update(triplets=3 * 28, polar=2 * 28)
        assert cached["model.safetensors"] != first["model.safetensors"]
    weighted = qwen.recipe("boosted_tsv_m", out_dtype="float32", each=[{"weight": w} for w in (0.5, 1.0, 2.0)])
    merge(weighted, tmp_path / "weighted")
    assert count == {"triplets": 3 * 28, "polar": 2 * 28}


def test_another_rank_costs_the_polar_factors(qwen, tmp_path, count):
    recipe = qwen.recipe("tsv_m", out_dtype="float32", parameters={"rank": 8})
    merge(recipe, tmp_path / "first")
    count.update(triplets=0, polar=0)
    smaller = merge({**recipe, "parameters": {"rank": 6}}, tmp_path / "smaller")
    assert count == {"triplets": 0, "polar": 2 * 28}
    assert smaller == merge({**recipe, "parameters": {"rank": 6}}, tmp_path / "alone", reuse=False)


def test_other_models_find_nothing(qwen, tmp_path, count):
    recipe = qwen.recipe("tsv_m", 2)
    merge(recipe, tmp_path / "first")
    count.update(triplets=0, polar=0)
    tensors = load_all(qwen.tuned[0])
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] += 1e-3
    changed = write_model(tmp_path / "changed", tensors, json.loads((qwen.base / "config.json").read_text()))
    recipe["models"][0]["model"] = str(changed)
    merge(recipe, tmp_path / "second")
    assert count == {"triplets": 1, "polar": 2}  # of the one tensor that differs


def test_adapters_are_remembered_too(tmp_path, count):
    base, adapters = make_adapters(tmp_path, "qwen2", 3)
    recipe = recipe_of("boosted_tsv_m", base, adapters, weight=False)
    chorus.merge_into_adapter(recipe, tmp_path / "first")
    assert count["polar"] == 2 * 12
    count.update(triplets=0, polar=0)
    chorus.merge_into_adapter({**recipe, "parameters": {"beta": 0.5}}, tmp_path / "second")
    assert count == {"triplets": 0, "polar": 0}


def test_a_bound_too_small_for_the_merge_is_not_thrashed(qwen, tmp_path, cache, monkeypatch, count):
    whole = chorus.plan(qwen.recipe("tsv_m")).cache_bytes
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", str(whole // 2))
    merge(qwen.recipe("tsv_m"), tmp_path / "first")
    kept = set(cache.rglob("*.safetensors"))
    assert 0 < sum(p.stat().st_size for p in kept) <= whole // 2
    merge(qwen.recipe("tsv_m", parameters={"lambda": 2.0}), tmp_path / "second")
    after = set(cache.rglob("*.safetensors"))
    assert kept <= after  # free room may be filled, but nothing makes room
    assert sum(p.stat().st_size for p in after) <= whole // 2
    assert count["polar"] < 4 * 28  # what was kept was found


def test_the_cache_can_be_turned_off(qwen, tmp_path, cache, monkeypatch):
    merge(qwen.recipe("tsv_m"), tmp_path / "a", reuse=False)
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "0")
    merge(qwen.recipe("tsv_m"), tmp_path / "b")
    assert not list(cache.rglob("*.safetensors"))
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "much")
    with pytest.raises(UsageError, match="not a size"):
        merge(qwen.recipe("tsv_m"), tmp_path / "c")


def test_damaged_entries_are_computed_again(qwen, tmp_path, cache):
    first = merge(qwen.recipe("tsv_m"), tmp_path / "a")
    for path in cache.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:50])
    assert merge(qwen.recipe("tsv_m"), tmp_path / "b") == first


def test_the_oldest_go_first_but_never_ones_own(tmp_path):
    def entry(n):
        return {"x": torch.full((1000,), float(n))}

    old = Cache(tmp_path, 20_000)
    for n in range(3):
        old.put(cache_key(n=n), entry(n))
    new = Cache(tmp_path, 20_000)
    assert new.get(cache_key(n=0)) is not None
    for n in range(3, 9):
        new.put(cache_key(n=n), entry(n))
    assert new.refused == 3
    assert [n for n in range(9) if new.get(cache_key(n=n)) is not None] == [0, 3, 4, 5]
    assert new.usage().entries == 4
    assert new.clear() > 16_000
    assert new.usage().bytes == 0


def test_the_command_shows_and_clears_it(qwen, tmp_path, cache, capsys):
    merge(qwen.recipe("tsv_m"), tmp_path / "a")
    assert run(["cache"]) == 0
    shown = capsys.readouterr().out
    assert str(cache) in shown
    assert "112 entries" in shown  # a basis and three spectra for each of 28 matrices
    assert run(["cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 112
    assert run(["cache", "clear"]) == 0
    assert "freed" in capsys.readouterr().out
    assert not list(cache.rglob("*.safetensors"))


def test_converted_models_are_counted_and_cleared(cache):
    from chorus.cache import CONVERTED, Cache

    model = cache / CONVERTED / "abc" / "model.bin"
    model.parent.mkdir(parents=True)
    model.write_bytes(b"x" * 1000)
    assert (Cache().usage().entries, Cache().usage().bytes) == (1, 1000)
    assert Cache().clear() == 1000
    assert not model.exists()
