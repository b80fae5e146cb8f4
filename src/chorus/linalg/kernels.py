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
    for i in range(min(ties, x.size)):
        out[i] = x[i] if abs(x[i]) >= threshold else np.float32(0)
    for i in range(max(ties, 0), x.size):
        out[i] = x[i] if abs(x[i]) > threshold else np.float32(0)


@compiled
def drop_largest(x: Float32, threshold: np.float32, ties: int, out: Float32) -> None:  # pragma: no cover - compiled
    """The complement of `keep_largest`: 0 where that keeps."""
    for i in range(min(ties, x.size)):
        out[i] = np.float32(0) if abs(x[i]) >= threshold else x[i]
    for i in range(max(ties, 0), x.size):
        out[i] = np.float32(0) if abs(x[i]) > threshold else x[i]


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
def start_vote(work: NDArray[np.float32]) -> None:  # pragma: no cover - compiled
    """Clear the running total and divisor of an election of signs."""
    work[:] = 0


@compiled
def vote(x: Float32, weight: np.float32, total: Float32) -> None:  # pragma: no cover - compiled
    """total += weight * x."""
    for i in range(x.size):
        total[i] += weight * x[i]


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
