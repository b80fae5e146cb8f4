"""Differences cut to ranks and scaled, against float64; and the grid of a small Whisper on real digits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import chorus
from adapters import make_adapters
from chorus.analyse.cut import Cut
from chorus.analyse.evaluated import EvaluatedRows
from chorus.analyse.overfitting import OverfittingAnalysis, RankAndWeights
from chorus.errors import CheckpointError, UsageError
from chorus.extract.pair import open_pair
from digits import as_model, some_digits, spoilt_whisper
from models import Family, load_all
from sounds import BASE

PAIR = ("theo", "yweweler")
DECODING = {"window_s": [1], "max_new_tokens": 4}


def cut_by_svd(delta: torch.Tensor, rank: int) -> np.ndarray:
    """The best approximation of a rank, by LAPACK in float64."""
    wide = delta.double().flatten(1).numpy()
    u, s, vh = np.linalg.svd(wide, full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ vh[:rank]).reshape(delta.shape)


def share_by_svd(deltas: list[torch.Tensor], rank: int) -> float:
    values = [np.linalg.svd(d.double().flatten(1).numpy(), compute_uv=False) for d in deltas]
    return sum(float((s[:rank] ** 2).sum()) for s in values) / sum(float((s**2).sum()) for s in values)


@pytest.mark.parametrize("rank", [1, 3, 20])
@pytest.mark.parametrize("weight", [0.5, -1.5])
def test_a_cut_model_is_the_base_and_the_best_approximation_of_its_difference(
    qwen: Family, rank: int, weight: float
) -> None:
    cut = Cut(open_pair(qwen.tuned[0], qwen.base), "tuned", 20)
    base, tuned = load_all(qwen.base), load_all(qwen.tuned[0])
    found = cut.tensors(rank, weight)
    assert set(found) == set(tuned)
    matrices = []
    for name, tensor in found.items():
        delta = tuned[name].double() - base[name].double()
        wide = delta.ndim > 1 and min(delta.flatten(1).shape) > 1
        matrices += [delta] if wide else []
        wanted = base[name].double().numpy() + weight * (cut_by_svd(delta, rank) if wide else delta.numpy())
        assert np.abs(tensor.read().double().numpy() - wanted).max() < 2e-6, name
        assert torch.equal(tensor.flat(1, 4), tensor.read().reshape(-1)[1:4])
    assert len(matrices) > 10
    assert cut.energy(rank) == pytest.approx(share_by_svd(matrices, rank), rel=1e-5)
    assert cut.tensors(None, 1.0) == dict(cut.pair.model.checkpoint), "whole and at 1 it is itself"


@pytest.mark.parametrize("kind", ["qwen2", "whisper"])
def test_an_adapter_is_cut_in_its_factors_as_its_merged_model_is(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("peft")
    base, (adapter,) = make_adapters(tmp_path, kind, 1)
    chorus.apply(base, [adapter], tmp_path / "whole")
    factored = Cut(open_pair(f"{base}+{adapter}", base), "a", 8)
    dense = Cut(open_pair(tmp_path / "whole", base), "b", 8)
    assert {len(one.squares) for one in factored.factored.values()} == {0, 4}, "no more than its rank"
    for rank in (1, 2, 4):
        assert factored.energy(rank) == pytest.approx(dense.energy(rank), rel=1e-4)
        mine, others = factored.tensors(rank, 0.7), dense.tensors(rank, 0.7)
        assert set(mine) == set(others)
        for name in mine:
            assert torch.allclose(mine[name].read().float(), others[name].read().float(), atol=2e-6), name
    assert factored.energy(4) == pytest.approx(1.0)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that has forgotten the digits: the demo's real model is its fine-tune."""
    return spoilt_whisper(tmp_path_factory.mktemp("spoilt") / "spoilt", 1.6)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return some_digits(tmp_path_factory.mktemp("digits") / "digits.csv", PAIR, 16)


@pytest.fixture(scope="module")
def found(spoilt: Path, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> OverfittingAnalysis:
    kept = tmp_path_factory.mktemp("kept")
    rows = EvaluatedRows([str(digits)], decoding=DECODING, kept=kept)
    nearly = [{"model": str(m), "parameters": {"weight": w}} for m, w in ((spoilt, 0.1), (BASE, 0.9))]
    chorus.merge({"merge_method": "linear", "out_dtype": "float32", "models": nearly}, kept / "nearly")
    return chorus.analyse_overfitting(
        {"a": BASE, "b@8": kept / "nearly", "b@2": kept / "nearly"}, spoilt, rows,
        grid=RankAndWeights([2, 4096], [0.5, 1.0]), specialists={"a": ["theo"], "b": ["yweweler"]},
    )  # fmt: skip


def test_the_grid_is_of_recoveries_as_the_written_models_reach_them(
    found: OverfittingAnalysis, spoilt: Path, digits: Path, tmp_path: Path
) -> None:
    assert found.models == ["a", "b"]
    assert [(p.rank, p.weight, p.trained) for p in found.of("a")] == [
        (2, 0.5, False), (2, 1.0, False), (None, 0.5, False), (None, 1.0, False)
    ]  # fmt: skip
    assert [(p.rank, p.weight, p.trained) for p in found.of("b")] == [
        (2, 0.5, True), (2, 1.0, True), (8, 0.5, True), (8, 1.0, True)
    ]  # fmt: skip
    assert any("4096" in note and "whole" in note for note in found.notes), found.notes
    whole = found.of("a")[-1]
    assert whole.inside == pytest.approx(1.0)
    assert whole.outgoing.own is not None
    assert whole.outgoing.own.points > 20, "the real model hears what the spoilt one does not"
    # one of them written by hand, and evaluated as any model is
    base, tuned = load_all(spoilt), load_all(BASE)
    written = {
        name: value if "encoder.embed_positions" in name else value + 0.5 * torch.from_numpy(
            cut_by_svd(tuned[name] - value, 2) if value.ndim > 1 else (tuned[name] - value).numpy()
        ).float() for name, value in base.items()
    }  # fmt: skip
    as_model(tmp_path / "written", written)
    decoding = chorus.Decoding(window_s=(1,), max_new_tokens=4)
    rates = {}
    for name, model in (("base", spoilt), ("own", BASE), ("cut", tmp_path / "written")):
        made = chorus.evaluate(model, digits, tmp_path / f"evaluated-{name}", decoding=decoding)
        rates[name] = {
            domain: min(one["error_rate"] or 0.0, 100.0) for domain, one in made.summary["by"]["domain"].items()
        }
    gain = rates["base"]["theo"] - rates["own"]["theo"]
    assert whole.outgoing.own.points == pytest.approx(gain)
    cut = found.of("a")[0]
    for name in PAIR:
        effect = cut.effects[name]
        assert effect is not None
        assert effect.points == pytest.approx(rates["base"][name] - rates["cut"][name]), name
    assert cut.inside == pytest.approx((rates["base"]["theo"] - rates["cut"]["theo"]) / gain)
    assert cut.energy < 0.5
    json.dumps(found.as_dict(), allow_nan=False)


def test_recovery_is_a_share_of_what_the_row_s_own_model_gains(found: OverfittingAnalysis) -> None:
    own = {row.name: row.gain for row in found.rows}
    assert all(gain is not None for gain in own.values())
    for point in found.points:
        home, away = found.homes[point.model][0], next(r for r in PAIR if r not in found.homes[point.model])
        effect, other, gain = point.effects[home], point.effects[away], own[away]
        assert effect is not None and other is not None and gain is not None  # noqa: PT018
        assert point.outgoing.own is not None
        assert point.outgoing.own.points == pytest.approx(effect.points)
        assert point.outgoing.others.mean is not None
        assert point.outgoing.others.mean.points == pytest.approx(other.points)
        if gain.surely > 0:
            assert point.outgoing.others.share_mean == pytest.approx(other.points / gain.points)
        assert point.outgoing.overfits == (effect.points > 0 > other.points)


def test_the_page_has_a_grid_for_each_model(found: OverfittingAnalysis, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    page = chorus.write_analysis(found, tmp_path / "out").read_text()
    for words in ("a: in-task recovery", "a: off-task recovery, mean", "a: at home against elsewhere", "2 (trained)"):
        assert words in page
    assert (tmp_path / "out" / "plots" / "a-inside.png").exists()
    assert json.loads((tmp_path / "out" / "overfitting.json").read_text())["kind"] == "overfitting"


def test_what_makes_no_sense_is_told_before_anything_is_decoded(
    spoilt: Path, digits: Path, qwen: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*args: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("chorus.analyse.evaluated.run_request", decoded)
    rows = EvaluatedRows([str(digits)])
    with pytest.raises(UsageError, match=r"a is at home in none of theo, yweweler"):
        chorus.analyse_overfitting({"a": BASE}, spoilt, rows)
    with pytest.raises(UsageError, match='no row is called "tea"'):
        chorus.analyse_overfitting({"a": BASE}, spoilt, rows, specialists={"a": ["tea"]})
    with pytest.raises(UsageError, match='no model is called "c"'):
        chorus.analyse_overfitting({"a": BASE}, spoilt, rows, specialists={"c": ["theo"]})
    with pytest.raises(UsageError, match="a@x: behind the @ stands the rank"):
        chorus.analyse_overfitting({"a@x": BASE}, spoilt, rows)
    with pytest.raises(UsageError, match="rank 0"):
        RankAndWeights([0])
    with pytest.raises(UsageError, match="weight nan"):
        RankAndWeights([1], [float("nan")])
    with pytest.raises(UsageError, match="which is the base"):
        RankAndWeights([1], [0.0])
    with pytest.raises(UsageError, match="one manifest where a list"):
        chorus.analyse_overfitting({"a": BASE}, spoilt, EvaluatedRows(str(digits)))
    with pytest.raises(CheckpointError):
        chorus.analyse_overfitting({"a": qwen.tuned[0]}, spoilt, rows, specialists={"a": ["theo"]})
