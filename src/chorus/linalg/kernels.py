"""Compiled loops (numba) over float32 arrays; the only place where numba is imported.

Compiled when first called and cached on disk, so that the next process starts fast. Each has a torch twin in
the module that calls it, for other devices and types; tests hold the two together.
"""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Bits = NDArray[np.uint32]

compiled = numba.njit(nogil=True, cache=True, error_model="numpy")
# sums in any order that the compiler likes, which is fixed once compiled; no other liberty
summing = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})

HALF_MAGIC = np.uint32(((127 - 15) + (23 - 10) + 1) << 23)


@compiled
def count_high(bits: Bits, counts: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Histogram of the upper 15 bits of magnitude: exponent and 7 bits of mantissa. counts [2, 32768].

    Two rows, used in turn, so that runs of equal values do not wait for each other's increment.
    """
    half = bits.size // 2
    for i in range(half):
        counts[0, (bits[2 * i] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1
        counts[1, (bits[2 * i + 1] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1
    if bits.size % 2:
        counts[0, (bits[-1] & np.uint32(0x7FFFFFFF)) >> np.uint32(16)] += 1


@compiled
def count_low(bits: Bits, high: int, counts: NDArray[np.int64]) -> None:  # pragma: no cover - compiled
    """Histogram of the lower 16 bits of those magnitudes whose upper bits are `high`. counts [65536]."""
    wanted = np.uint32(high)
    for i in range(bits.size):
        magnitude = bits[i] & np.uint32(0x7FFFFFFF)
        if (magnitude >> np.uint32(16)) == wanted:
            counts[magnitude & np.uint32(0xFFFF)] += 1


@compiled
def count_equal(bits: Bits, value: int) -> int:  # pragma: no cover - compiled
    """How many magnitudes have exactly these bits."""
    wanted, total = np.uint32(value), 0
    for i in range(bits.size):
        total += (bits[i] & np.uint32(0x7FFFFFFF)) == wanted
    return total


@compiled
def index_of_equal(bits: Bits, value: int, nth: int) -> int:  # pragma: no cover - compiled
    """The index of the nth (from 1) magnitude with exactly these bits; -1 where there are fewer."""
    wanted = np.uint32(value)
    for i in range(bits.size):
        if (bits[i] & np.uint32(0x7FFFFFFF)) == wanted:
            nth -= 1
            if nth == 0:
                return i
    return -1


@compiled
def keep_largest(x: Float32, threshold: np.float32, ties: int, out: Float32) -> None:  # pragma: no cover - compiled
    """x where |x| > threshold, or equal to it at an index below `ties`; 0 elsewhere."""
    first = min(max(ties, 0), x.size)
    for i in range(first):
        out[i] = x[i] if abs(x[i]) >= threshold else np.float32(0)
    rest, found = x[first:], out[first:]  # from 0, so that the loop can be vectorised
    for i in range(rest.size):
        found[i] = rest[i] if abs(rest[i]) > threshold else np.float32(0)


@compiled
def drop_largest(x: Float32, threshold: np.float32, ties: int, out: Float32) -> None:  # pragma: no cover - compiled
    """The complement of `keep_largest`: 0 where that keeps."""
    first = min(max(ties, 0), x.size)
    for i in range(first):
        out[i] = np.float32(0) if abs(x[i]) >= threshold else x[i]
    rest, found = x[first:], out[first:]
    for i in range(rest.size):
        found[i] = np.float32(0) if abs(rest[i]) > threshold else rest[i]


@compiled
def _mix(h: np.uint32) -> np.uint32:  # pragma: no cover - compiled
    # every step is cast back: numba widens the arithmetic of two uint32 to uint64
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x85EBCA6B))
    h = np.uint32(h ^ (h >> np.uint32(13)))
    h = np.uint32(h * np.uint32(0xC2B2AE35))
    return np.uint32(h ^ (h >> np.uint32(16)))


@compiled
def keep_random(
    x: Float32, first: np.uint32, key0: np.uint32, key1: np.uint32, limit: np.uint32, out: Float32
) -> None:  # pragma: no cover - compiled
    """x where the draw of its index lies below `limit`, 0 elsewhere. The draw: two rounds of MurmurHash3's mixer."""
    for i in range(x.size):
        index = np.uint32(first + np.uint32(i))
        h = _mix(np.uint32(np.uint32(index * np.uint32(0x9E3779B9)) + key0))
        h = _mix(np.uint32(h ^ key1))
        out[i] = x[i] if h < limit else np.float32(0)


@compiled
def sum_agreeing(
    x: Float32, weight: np.float32, total: Float32, merged: Float32, divisor: Float32
) -> None:  # pragma: no cover - compiled
    """Add weight * x to `merged` and |weight| to `divisor` where its sign is the elected one, that of `total`."""
    zero, size = np.float32(0), abs(weight)
    for i in range(x.size):
        y = weight * x[i]
        agrees = (y > zero) if total[i] >= zero else (y < zero)
        merged[i] += y if agrees else zero
        divisor[i] += size if agrees else zero


@compiled
def finish_vote(
    merged: Float32, divisor: Float32, normalize: bool, scale: np.float32
) -> None:  # pragma: no cover - compiled
    """merged * scale, over the divisor where `normalize` and it is not zero."""
    for i in range(merged.size):
        value = merged[i]
        if normalize and divisor[i] > np.float32(0):
            value = value / divisor[i]
        merged[i] = value * scale


@compiled
def widen_bfloat16(raw: NDArray[np.uint16], out: Float32) -> bool:  # pragma: no cover - compiled
    """bfloat16 bits as float32; whether all are finite."""
    bad = np.uint32(0)
    for i in range(raw.size):
        bits = np.uint32(np.uint32(raw[i]) << np.uint32(16))
        bad |= np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
        out[i] = bits.view(np.float32)
    return bad == 0


@compiled
def widen_float16(raw: NDArray[np.uint16], out: Float32) -> bool:  # pragma: no cover - compiled
    """float16 bits as float32; whether all are finite (what is not comes out wrong)."""
    bad = np.uint32(0)
    smallest = np.uint32(113 << 23).view(np.float32)
    for i in range(raw.size):
        half = np.uint32(raw[i])
        exponent = np.uint32(half & np.uint32(0x7C00))
        bad |= np.uint32(exponent == np.uint32(0x7C00))
        bits = np.uint32(np.uint32((half & np.uint32(0x7FFF)) << np.uint32(13)) + np.uint32(112 << 23))
        # below the smallest normal number the leading one is not implied: add it, and take its value off again
        small = np.uint32(bits + np.uint32(1 << 23)).view(np.float32) - smallest
        value = small if exponent == 0 else bits.view(np.float32)
        sign = np.uint32((half & np.uint32(0x8000)) << np.uint32(16))
        out[i] = np.uint32(np.float32(value).view(np.uint32) | sign).view(np.float32)
    return bad == 0


@compiled
def all_finite(x: Float32) -> bool:  # pragma: no cover - compiled
    """Whether no value is infinite or NaN."""
    bad = np.uint32(0)
    for i in range(x.size):
        bits = np.float32(x[i]).view(np.uint32)
        bad |= np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
    return bad == 0


@compiled
def narrow_bfloat16(x: Float32, out: NDArray[np.uint16]) -> None:  # pragma: no cover - compiled
    """float32 as bfloat16 bits; NaN stays NaN."""
    for i in range(x.size):
        bits = np.float32(x[i]).view(np.uint32)
        odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
        nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
        out[i] = np.uint16(0x7FC0) if nan else np.uint16(rounded)


@compiled
def narrow_float16(x: Float32, out: NDArray[np.uint16]) -> bool:  # pragma: no cover - compiled
    """float32 as float16 bits; whether none became infinite or was NaN."""
    bad = np.uint32(0)
    magic = np.uint32(HALF_MAGIC).view(np.float32)
    for i in range(x.size):
        whole = np.float32(x[i]).view(np.uint32)
        sign = np.uint32((whole >> np.uint32(16)) & np.uint32(0x8000))
        bits = np.uint32(whole & np.uint32(0x7FFFFFFF))
        odd = np.uint32((bits >> np.uint32(13)) & np.uint32(1))
        # 0xC8000FFF = ((15 - 127) << 23) + 0xFFF: the exponent's bias, and all but half of a last place
        normal = np.uint32(np.uint32(bits + np.uint32(0xC8000FFF) + odd) >> np.uint32(13))
        small = np.uint32(np.float32(bits.view(np.float32) + magic).view(np.uint32) - np.uint32(HALF_MAGIC))
        large = bits >= np.uint32(0x477FF000)  # 65520 and more rounds to infinity
        bad |= np.uint32(large)
        value = small if bits < np.uint32(113 << 23) else normal
        if large:
            value = np.uint32(0x7E00) if bits > np.uint32(0x7F800000) else np.uint32(0x7C00)
        out[i] = np.uint16(value | sign)
    return bad == 0


@compiled
def add_scaled(x: Float32, factor: np.float32, total: Float32) -> None:  # pragma: no cover - compiled
    """total += factor * x."""
    for i in range(x.size):
        total[i] += factor * x[i]


@compiled
def add_scaled_delta(
    x: Float32, base: Float32, factor: np.float32, total: Float32
) -> None:  # pragma: no cover - compiled
    """total += factor * (x - base)."""
    for i in range(x.size):
        total[i] += factor * (x[i] - base[i])


@compiled
def add_scaled_bfloat16(raw: NDArray[np.uint16], factor: np.float32, total: Float32) -> bool:  # pragma: no cover
    """total += factor * x, x in bfloat16 bits; whether all x are finite."""
    bad = np.uint32(0)
    for i in range(raw.size):
        bits = np.uint32(np.uint32(raw[i]) << np.uint32(16))
        bad |= np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
        total[i] += factor * bits.view(np.float32)
    return bad == 0


@compiled
def add_scaled_delta_bfloat16(
    raw: NDArray[np.uint16], base: Float32, factor: np.float32, total: Float32
) -> bool:  # pragma: no cover - compiled
    """total += factor * (x - base), x in bfloat16 bits; whether all x are finite."""
    bad = np.uint32(0)
    for i in range(raw.size):
        bits = np.uint32(np.uint32(raw[i]) << np.uint32(16))
        bad |= np.uint32((bits & np.uint32(0x7F800000)) == np.uint32(0x7F800000))
        total[i] += factor * (bits.view(np.float32) - base[i])
    return bad == 0


@summing
def dot(x: Float32, y: Float32) -> float:  # pragma: no cover - compiled
    """Inner product in float64."""
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(y[i])
    return total


@summing
def four_dots(
    a: Float32, b: Float32, x: Float32, y: Float32
) -> tuple[float, float, float, float]:  # pragma: no cover - compiled
    """Inner products ax, ay, bx, by in float64; each value is read and widened once."""
    ax = ay = bx = by = 0.0
    for i in range(a.size):
        p, q = np.float64(a[i]), np.float64(b[i])
        r, s = np.float64(x[i]), np.float64(y[i])
        ax += p * r
        ay += p * s
        bx += q * r
        by += q * s
    return ax, ay, bx, by


@summing
def absolute_sum(x: Float32) -> float:  # pragma: no cover - compiled
    """Sum of magnitudes in float64."""
    total = 0.0
    for i in range(x.size):
        total += np.float64(abs(x[i]))
    return total


@compiled
def add_squared_deviation(x: Float32, mean: Float32, total: Float32) -> None:  # pragma: no cover - compiled
    """total += (x - mean)^2."""
    for i in range(x.size):
        deviation = x[i] - mean[i]
        total[i] += deviation * deviation


@compiled
def where_largest(
    x: Float32, rank_by: Float32, threshold: np.float32, ties: int, out: Float32
) -> None:  # pragma: no cover - compiled
    """x where `rank_by` is above the threshold, or equal to it at an index below `ties`; 0 elsewhere."""
    zero, first = np.float32(0), min(max(ties, 0), x.size)
    for i in range(first):
        out[i] = x[i] if rank_by[i] >= threshold else zero
    rest, by, found = x[first:], rank_by[first:], out[first:]
    for i in range(rest.size):
        found[i] = rest[i] if by[i] > threshold else zero
