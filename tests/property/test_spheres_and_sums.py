"""Means on the sphere by their Gram matrix, sums in fixed chunks, ranks by energy and budget, linear combinations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chorus.linalg import lapack
from chorus.linalg.blocks import CHUNK, InMemory, chunks
from chorus.linalg.combine import linear_combination, weighted_total
from chorus.linalg.low_rank import LowRank
from chorus.linalg.native import Terms
from chorus.linalg.ranks import RankRule
from chorus.linalg.sphere import (
    karcher_coefficients,
    reciprocals,
    slerp_coefficients,
    spherical_mean_coefficients,
    unit_gram,
)
from chorus.linalg.statistics import gram_matrix, squares

SEEDS = st.integers(0, 2**32 - 1)


def vectors(seed, count=3, size=20, spread=1.0):
    """Near each other for a small spread, in all directions for a large one."""
    numbers = np.random.default_rng(seed)
    return numbers.normal(size=size) + spread * numbers.normal(size=(count, size))


def of(coefficients, x):
    return np.asarray(coefficients) @ x


def unit(x):
    return x / np.linalg.norm(x)


# ---- slerp ----


@given(SEEDS, st.floats(0, 1))
def test_slerp_goes_along_the_arc_at_constant_speed(seed, t):
    a, b = (unit(x) for x in vectors(seed, 2))
    x = np.stack([a, b])
    found = of(slerp_coefficients(x @ x.T, t), x)
    assume(abs(a @ b) <= 0.9995)
    angle = math.acos(a @ b)
    assert np.linalg.norm(found) == pytest.approx(1)
    assert math.acos(min(1, max(-1, found @ a))) == pytest.approx(t * angle, abs=1e-7)


@pytest.mark.parametrize("x", [[[0, 0], [1, 2]], [[1, 2], [0, 0]], [[1, 0], [1, 1e-3]], [[1, 0], [-1, 1e-3]]])
def test_slerp_is_linear_where_there_is_no_arc(x):
    x = np.array(x, dtype=np.float64)
    assert slerp_coefficients(x @ x.T, 0.3) == (0.7, 0.3)


def test_slerps_limit_can_be_chosen():
    x = np.array([[1.0, 0.0], [1.0, 1e-3]])
    assert slerp_coefficients(x @ x.T, 0.3, parallel=1.0) != (0.7, 0.3)


# ---- the weighted spherical mean ----


@given(SEEDS, st.lists(st.floats(0.1, 3), min_size=3, max_size=3))
def test_the_mean_has_the_direction_of_the_sum_and_the_mean_norm(seed, weights):
    x = vectors(seed)
    found = of(spherical_mean_coefficients(x @ x.T, weights), x)
    direction = sum(w * unit(v) for w, v in zip(weights, x, strict=True))
    size = sum(w * np.linalg.norm(v) for w, v in zip(weights, x, strict=True))
    np.testing.assert_allclose(found, unit(direction) * size, rtol=1e-9)


@given(SEEDS, st.floats(0.01, 100))
def test_the_mean_grows_with_its_vectors(seed, factor):
    x = vectors(seed)
    once, scaled = (spherical_mean_coefficients(g, [1, 2, 1]) for g in (x @ x.T, factor**2 * (x @ x.T)))
    np.testing.assert_allclose(of(scaled, factor * x), factor * of(once, x), rtol=1e-9)


def test_zero_vectors_give_no_direction_and_the_others_keep_their_proportion():
    x = np.array([[3.0, 0], [0, 0], [0, 1.0]])
    a, b, c = spherical_mean_coefficients(x @ x.T, [1, 1, 1])
    assert b == 0
    found = a * x[0] + c * x[2]
    np.testing.assert_allclose(found, unit(np.array([1.0, 1.0])) * 1.5 * 4)  # (1.5, 0, 1.5) of norms 3 and 1
    assert spherical_mean_coefficients(np.zeros((2, 2)), [1, 1]) == [0.0, 0.0]


def test_directions_that_cancel_have_no_mean():
    x = np.array([[1.0, 0], [-5.0, 0]])
    assert spherical_mean_coefficients(x @ x.T, [1, 1]) is None
    assert karcher_coefficients(x @ x.T, [1, 1], max_iter=9, tol=1e-9) is None


# ---- Karcher ----


@given(SEEDS, st.lists(st.floats(0.1, 3), min_size=3, max_size=3))
def test_at_the_karcher_mean_the_tangents_cancel(seed, weights):
    x = vectors(seed, spread=0.5)
    found, used = karcher_coefficients(x @ x.T, weights, max_iter=200, tol=1e-12)
    m, w = of(found, x), np.array(weights) / sum(weights)
    assert used < 200
    assert np.linalg.norm(m) == pytest.approx(w @ np.linalg.norm(x, axis=1))
    tangent = np.zeros_like(m)
    for share, v in zip(w, x, strict=True):
        cosine = unit(v) @ unit(m)
        angle = math.acos(min(1, cosine))
        tangent += share * (angle / max(math.sin(angle), 1e-12)) * (unit(v) - cosine * unit(m))
    assert np.linalg.norm(tangent) < 1e-7


@given(SEEDS, st.permutations(range(4)))
def test_the_karcher_mean_does_not_care_about_order(seed, order):
    x, w = vectors(seed, 4, spread=0.5), np.array([1.0, 2, 3, 4])
    one, _ = karcher_coefficients(x @ x.T, w, max_iter=200, tol=1e-12)
    y = x[order]
    other, _ = karcher_coefficients(y @ y.T, w[order], max_iter=200, tol=1e-12)
    np.testing.assert_allclose(of(one, x), of(other, y), rtol=1e-8, atol=1e-9)


def test_the_iterations_can_be_bounded():
    x = vectors(0, 3, spread=2.0)
    _, used = karcher_coefficients(x @ x.T, [1, 2, 3], max_iter=1, tol=1e-15)
    assert used == 1
    _, used = karcher_coefficients(x[:1] @ x[:1].T, [1], max_iter=9, tol=1e-9)
    assert used == 0


def test_vectors_too_short_to_have_a_direction_are_left_out():
    x = np.array([[1.0, 0], [1e-12, 1e-12], [1.0, 0]])
    found, _ = karcher_coefficients(x @ x.T, [1, 1, 1], max_iter=9, tol=1e-9)
    assert found[1] == 0
    assert karcher_coefficients(np.zeros((2, 2)), [1, 1], max_iter=9, tol=1e-9) == ([0.0, 0.0], 0)


def test_cosines_of_nothing_are_nothing():
    x = np.array([[3.0, 4.0], [0, 0]])
    norms, cosines = unit_gram(x @ x.T)
    assert norms.tolist() == [5, 0]
    np.testing.assert_allclose(cosines, [[1, 0], [0, 0]])
    assert reciprocals(np.array([4.0, 0.0])).tolist() == [0.25, 0.0]


# ---- sums in fixed chunks ----


@pytest.mark.parametrize("numel", [1, CHUNK - 1, CHUNK, 2 * CHUNK + 7])
@pytest.mark.parametrize("block", [1, 2, 3])
def test_chunks_are_the_same_whatever_the_block(numel, block):
    x = torch.arange(numel, dtype=torch.float32)
    whole = InMemory([x, -x], block=block * CHUNK)
    assert (whole.count, whole.numel, whole.shape) == (2, numel, (numel,))
    pieces = list(chunks(whole))
    assert [len(p[0]) for p in pieces] == [min(CHUNK, numel - s) for s in range(0, numel, CHUNK)]
    assert torch.equal(torch.cat([p[0] for p in pieces]), x)
    assert all(torch.equal(p[0], -p[1]) for p in pieces)


@given(SEEDS, st.integers(1, 4))
def test_gram_matrices_are_the_same_bits_for_every_block_and_form(seed, count):
    numbers = torch.Generator().manual_seed(seed)
    rows = [torch.randn(3, CHUNK // 2, generator=numbers) for _ in range(count)]
    found = [gram_matrix(InMemory(rows, block=n * CHUNK)) for n in (1, 2, 4)]
    arrays_ = [r.reshape(-1).numpy() for r in rows]
    found.append(gram_matrix(InMemory(arrays_)))
    assert all(np.array_equal(found[0], other) for other in found)
    wide = np.stack(arrays_).astype(np.float64)
    np.testing.assert_allclose(found[0], wide @ wide.T, rtol=1e-11, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_summed_in_float64_too(dtype):
    rows = [torch.tensor([1.5, -2.0, 4.0]).to(dtype), torch.tensor([0.5, 1.0, 0.25]).to(dtype)]
    assert gram_matrix(InMemory(rows)).tolist() == [[22.25, -0.25], [-0.25, 1.3125]]
    assert squares(rows[0]) == squares(rows[0].float()) == squares(rows[0].float().numpy()) == 22.25


def test_a_strided_view_is_summed_as_its_copy():
    x = torch.randn(50, 4)
    assert squares(x.T.reshape(-1)) == squares(x.T.contiguous().reshape(-1))
    view = x[:, 0]
    assert squares(view) == pytest.approx(squares(view.contiguous()), rel=1e-14)


# ---- linear combinations ----


@given(SEEDS, st.lists(st.floats(-2, 2), min_size=1, max_size=4))
def test_combinations_are_the_sum(seed, coefficients):
    numbers = torch.Generator().manual_seed(seed)
    x = [torch.randn(5, 3, generator=numbers) for _ in coefficients]
    wanted = sum(c * t.double() for c, t in zip(coefficients, x, strict=True))
    assert torch.allclose(linear_combination(x, coefficients).double(), wanted, atol=1e-5)


def test_one_model_at_one_is_that_model_to_the_bit_and_not_the_same_memory():
    x = [torch.tensor([float("nan"), -0.0, 1e-45]), torch.ones(3)]
    found = linear_combination(x, [1, 0])
    assert torch.equal(found.view(torch.int32), x[0].view(torch.int32))
    found[:] = 0
    assert x[0].isnan()[0]
    assert torch.equal(linear_combination(x, [0, 0]), torch.zeros(3))


def test_combinations_leave_their_inputs_alone():
    x = [torch.ones(2), torch.ones(2)]
    linear_combination(x, [2, 3])
    assert all(torch.equal(t, torch.ones(2)) for t in x)


def test_terms_give_the_coefficients_themselves():
    assert linear_combination(Terms(2), [np.float32(0.5), 2]) == (0.5, 2.0)


@given(SEEDS, st.lists(st.booleans(), min_size=1, max_size=4))
def test_totals_stay_in_factors_as_long_as_all_are(seed, factored):
    numbers = torch.Generator().manual_seed(seed)
    deltas, dense = [], []
    for low in factored:
        left, right = torch.randn(6, 2, generator=numbers), torch.randn(2, 5, generator=numbers)
        dense.append(left @ right)
        deltas.append(LowRank(left, right, (6, 5)) if low else left @ right)
    weight = [0.5 + i for i in range(len(deltas))]
    found = weighted_total(iter(deltas), weight)
    assert isinstance(found, LowRank) == all(factored)
    if isinstance(found, LowRank):
        assert found.rank == 2 * len(deltas)
        found = found.dense()
    assert torch.allclose(found, sum(w * d for w, d in zip(weight, dense, strict=True)), atol=1e-4)
    with pytest.raises(ValueError, match="shorter"):
        weighted_total(deltas, weight[:-1])


# ---- ranks ----

SPECTRA = st.lists(st.lists(st.floats(0, 10), min_size=1, max_size=6).map(lambda v: sorted(v, reverse=True)),
                   min_size=1, max_size=4)  # fmt: skip


@given(SPECTRA, st.floats(0.01, 1))
def test_an_energy_takes_the_fewest_directions_that_hold_it(spectra, energy):
    for values in spectra:
        k = RankRule(energy=energy).rank_of(values)
        total = sum(v * v for v in values)
        held = [sum(v * v for v in values[:n]) for n in range(len(values) + 1)]
        assert k <= sum(v > 0 for v in values)
        if total > 1e-200:  # below, the squares are not numbers to count on
            assert held[k] >= energy * total * (1 - 1e-9)
            assert k == 0 or held[k - 1] < energy * total


@given(SPECTRA, st.integers(1, 200), st.integers(1, 6))
def test_a_budget_is_kept_and_nothing_that_fits_is_left_out(spectra, budget, most):
    values = {f"m{i}": v for i, v in enumerate(spectra)}
    shapes = {name: (3 + i, 4) for i, name in enumerate(values)}
    ranks = RankRule(budget=budget, max_rank=most).ranks(values, shapes)
    spent = sum(k * sum(shapes[name]) for name, k in ranks.items())
    assert spent <= budget
    for name, k in ranks.items():
        limit = min(most, sum(v > 0 for v in values[name]))
        assert k <= limit
        assert k == limit or spent + sum(shapes[name]) > budget


def test_a_budget_buys_what_holds_most_for_its_price():
    values, shapes = {"large": [3.0, 2.9], "small": [2.0]}, {"large": (50, 50), "small": (5, 5)}
    assert RankRule(budget=10).ranks(values, shapes) == {"large": 0, "small": 1}
    assert RankRule(budget=110).ranks(values, shapes) == {"large": 1, "small": 1}
    assert RankRule(budget=209).ranks(values, shapes) == {"large": 1, "small": 1}
    assert RankRule(budget=210).ranks(values, shapes) == {"large": 2, "small": 1}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_rank": 0}, "rank must be 1 or more"),
        ({"energy": 0.0}, "energy must lie above 0"),
        ({"energy": 1.5}, "energy must lie above 0"),
        ({"budget": 0}, "budget must be 1 parameter"),
        ({"energy": 0.5, "budget": 9}, "give one of them"),
    ],
)
def test_rules_that_make_no_sense(settings, told):
    with pytest.raises(ValueError, match=told):
        RankRule(**settings)
    assert not RankRule().given
    assert RankRule(max_rank=2).given


# ---- LAPACK's refusals ----


@pytest.mark.parametrize("refusing", ["sytrd", "sterf", "stein", "ormtr", "syevd"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_where_a_routine_fails_another_one_serves(monkeypatch, refusing, dtype):
    x = np.random.default_rng(0).normal(size=(200, 90)).astype(dtype)
    products = lapack.gram(x)
    full = np.tril(products) + np.tril(products, -1).T
    expected = np.linalg.eigvalsh(full.astype(np.float64))[::-1]
    real, asked = lapack._call, []

    def call(name, *arguments):
        asked.append(name)
        return 1 if name == refusing else real(name, *arguments)

    monkeypatch.setattr(lapack, "_call", call)
    top = None if refusing == "syevd" else 8
    values, found = lapack.symmetric_eigen(products, top)
    assert refusing in asked
    assert "syevd" in asked
    np.testing.assert_allclose(values, expected, rtol=1e-3 if dtype == np.float32 else 1e-9, atol=1e-3)
    tolerance = 2e-3 if dtype == np.float32 else 1e-8
    assert found.shape == (90, top or 90)
    np.testing.assert_allclose(full @ found, found * values[: top or 90], atol=tolerance * expected[0])


@given(arrays(np.float64, st.tuples(st.integers(0, 6), st.integers(0, 5)), elements=st.floats(-3, 3)), st.booleans())
def test_small_and_empty_matrices(x, by_columns):
    laid = np.asfortranarray(x) if by_columns else np.ascontiguousarray(x)
    products = lapack.gram(laid)
    np.testing.assert_allclose(np.tril(products), np.tril(x.T @ x), atol=1e-12)
    values, found = lapack.symmetric_eigen(products, 2)
    assert len(values) == x.shape[1]
    assert found.shape == (x.shape[1], min(2, x.shape[1]))
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-9)


def test_a_matrix_that_lies_neither_way_is_copied():
    x = np.arange(24.0).reshape(6, 4)[::2, ::2]
    np.testing.assert_allclose(np.tril(lapack.gram(x)), np.tril(x.T @ x))


def test_wide_sums_are_those_of_the_widened_matrix():
    x = np.random.default_rng(1).normal(size=(700, 500)).astype(np.float32)
    for laid in (x, np.asfortranarray(x)):
        np.testing.assert_allclose(
            np.tril(lapack.gram(laid, np.float64)), np.tril(x.astype(float).T @ x.astype(float)), rtol=1e-12, atol=1e-9
        )
