"""The compiled loops against numpy's own words for them, on every kind of number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from chorus.linalg import kernels

FINITE = st.floats(-(2.0**99), 2.0**99, width=32)
VALUES = arrays(np.float32, st.integers(0, 70), elements=FINITE)
TIED = arrays(np.float32, st.integers(0, 70), elements=st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 3e38]))
EVERY = arrays(np.uint32, st.integers(0, 70), elements=st.integers(0, 2**32 - 1)).map(lambda b: b.view(np.float32))


def bits(x):
    return np.ascontiguousarray(x, np.float32).view(np.uint32)


def magnitudes(x):
    return bits(x) & 0x7FFFFFFF


def same(a, b):
    """To the bit, whatever the NaNs."""
    assert np.array_equal(bits(a), bits(b))


# ---- counting ----


@given(EVERY)
def test_the_upper_bits_are_counted(x):
    counts = np.zeros((2, 32768), np.int64)
    kernels.count_high(bits(x), counts)
    expected = np.bincount(magnitudes(x) >> 16, minlength=32768)
    assert np.array_equal(counts.sum(axis=0), expected)
    kernels.count_high(bits(x), counts)  # it adds to what is there
    assert np.array_equal(counts.sum(axis=0), 2 * expected)


@given(TIED, st.sampled_from([0, 0x3F80, 0x3F00, 0x7F61]))
def test_the_lower_bits_of_one_bin_are_counted(x, high):
    counts = np.zeros(65536, np.int64)
    kernels.count_low(bits(x), high, counts)
    inside = magnitudes(x)[magnitudes(x) >> 16 == high] & 0xFFFF
    assert np.array_equal(counts, np.bincount(inside, minlength=65536))


@given(TIED, st.sampled_from([0.0, 1.0, 0.5, 7.0]))
def test_equal_magnitudes_are_counted_and_found_in_order(x, value):
    wanted = int(np.float32(value).view(np.uint32))
    places = np.flatnonzero(np.abs(x) == np.float32(value))
    assert kernels.count_equal(bits(x), wanted) == len(places)
    for nth, place in enumerate(places, 1):
        assert kernels.index_of_equal(bits(x), wanted, nth) == place
    assert kernels.index_of_equal(bits(x), wanted, len(places) + 1) == -1


# ---- masks ----


@given(TIED, st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.integers(-5, 80))
def test_what_is_kept_and_what_is_dropped_make_the_whole(x, threshold, ties):
    at = np.arange(x.size)
    kept = (np.abs(x) > threshold) | ((np.abs(x) == threshold) & (at < ties))
    out = np.full_like(x, 9)
    kernels.keep_largest(x, np.float32(threshold), ties, out)
    same(out, np.where(kept, x, np.float32(0)))
    kernels.drop_largest(x, np.float32(threshold), ties, out)
    same(out, np.where(kept, np.float32(0), x))


@given(TIED, st.integers(0, 2**32 - 1), st.sampled_from([0.5, 1.0]), st.integers(-5, 80))
def test_values_are_kept_by_the_rank_of_others(x, seed, threshold, ties):
    rank = np.random.default_rng(seed).choice(np.float32([0.25, 0.5, 1.0, 2.0]), x.size)
    kept = (rank > threshold) | ((rank == threshold) & (np.arange(x.size) < ties))
    out = np.full_like(x, 9)
    kernels.where_largest(x, rank, np.float32(threshold), ties, out)
    same(out, np.where(kept, x, np.float32(0)))


def mixed(h):
    """MurmurHash3's 32-bit finaliser, by Python's whole numbers."""
    h ^= h >> 16
    h = h * 0x85EBCA6B & 0xFFFFFFFF
    h ^= h >> 13
    h = h * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_draws_are_murmurs_whatever_wraps_around(first, key0, key1, limit):
    x = np.arange(1, 12, dtype=np.float32)
    out = np.empty_like(x)
    kernels.keep_random(x, *(np.uint32(n) for n in (first, key0, key1, limit)), out)
    for i in range(x.size):
        index = (first + i) & 0xFFFFFFFF
        draw = mixed(mixed((index * 0x9E3779B9 & 0xFFFFFFFF) + key0 & 0xFFFFFFFF) ^ key1)
        assert out[i] == (x[i] if draw < limit else 0)


# ---- votes ----


@given(VALUES, st.integers(0, 2**32 - 1), st.sampled_from([-2.0, 0.0, 0.5, 1.0]))
def test_only_those_of_the_elected_sign_are_added(x, seed, weight):
    total = np.random.default_rng(seed).normal(size=x.size).astype(np.float32)
    merged, divisor = np.ones_like(x), np.ones_like(x)
    kernels.sum_agreeing(x, np.float32(weight), total, merged, divisor)
    y = np.float32(weight) * x
    agrees = np.where(total >= 0, y > 0, y < 0)
    same(merged, np.where(agrees, 1 + y, np.float32(1)))
    same(divisor, np.where(agrees, np.float32(1 + abs(weight)), np.float32(1)))


def test_a_vote_without_a_majority_counts_as_positive():
    merged, divisor = np.zeros(2, np.float32), np.zeros(2, np.float32)
    kernels.sum_agreeing(np.float32([1, -1]), np.float32(1), np.float32([0, -0.0]), merged, divisor)
    assert merged.tolist() == divisor.tolist() == [1, 0]


@pytest.mark.parametrize("normalize", [True, False])
def test_sums_become_means_where_someone_voted(normalize):
    merged, divisor = np.float32([6, 4, 0]), np.float32([3, 0, 2])
    kernels.finish_vote(merged, divisor, normalize, np.float32(0.5))
    assert merged.tolist() == ([1.0, 2.0, 0.0] if normalize else [3.0, 2.0, 0.0])


# ---- sums ----


@given(VALUES, st.floats(-4, 4, width=32))
def test_scaled_values_are_added(x, factor):
    base, start = np.roll(x, 1), x[::-1].copy()
    total = start.copy()
    kernels.add_scaled(x, np.float32(factor), total)
    same(total, start + np.float32(factor) * x)  # to the bit: no multiplication melts into the addition
    total = start.copy()
    kernels.add_scaled_delta(x, base, np.float32(factor), total)
    same(total, start + np.float32(factor) * (x - base))


@given(arrays(np.uint16, st.integers(0, 70), elements=st.integers(0, 65535)), st.floats(-4, 4, width=32))
def test_bfloat16_is_added_without_being_widened_first(raw, factor):
    wide = (raw.astype(np.uint32) << 16).view(np.float32)
    finite = bool(np.isfinite(wide).all())
    base = np.linspace(-1, 1, raw.size).astype(np.float32)
    with np.errstate(all="ignore"):
        for call, expected in (
            (lambda t: kernels.add_scaled_bfloat16(raw, np.float32(factor), t), wide),
            (lambda t: kernels.add_scaled_delta_bfloat16(raw, base, np.float32(factor), t), wide - base),
        ):
            total = np.ones(raw.size, np.float32)
            assert call(total) is finite
            wanted = 1 + np.float32(factor) * expected
            numbers = ~np.isnan(wanted)
            same(total[numbers], wanted[numbers])
            assert np.isnan(total[~numbers]).all()


@given(EVERY)
def test_what_is_not_finite_is_seen(x):
    assert kernels.all_finite(x) == bool(np.isfinite(x).all())


@given(arrays(np.float32, (4, 33), elements=st.floats(-1e3, 1e3, width=32)))
def test_inner_products_are_those_of_float64(rows):
    wide = rows.astype(np.float64)
    exact = wide @ wide.T
    scale = float(np.abs(wide).max() ** 2 * 33 + 1e-300)
    assert kernels.dot(rows[0], rows[1]) == pytest.approx(exact[0, 1], abs=1e-13 * scale)
    found = np.reshape(kernels.four_dots(*rows), (2, 2))
    np.testing.assert_allclose(found, exact[:2, 2:], atol=1e-13 * scale)
    assert kernels.absolute_sum(rows[0]) == pytest.approx(np.abs(wide[0]).sum(), rel=1e-13)


@given(VALUES)
def test_squared_deviations_are_added(x):
    x = x / np.float32(2**40)  # so that squares stay finite
    mean, total = np.full_like(x, 0.5), np.ones_like(x)
    kernels.add_squared_deviation(x, mean, total)
    same(total, 1 + (x - mean) * (x - mean))


def test_a_sum_is_the_same_every_time():
    """Its order is the compiler's, and fixed: the same array gives the same bits."""
    x = np.random.default_rng(0).normal(size=65_537).astype(np.float32)
    assert len({kernels.dot(x, x) for _ in range(5)}) == 1
    assert len({kernels.absolute_sum(x.copy()) for _ in range(5)}) == 1
