"""Spectra, signs and subspaces of differences, against their formulas in float64, numpy and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.linalg import alignment
from chorus.linalg.alignment import count_signs, inner_products, principal_angles
from chorus.linalg.energies import (
    SHARES,
    above_rounding,
    effective_rank,
    energy_curve,
    energy_rank,
    participation_ratio,
    stable_rank,
)
from chorus.linalg.low_rank import LowRank


def numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def deltas_of(seed: int, m: int, n: int, ranks: list[int]) -> list[torch.Tensor | LowRank]:
    """Whole matrices (rank 0) and products of factors."""
    draw = numbers(seed)
    found: list[torch.Tensor | LowRank] = []
    for rank in ranks:
        if rank:
            left, right = torch.randn(m, rank, generator=draw), torch.randn(rank, n, generator=draw)
            found.append(LowRank(left, right, (m, n)))
        else:
            found.append(torch.randn(m, n, generator=draw))
    return found


def dense(delta: torch.Tensor | LowRank) -> np.ndarray:
    return (delta.dense() if isinstance(delta, LowRank) else delta).double().numpy()


@given(st.integers(0, 50), st.integers(1, 40), st.integers(1, 40), st.lists(st.integers(0, 5), min_size=1, max_size=4))
@settings(max_examples=40, deadline=None)
def test_inner_products_are_those_of_the_whole_matrices(seed: int, m: int, n: int, ranks: list[int]) -> None:
    given_ = deltas_of(seed, m, n, ranks)
    whole = np.stack([dense(one).ravel() for one in given_])
    scale = np.outer(*[np.linalg.norm(whole, axis=1)] * 2)
    np.testing.assert_allclose(inner_products(given_), whole @ whole.T, atol=1e-6 * scale.max())


def signs_by_hand(whole: list[np.ndarray], density: float) -> tuple[np.ndarray, np.ndarray, float, float]:
    """Coordinate by coordinate, the largest by a stable sort of magnitudes."""
    flat = [one.ravel().copy() for one in whole]
    for one in flat:
        kept = np.argsort(-np.abs(one), kind="stable")[: max(1, int(density * one.size))]
        mask = np.zeros(one.size, bool)
        mask[kept] = True
        one[~mask] = 0
    k = len(flat)
    opposite, shared = np.zeros((k, k)), np.zeros((k, k))
    for i in range(k):
        for j in range(k):
            both = (flat[i] != 0) & (flat[j] != 0)
            shared[i, j] = both.sum()
            opposite[i, j] = (np.sign(flat[i]) != np.sign(flat[j]))[both].sum()
    elected = sum(max(c[c > 0].sum(), -c[c < 0].sum()) for c in np.stack(flat).T)
    return opposite, shared, float(elected), float(sum(np.abs(one).sum() for one in flat))


@given(st.integers(0, 50), st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.05, 0.2, 0.5, 1.0]))
@settings(max_examples=40, deadline=None)
def test_signs_are_counted_as_by_hand(seed: int, m: int, n: int, density: float) -> None:
    given_ = deltas_of(seed, m, n, [0, 2, 0, 1])
    given_[2][:, ::2] = 0.0  # values that it has not changed
    whole = [dense(one).astype(np.float32).astype(np.float64) for one in given_]
    for found, share in zip(count_signs(given_, density=density), (1.0, density), strict=True):
        opposite, shared, elected, mass = signs_by_hand(whole, share)
        np.testing.assert_array_equal(found.opposite, opposite)
        np.testing.assert_array_equal(found.shared, shared)
        assert found.elected == pytest.approx(elected, rel=1e-5)
        assert found.mass == pytest.approx(mass, rel=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of factors whose rows end inside a block, and of 200,000 values in four."""
    given_ = deltas_of(3, 401, 499, [0, 3, 2])
    once, products = count_signs(given_, density=0.2), inner_products(given_)
    monkeypatch.setattr(alignment.DeltaBlocks.__init__, "__defaults__", (alignment.CHUNK,))
    assert len(list(alignment.DeltaBlocks(given_))) == 4
    for a, b in zip(once, count_signs(given_, density=0.2), strict=True):
        np.testing.assert_array_equal(a.opposite, b.opposite)
        np.testing.assert_array_equal(a.shared, b.shared)
    np.testing.assert_allclose(products, inner_products(given_), rtol=1e-9, atol=1e-6)


def test_only_voters_elect() -> None:
    two = [torch.tensor([[1.0, -2.0]]), torch.tensor([[3.0, 1.0]]), torch.tensor([[-9.0, -9.0]])]
    assert count_signs(two, density=1.0, voters=2)[0].elected == pytest.approx(4 + 2)
    assert count_signs(two, density=1.0, voters=2)[0].mass == pytest.approx(7)
    assert count_signs(two, density=1.0)[0].elected == pytest.approx(9 + 11)


@given(st.integers(0, 60), st.integers(1, 8), st.integers(1, 8))
@settings(max_examples=40, deadline=None)
def test_angles_are_scipys(seed: int, r: int, q: int) -> None:
    draw = numbers(seed)
    u, v = (torch.linalg.qr(torch.randn(16, k, generator=draw, dtype=torch.float64))[0] for k in (r, q))
    found = principal_angles(u, v)
    wanted = np.degrees(scipy.linalg.subspace_angles(u.numpy(), v.numpy()))
    assert found is not None
    assert found.smallest == pytest.approx(wanted.min(), abs=1e-4)
    assert found.mean == pytest.approx(wanted.mean(), abs=1e-4)
    assert found.overlap == pytest.approx(np.linalg.norm(u.numpy().T @ v.numpy()) ** 2 / min(r, q))


def test_chance_is_what_random_subspaces_have() -> None:
    draw = numbers(0)
    found = []
    for _ in range(300):
        u, v = (torch.linalg.qr(torch.randn(24, k, generator=draw))[0] for k in (3, 7))
        one = principal_angles(u, v)
        assert one is not None
        found.append(one.overlap)
    assert one.chance == 7 / 24
    assert np.mean(found) == pytest.approx(7 / 24, abs=0.02)
    assert principal_angles(u, u[:, :0]) is None


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30))
def test_ranks_are_their_formulas(values: list[float]) -> None:
    s = np.sort(np.array(values))[::-1].copy()
    p = s / s.sum()
    assert effective_rank(s) == pytest.approx(math.exp(-sum(x * math.log(x) for x in p)))
    assert stable_rank(s) == pytest.approx((s**2).sum() / s[0] ** 2)
    assert participation_ratio(s) == pytest.approx((s**2).sum() ** 2 / (s**4).sum())
    for energy in (0.9, 0.95, 0.99):
        k = energy_rank(s, energy)
        held = np.cumsum(s**2) / (s**2).sum()
        assert held[k - 1] >= energy * (1 - 1e-9)
        assert k == 1 or held[k - 2] < energy
    curve = energy_curve(s, len(s))
    assert curve[-1] == pytest.approx(1.0)
    assert (np.diff(curve) >= -1e-12).all()
    tenth = SHARES.index(0.1)
    assert curve[tenth] == pytest.approx((s[: max(1, len(s) // 10)] ** 2).sum() / (s**2).sum())


def test_a_zero_matrix_has_no_rank() -> None:
    nothing = above_rounding(np.zeros(4))
    assert len(nothing) == 0
    assert (effective_rank(nothing), stable_rank(nothing), participation_ratio(nothing)) == (0.0, 0.0, 0.0)
    assert energy_rank(nothing, 0.9) == 0
    assert not energy_curve(nothing, 4).any()
    assert list(above_rounding(np.array([2.0, 1.0, 1e-9]))) == [2.0, 1.0]
