"""Effective ranks of deltas against what is known of them, and the file that keeps them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from chorus.analyse.ranks import Ranks, _document, kept_ranks, ranks, ranks_of
from chorus.checkpoints.lazy_tensor import MemoryTensor


def test_equal_singular_values_count_whole() -> None:
    found = ranks_of("m", 3.0 * torch.eye(6, 9))
    assert (found.tensor, found.full) == ("m", 6)
    assert found.effective == pytest.approx(6.0)
    assert found.stable == pytest.approx(6.0)
    assert found.norm == pytest.approx(3.0 * math.sqrt(6))


def test_by_hand_of_two_singular_values() -> None:
    found = ranks_of("m", torch.diag(torch.tensor([3.0, 1.0, 0.0, 0.0])))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert found.effective == pytest.approx(math.exp(entropy))
    assert found.stable == pytest.approx(10 / 9)
    assert found.full == 4


def test_rank_one_and_nothing() -> None:
    one = ranks_of("m", torch.outer(torch.arange(1.0, 9.0), torch.ones(5)))
    assert one.effective == pytest.approx(1.0, abs=1e-3)
    assert ranks_of("m", torch.zeros(3, 4)) == Ranks("m", 3, 0.0, 0.0, 0.0)


def test_a_factor_changes_the_norm_alone() -> None:
    delta = torch.randn(12, 7, generator=torch.Generator().manual_seed(0))
    once, twice = ranks_of("m", delta), ranks_of("m", 2 * delta)
    assert twice.norm == pytest.approx(2 * once.norm)
    assert (twice.effective, twice.stable) == (pytest.approx(once.effective), pytest.approx(once.stable))
    assert 1 < once.stable < once.effective < 7


def test_deltas_are_of_the_named_tensors() -> None:
    base = {n: MemoryTensor(n, torch.ones(4, 4)) for n in ("a", "b", "c")}
    tuned = {**base, "a": MemoryTensor("a", torch.ones(4, 4) + torch.eye(4))}
    found = ranks(base, tuned, ["a", "b"])
    assert [(r.tensor, round(r.effective, 4)) for r in found] == [("a", 4.0), ("b", 0.0)]


def test_they_are_computed_once_for_a_fingerprint(tmp_path: Path) -> None:
    calls: list[str] = []

    def compute() -> list[Ranks]:
        calls.append("computed")
        return [Ranks("m", 4, 2.5, 1.5, 0.1 + 0.2)]

    path = tmp_path / "ranks" / "ties.json"
    first = kept_ranks(path, "a", compute)
    assert kept_ranks(path, "a", compute) == first
    assert len(calls) == 1
    kept_ranks(path, "b", compute)
    assert len(calls) == 2, "of another model"
    assert json.loads(path.read_text())["fingerprint"] == "b"
    told = path.read_text()
    changed = told.replace('"stable": ', '"stable": 1')
    assert changed != told
    for torn in (told[:30], changed, "{}", '{"format": 2, "fingerprint": "b", "matrices": [{"tensor": "m"}]}'):
        path.write_text(torn)
        assert kept_ranks(path, "b", compute) == first, torn
    assert len(calls) == 6
    for matrices in (3, [3], [{"tensor": "m"}]):  # and the digest made for it
        path.write_text(json.dumps(_document("b", matrices)))
        assert kept_ranks(path, "b", compute) == first, matrices
