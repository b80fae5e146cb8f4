"""Checkpoint numbers without torch: bfloat16, float16 and float32 bytes as float32 arrays and back, compiled.

A linear combination of many files is bound by memory traffic, and importing torch costs more than reading a
gigabyte; so the engine's fast path works on numpy arrays with these loops. Rounding is to nearest, ties to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from chorus.linalg import kernels

    Array = NDArray[Any]
else:
    np = lazy("numpy")
    kernels = lazy("chorus.linalg.kernels")


DTYPES = ("bfloat16", "float16", "float32")


class Terms(Sequence["Terms"]):
    """Stands for a method's tensors where only the coefficients of their combination are wanted."""

    def __init__(self, count: int) -> None:
        self._size = count

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: object) -> NoReturn:
        raise TypeError("a method that is declared linear may only pass its tensors to linear_combination")


def as_array(raw: Array, dtype: str) -> Array:
    """Bytes [n * size] as numpy numbers; bfloat16 and float16 as their bits in uint16. Copied where misaligned."""
    wanted = np.dtype(np.float32 if dtype == "float32" else np.uint16)
    if raw.ctypes.data % wanted.itemsize:  # safetensors promises no alignment
        raw = raw.copy()
    return raw.view(wanted)


def widen(raw: Array, dtype: str, out: Array) -> bool:
    """Write the values [n] as float32 into `out`; whether all of them are finite."""
    if dtype == "bfloat16":
        return bool(kernels.widen_bfloat16(raw, out))
    if dtype == "float16":
        finite = bool(kernels.widen_float16(raw, out))
        if not finite:  # rare, and only numpy knows what to make of them
            out[:] = raw.view(np.float16)
        return finite
    out[:] = raw
    return bool(kernels.all_finite(out))


def narrow(values: Array, dtype: str, out: Array) -> bool:
    """Write float32 values [n] in a type into `out`, as its bits; whether none became infinite."""
    if dtype == "float32":
        out[:] = values
        return True
    if dtype == "bfloat16":
        kernels.narrow_bfloat16(values, out)
        return True
    return bool(kernels.narrow_float16(values, out))


def add_scaled(total: Array, raw: Array, dtype: str, coefficient: float, base: Array | None, scratch: Array) -> bool:
    """total += c x, or c (x - base), in place; x as stored. Whether every x is finite."""
    c = np.float32(coefficient)
    if dtype == "bfloat16":  # without a pass of its own over widened values
        if base is None:
            return bool(kernels.add_scaled_bfloat16(raw, c, total))
        return bool(kernels.add_scaled_delta_bfloat16(raw, base, c, total))
    finite = widen(raw, dtype, scratch)
    if base is None:
        kernels.add_scaled(scratch, c, total)
    else:
        kernels.add_scaled_delta(scratch, base, c, total)
    return finite


def dots(rows: Sequence[Array]) -> Array:
    """Inner products of all pairs of float32 rows [n], in float64: [N, N]."""
    n = len(rows)
    found = np.empty((n, n))
    for i in range(0, n, 2):  # pairs against pairs: each value is read for two products
        pair = rows[i : i + 2]
        for j in range(i, n, 2):
            other = rows[j : j + 2]
            if len(pair) == len(other) == 2:
                found[i : i + 2, j : j + 2] = np.reshape(kernels.four_dots(*pair, *other), (2, 2))
            else:
                found[i : i + 2, j : j + 2] = [[kernels.dot(x, y) for y in other] for x in pair]
            found[j : j + 2, i : i + 2] = found[i : i + 2, j : j + 2].T
    return found


def squared_error(exact: Array, cast: Array, dtype: str) -> float:
    """sum (cast - exact)^2 in float64, `cast` as `narrow` gave it."""
    back = np.empty_like(exact)
    widen(cast, dtype, back)
    back -= exact
    return float(kernels.dot(back, back))
