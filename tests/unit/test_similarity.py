"""Centred kernel alignment against its definition, and what it must not depend on."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.linalg.similarity import alignments, unbiased_hsic


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_definition(k: np.ndarray, other: np.ndarray) -> float:
    """The mean over all ordered fours of different examples of K_ij L_ij + K_ij L_qr - 2 K_ij L_iq."""
    found = [
        k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in permutations(range(len(k)), 4)
    ]  # fmt: skip
    return float(np.mean(found))


@given(st.integers(0, 40), st.integers(4, 7))
@settings(max_examples=25, deadline=None)
def test_it_is_the_mean_over_all_fours(seed: int, n: int) -> None:
    x, y = draw(seed, n, 3), draw(seed + 100, n, 2)
    k, other = x @ x.T, y @ y.T
    assert unbiased_hsic(k, other) == pytest.approx(by_definition(k.numpy(), other.numpy()), abs=1e-9)


def test_turned_scaled_and_moved_spaces_are_the_same() -> None:
    x = draw(0, 40, 6)
    turned = 3 * x @ torch.linalg.qr(draw(1, 6, 6))[0] + 5
    found = alignments([x, turned], [torch.arange(40)])
    assert found == pytest.approx(np.ones((2, 2)))


def test_unrelated_states_are_not_alike_however_many_dimensions_they_have() -> None:
    """The biased estimate is near 1 here: 32 examples in 500 dimensions."""
    found = [alignments([draw(i, 32, 500), draw(i + 50, 32, 500)], [torch.arange(32)])[0, 1] for i in range(20)]
    assert abs(float(np.mean(found))) < 0.02
    x, y = (one - one.mean(0) for one in (draw(0, 32, 500), draw(50, 32, 500)))
    biased = torch.linalg.norm(y.T @ x) ** 2 / torch.linalg.norm(x.T @ x) / torch.linalg.norm(y.T @ y)
    assert float(biased) > 0.8


def test_minibatches_are_summed_before_they_are_divided() -> None:
    x, y = draw(0, 24, 5), draw(1, 24, 5) + draw(0, 24, 5)
    parts = torch.arange(24).split(8)

    def summed(a: torch.Tensor, b: torch.Tensor) -> float:
        return sum(unbiased_hsic(a[p] @ a[p].T, b[p] @ b[p].T) for p in parts)

    wanted = summed(x, y) / (summed(x, x) * summed(y, y)) ** 0.5
    assert alignments([x, y], parts)[0, 1] == pytest.approx(wanted)


def test_one_state_for_all_has_no_direction() -> None:
    found = alignments([draw(0, 8, 3), torch.ones(8, 3)], [torch.arange(8)])
    assert found[0, 0] == pytest.approx(1.0)
    assert np.isnan(found[0, 1])
