"""Analyses of weights against their formulas in float64, factors against whole matrices, merges against recipes."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import chorus
from adapters import make_adapters
from chorus.analyse.facts import WeightAnalysis, WeightGroup
from chorus.analyse.weights_report import _agreement, tables_of
from chorus.analyse.weights_report import cosine as cosine_of
from chorus.errors import ChorusError, UsageError
from chorus.extract.pair import Selection
from chorus.linalg.low_rank import LowRank
from models import Family, copy_model, load_all, write_recipe


def differences(base: Path, tuned: Path) -> dict[str, np.ndarray]:
    """In float64, of the tensors as they lie in the files."""
    origin, other = load_all(base), load_all(tuned)
    return {name: (other[name].double() - origin[name].double()).numpy() for name in origin}


def matrix(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1)


def is_matrix(x: np.ndarray) -> bool:
    return x.ndim > 1 and min(matrix(x).shape) > 1


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def largest(x: np.ndarray, density: float) -> np.ndarray:
    """Of float32 values, of equal ones those of lowest index."""
    order = np.argsort(-np.abs(x.astype(np.float32)), axis=None, kind="stable")
    mask = np.zeros(x.size, bool)
    mask[order[: max(1, int(density * x.size))]] = True
    return mask.reshape(x.shape)


def near(found: float | None, wanted: float, tolerance: float = 2e-5) -> None:
    assert found == pytest.approx(wanted, rel=tolerance, abs=1e-6)


def check_spectrum(found: Any, delta: np.ndarray) -> None:
    s = np.linalg.svd(matrix(delta), compute_uv=False)
    s = s[s > 1e-5 * s[0]]
    p = s / s.sum()
    assert (found.matrices, found.full, found.rank) == (1, min(matrix(delta).shape), len(s))
    near(found.effective, math.exp(-(p * np.log(p)).sum()))
    near(found.stable, (s**2).sum() / s[0] ** 2)
    near(found.participation, (s**2).sum() ** 2 / (s**4).sum())
    held = np.cumsum(s**2) / (s**2).sum()
    assert found.energies == {str(e): int((held < e).sum()) + 1 for e in (0.9, 0.95, 0.99)}


def check_overlap(found: Any, a: np.ndarray, b: np.ndarray, energy: float) -> None:
    """|U_a^T U_b|^2 / min(r) and the angles, by numpy's SVD of the whole matrices."""
    (ua, sa, va), (ub, sb, vb) = (np.linalg.svd(matrix(x), full_matrices=False) for x in (a, b))
    ra, rb = (int((np.cumsum(s**2) / (s**2).sum() < energy).sum()) + 1 for s in (sa, sb))
    for side, x, y in ((found.left, ua[:, :ra], ub[:, :rb]), (found.right, va[:ra].T, vb[:rb].T)):
        cosines = np.linalg.svd(x.T @ y, compute_uv=False).clip(max=1)
        near(side.overlap, float((cosines**2).mean()))
        near(side.chance, max(ra, rb) / len(x))
        assert side.smallest == pytest.approx(np.degrees(np.arccos(cosines)).min(), abs=0.05)
        assert side.mean == pytest.approx(np.degrees(np.arccos(cosines)).mean(), abs=0.05)


@pytest.mark.parametrize("kind", ["qwen", "whisper"])
def test_every_tensor_s_numbers_are_their_formulas(kind: str, request: pytest.FixtureRequest) -> None:
    family: Family = request.getfixturevalue(kind)
    found = chorus.analyse_weights(family.tuned[:2], family.base, density=0.3)
    assert found.models == ["tuned-0", "tuned-1"]
    first, second = (differences(family.base, path) for path in family.tuned[:2])
    origin, seen = load_all(family.base), 0
    for tensor in found.tensors:
        a, b, one = first[tensor.numbers.name], second[tensor.numbers.name], tensor.numbers
        (pair,) = one.pairs
        for label, delta in (("tuned-0", a), ("tuned-1", b)):
            near(one.deltas[label].norm, float(np.linalg.norm(delta)))
            weight = float(origin[one.name].double().norm())
            if weight:
                near(one.deltas[label].relative, float(np.linalg.norm(delta)) / weight)
            else:
                assert one.deltas[label].relative is None
        assert pair.cosine == pytest.approx(cosine(a, b), abs=1e-5)
        both = (a != 0) & (b != 0)
        near(pair.conflict, float((a * b < 0)[both].mean()))
        top = largest(a, 0.3) & largest(b, 0.3)
        assert pair.both == top.sum()
        if top.any():
            near(pair.conflict_largest, float((a * b < 0)[top].mean()))
        elected = np.maximum(np.maximum(a, 0) + np.maximum(b, 0), np.maximum(-a, 0) + np.maximum(-b, 0)).sum()
        near(one.elected, float(elected / (np.abs(a) + np.abs(b)).sum()))
        if is_matrix(a) and a.size < 10_000:
            seen += 1
            check_spectrum(one.deltas["tuned-0"].spectrum, a)
            check_overlap(pair, a, b, 0.9)
    assert seen > 10
    learnt = {n for n, d in first.items() if d.any()}
    assert {t.numbers.name for t in found.tensors} >= learnt


def test_groups_are_those_of_all_their_values_together(whisper: Family) -> None:
    found = chorus.analyse_weights(whisper.tuned[:2], whisper.base, selection=Selection(exclude=("embed_tokens",)))
    first, second = (differences(whisper.base, path) for path in whisper.tuned[:2])
    members = {t.numbers.name: t for t in found.tensors}
    counted = 0
    for column in ("all", "component", "kind", "layer"):
        for group in found.groups[column]:
            where = {"all": lambda t: "all", "component": lambda t: t.component, "kind": lambda t: t.kind,
                     "layer": lambda t: t.layer}[column]  # fmt: skip
            names = [name for name, tensor in members.items() if where(tensor) == group.name]
            a, b = (np.concatenate([x[name].ravel() for name in names]) for x in (first, second))
            assert (group.tensors, group.values) == (len(names), a.size)
            near(group.deltas["tuned-0"].norm, float(np.linalg.norm(a)))
            assert group.pairs[0].cosine == pytest.approx(cosine(a, b), abs=1e-5)
            near(group.pairs[0].conflict, float((a * b < 0)[(a != 0) & (b != 0)].mean()))
            spectra = [s for n in names if (s := members[n].numbers.deltas["tuned-0"].spectrum) is not None]
            told = group.deltas["tuned-0"].spectrum
            assert (told is None) == (not spectra)
            if told is not None:
                near(told.effective, sum(s.effective for s in spectra) / len(spectra))
                assert told.matrices == len(spectra)
            counted += 1
    assert counted > 12
    layers = [group.name for group in found.groups["layer"]]
    assert layers == ["encoder 0", "encoder 1", "decoder 0", "decoder 1", "decoder 2"], "an encoder's 0 is another's"


def plain(group: WeightGroup) -> dict[str, float]:
    """All numbers of a group under one name each."""
    found: dict[str, float] = {}

    def walk(value: object, name: str) -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                walk(one, f"{name}.{key}")
        elif isinstance(value, list):
            for i, one in enumerate(value):
                walk(one, f"{name}.{i}")
        elif isinstance(value, int | float):
            found[name] = float(value)

    from dataclasses import asdict

    walk(asdict(group), "")
    return found


@pytest.mark.parametrize("kind", ["qwen2", "whisper"])
def test_adapters_are_what_their_whole_models_are_and_stay_factors(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, adapters = make_adapters(tmp_path, kind, 2)
    whole = []
    for i, adapter in enumerate(adapters):
        whole.append(tmp_path / f"whole-{i}")
        chorus.apply(str(base), str(adapter), whole[-1], out_dtype="float32")
    # the embedding of a Whisper is not touched, and large
    selection = Selection(exclude=("embed_tokens",))
    dense = chorus.analyse_weights(dict(zip("ab", whole, strict=True)), base, selection=selection)

    def refuse(self: LowRank) -> torch.Tensor:
        raise AssertionError("a product was formed")

    monkeypatch.setattr(LowRank, "dense", refuse)
    factored = chorus.analyse_weights(dict(zip("ab", adapters, strict=True)), base, selection=selection)
    assert factored.models == ["a", "b"]
    compared = 0
    for one, other in zip(factored.tensors, dense.tensors, strict=True):
        assert one.numbers.name == other.numbers.name
        if other.numbers.deltas["a"].norm == 0:
            assert one.numbers.deltas["a"].norm == 0
            continue
        left, right = plain(one.numbers), plain(other.numbers)
        # of a difference of rounded weights the rank is anything: what lies below is rounding
        keys = [k for k in right if not k.endswith((".rank", ".both")) and "conflict" not in k]
        for key in keys:
            loose = 0.05 if "smallest" in key or "mean" in key else 3e-3
            assert left[key] == pytest.approx(right[key], rel=3e-3, abs=loose), (one.numbers.name, key)
        spectrum = one.numbers.deltas["a"].spectrum
        assert spectrum is not None
        assert spectrum.rank == 4
        compared += 1
    assert compared == (12 if kind == "qwen2" else sum("bias" not in n for n in _touched(factored)))


def _touched(found: WeightAnalysis) -> list[str]:
    return [t.numbers.name for t in found.tensors if t.numbers.deltas["a"].norm]


def test_a_merge_holds_of_each_what_its_recipe_says(qwen: Family, tmp_path: Path) -> None:
    """A weighted sum of deltas: <w1 d1 + w2 d2, d1> / |d1|^2, tensor by tensor, of the recipe and of what it writes."""
    made = qwen.recipe("task_arithmetic", 2, each=[{"weight": 0.7}, {"weight": 0.2}], out_dtype="float32")
    recipe = write_recipe(tmp_path / "sum.yml", made)
    chorus.merge(recipe, tmp_path / "written")
    planned = chorus.analyse_weights(qwen.tuned[:2], qwen.base, merges={"m": recipe})
    written = chorus.analyse_weights([*qwen.tuned[:2], tmp_path / "written"], qwen.base)
    assert (written.models, written.merges) == (["tuned-0", "tuned-1"], ["written"]), "it says so itself"
    first, second = (differences(qwen.base, path) for path in qwen.tuned[:2])
    checked = 0
    for found, merge in ((planned, "m"), (written, "written")):
        for tensor in found.tensors:
            a, b = first[tensor.numbers.name], second[tensor.numbers.name]
            if not a.any():
                continue
            on_first, on_second = tensor.numbers.merges
            assert (on_first.merge, on_first.model, on_second.model) == (merge, "tuned-0", "tuned-1")
            merged = 0.7 * a + 0.2 * b
            # deltas of 3e-4 beside weights of 1: rounding of the written weights
            assert on_first.projection == pytest.approx((merged * a).sum() / (a * a).sum(), abs=2e-3)
            assert on_second.cosine == pytest.approx(cosine(merged, b), abs=2e-3)
            checked += 1
    assert checked > 40
    assert planned.all.merges[0].projection == pytest.approx(0.7, abs=0.02), "two random deltas hardly meet"


def test_a_merge_elects_nothing_and_is_no_model(qwen: Family, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path / "m.yml", qwen.recipe("ties", 2, parameters={"density": 0.5}))
    alone = chorus.analyse_weights(qwen.tuned[:2], qwen.base)
    merged = chorus.analyse_weights([*qwen.tuned[:2], recipe], qwen.base)
    assert merged.labels == ["tuned-0", "tuned-1", "m"]
    assert merged.all.elected == pytest.approx(alone.all.elected)
    assert merged.all.pairs[0] == alone.all.pairs[0]


def test_a_model_that_changed_nothing_has_no_direction(qwen: Family, tmp_path: Path) -> None:
    shutil.copytree(qwen.base, tmp_path / "same")
    found = chorus.analyse_weights([tmp_path / "same", qwen.tuned[0]], qwen.base)
    assert found.all.deltas["same"].norm == 0
    assert found.all.deltas["same"].spectrum is None
    (pair,) = found.all.pairs
    assert (pair.cosine, pair.conflict, pair.left) == (None, None, None)
    assert "-" in tables_of(found)[0].rows[0]
    json.dumps(found.as_dict(), allow_nan=False)


def test_half_precision_is_read_as_it_is(qwen: Family, tmp_path: Path) -> None:
    half = copy_model(qwen.tuned[0], tmp_path / "half", dtype=torch.bfloat16)
    found = chorus.analyse_weights([half], qwen.base)
    wanted = math.sqrt(sum((d**2).sum() for d in differences(qwen.base, half).values()))
    near(found.all.deltas["half"].norm, wanted)


def test_without_spectra_nothing_is_decomposed(qwen: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decomposed")

    monkeypatch.setattr("chorus.analyse.sums.singular_triplets", refuse)
    found = chorus.analyse_weights(qwen.tuned[:2], qwen.base, spectra=False)
    assert found.all.deltas["tuned-0"].spectrum is None
    assert found.all.pairs[0].cosine is not None


def test_threads_change_no_number(qwen: Family) -> None:
    one, many = (chorus.analyse_weights(qwen.tuned, qwen.base, jobs=jobs).as_dict() for jobs in (1, 4))
    assert one == many


def test_the_page_has_everything_and_loads_nothing(qwen: Family, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    recipe = write_recipe(tmp_path / "m.yml", qwen.recipe("linear", 2))
    found = chorus.analyse_weights(qwen.tuned[:2], qwen.base, merges=[recipe])
    page = chorus.write_analysis(found, tmp_path / "out").read_text()
    assert page.count("data:image/svg+xml") == 8
    assert "http" not in page.replace("http://www.w3.org", "")
    for words in ("By layer", "By kind", "By component", "What a merge holds of each model"):
        assert words in page
    told = json.loads((tmp_path / "out" / "weights.json").read_text())
    assert told["models"] == ["tuned-0", "tuned-1"]
    assert len(told["tensors"]) == len(found.tensors)
    assert {p.suffix for p in (tmp_path / "out" / "plots").iterdir()} == {".png", ".svg"}


def test_many_pairs_are_drawn_as_their_mean_and_range(qwen: Family) -> None:
    found = chorus.analyse_weights({f"m{i}": qwen.tuned[i % 3] for i in range(5)}, qwen.base, spectra=False)
    panel = _agreement(found, cosine_of, "cosine", 0.0)
    assert list(panel.lines) == ["mean of pairs"]
    first = found.groups["layer"][0]
    told = [pair.cosine for pair in first.pairs if pair.cosine is not None]
    assert len(told) == 10
    assert panel.lines["mean of pairs"][0] == pytest.approx(sum(told) / 10)
    assert panel.bands["mean of pairs"][0] == (min(told), max(told))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"density": 0.0}, "density must lie above 0"),
        ({"energy": 1.5}, "energy must lie above 0"),
        ({"selection": Selection(include=("no such tensor",))}, "no tensor is selected"),
        ({"models": []}, "no model to analyse"),
        ({"models": "text"}, "one model where a list is wanted for"),
    ],
)
def test_what_makes_no_sense_is_refused(qwen: Family, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        chorus.analyse_weights(**{"models": qwen.tuned[:1], "base": qwen.base, **change})


def test_models_of_another_base_are_refused(qwen: Family, whisper: Family) -> None:
    with pytest.raises(ChorusError, match="is a Qwen2ForCausalLM"):
        chorus.analyse_weights([qwen.tuned[0]], whisper.base)
    with pytest.raises(UsageError, match="merges and no model"):
        chorus.analyse_weights([], qwen.base, merges=[qwen.tuned[0]])
