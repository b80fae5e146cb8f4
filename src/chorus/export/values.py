"""Values of lazy tensors as numpy arrays, cast to what formats store; of safetensors files without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor
from chorus.errors import CheckpointError

Array = NDArray[np.generic]
BLOCK = 1 << 22  # values that are read at a time: 16 MB in float32
MANY = 100_000_000  # values from which compiled loops repay their import
NUMPY = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
HALF_EXPONENT = 0x7C00  # all bits of float16's exponent, which infinity and NaN alone have


def blocks(tensor: LazyTensor, row: int = 1, most: int = BLOCK) -> Iterator[Array]:
    """The flattened tensor piece by piece, in whole rows of `row` values: float16, float32 or float64.

    bfloat16, which numpy has not, comes as float32, exactly.
    """
    step = max(1, most // row) * row
    total = math.prod(tensor.shape)
    for start in range(0, total, step):
        yield numbers(tensor, start, min(start + step, total))


def numbers(tensor: LazyTensor, start: int, stop: int) -> Array:
    """Values `start` to `stop` of the flattened tensor (see `blocks`)."""
    if isinstance(tensor, FileTensor):
        raw = tensor.bytes(start, stop)
        if tensor.dtype in NUMPY:
            return (
                raw.view(NUMPY[tensor.dtype]) if _aligned(raw, tensor.dtype) else raw.copy().view(NUMPY[tensor.dtype])
            )
        if tensor.dtype == "bfloat16":
            return from_bfloat16(raw)
    values = tensor.flat(start, stop)
    if tensor.dtype not in NUMPY:
        values = values.float()
    found: Array = values.detach().cpu().numpy()
    return found


def _aligned(raw: NDArray[np.uint8], dtype: str) -> bool:
    return raw.ctypes.data % np.dtype(NUMPY[dtype]).itemsize == 0


def from_bfloat16(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 of bfloat16's bytes: its upper half."""
    halves = np.frombuffer(raw.tobytes() if raw.ctypes.data % 2 else raw, np.uint16)
    return (halves.astype(np.uint32) << 16).view(np.float32)


def as_float32(values: Array, name: str) -> NDArray[np.float32]:
    """float32, refused where a value is no number or lies beyond."""
    with np.errstate(over="ignore"):
        cast = values.astype(np.float32, copy=False)
    if not np.isfinite(cast).all():
        raise _beyond(name, "float32")
    return cast


def as_float16(values: Array, name: str, *, compiled: bool = False) -> NDArray[np.float16]:
    """float16, to the nearest and even; refused where a value is no number or lies beyond.

    numpy takes 2.7 ns a value, a compiled loop 0.2 (and half a second once, to be imported); the bits are the same.
    """
    if compiled and values.dtype != np.float16:
        from chorus.linalg.native import narrow

        bits = np.empty(len(values), np.uint16)
        whole = narrow(as_float32(values, name), "float16", bits)
    else:
        with np.errstate(over="ignore"):
            bits = values.astype(np.float16, copy=False).view(np.uint16)
        # by the bits: a comparison of float16 is emulated, and four times as slow
        whole = not ((bits & HALF_EXPONENT) == HALF_EXPONENT).any()
    if not whole:
        raise _beyond(name, "float16")
    return bits.view(np.float16)


def as_bfloat16(values: Array, name: str) -> NDArray[np.uint16]:
    """The bits of bfloat16, to the nearest and even."""
    bits = as_float32(values, name).view(np.uint32)
    rounded = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    if ((rounded & 0x7F80) == 0x7F80).any():
        raise _beyond(name, "bfloat16")
    return rounded


def _beyond(name: str, dtype: str) -> CheckpointError:
    wider = "float32" if dtype == "float16" else "the model's own type"
    return CheckpointError(
        f"{name}: holds NaN, infinity, or values beyond {dtype}", f"export {wider}, or look at how it was trained"
    )
