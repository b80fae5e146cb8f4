"""Values of lazy tensors as numpy arrays, cast to what formats store; of safetensors files without torch."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor
from chorus.errors import CheckpointError
from chorus.linalg import casts

Array = NDArray[np.generic]
BLOCK = 1 << 22  # values that are read at a time: 16 MB in float32
CLOSE = 1 << 18  # and where they go straight on: cast, written and hashed while the processor has them at hand
NUMPY = {"float64": np.float64, "float32": np.float32, "float16": np.float16}
BITS = {"float32": np.float32, "float16": np.uint16, "bfloat16": np.uint16}  # what `casts` takes them as
EXPONENTS = {"float16": 0x7C00, "bfloat16": 0x7F80}  # all bits of the exponent, which infinity and NaN alone have


def blocks(tensor: LazyTensor, row: int = 1, start: int = 0) -> Iterator[Array]:
    """The flattened tensor from `start` on piece by piece, in whole rows of `row` values: float16, float32 or float64.

    bfloat16, which numpy has not, comes as float32, exactly.
    """
    step = max(1, BLOCK // row) * row
    total = math.prod(tensor.shape)
    for at in range(start, total, step):
        yield numbers(tensor, at, min(at + step, total))


def as_they_lie(tensor: LazyTensor, row: int = 1) -> Iterator[Array]:
    """As `blocks`, in smaller pieces, for casts alone: bfloat16 comes as its bits, in uint16."""
    if not isinstance(tensor, FileTensor) or tensor.dtype != "bfloat16":
        for block in blocks(tensor, row):
            step = max(1, CLOSE // row) * row
            yield from (block[at : at + step] for at in range(0, len(block), step))
        return
    step, total = max(1, CLOSE // row) * row, math.prod(tensor.shape)
    for at in range(0, total, step):
        yield _bits(tensor.bytes(at, min(at + step, total)))


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
    return (_bits(raw).astype(np.uint32) << 16).view(np.float32)


def _bits(raw: NDArray[np.uint8]) -> NDArray[np.uint16]:
    return (raw.copy() if raw.ctypes.data % 2 else raw).view(np.uint16)


def finite(raw: Array, dtype: str) -> bool:
    """Whether values, as they are stored, hold neither NaN nor infinity; what are no floats do not."""
    if dtype in casts.READ:
        bits = raw.view(BITS[dtype])
        # safetensors promises no alignment, which the loop counts on
        if (told := casts.finite(bits if bits.flags.aligned else bits.copy(), dtype)) is not None:
            return told
    if dtype in EXPONENTS:
        # by the bits: a comparison of float16 is emulated, and four times as slow
        return not ((raw.view(np.uint16) & EXPONENTS[dtype]) == EXPONENTS[dtype]).any()
    return dtype not in NUMPY or bool(np.isfinite(raw.view(NUMPY[dtype])).all())


def as_float32(values: Array, name: str) -> NDArray[np.float32]:
    """float32, refused where a value is no number or lies beyond; uint16 are bfloat16's bits, as in all of these."""
    return _cast(values, "float32", name).view(np.float32)


def as_float16(values: Array, name: str) -> NDArray[np.float16]:
    """float16, to the nearest and even; refused where a value is no number or lies beyond."""
    return _cast(values, "float16", name).view(np.float16)


def as_bfloat16(values: Array, name: str) -> NDArray[np.uint16]:
    """The bits of bfloat16, to the nearest and even."""
    return _cast(values, "bfloat16", name).view(np.uint16)


def _cast(values: Array, target: str, name: str) -> Array:
    source = "bfloat16" if values.dtype == np.uint16 else str(values.dtype)
    if source == target:
        cast, whole = values, finite(values, source)
    elif source == "float16" or (made := casts.narrowed(values, source, target)) is None:
        cast = _by_numpy(values, target)
        whole = finite(cast, target)
    else:
        cast, whole = made
    if not whole:
        raise _refusal(_wide(values), name, target)
    return cast


def _by_numpy(values: Array, target: str) -> Array:
    wide = _wide(values)
    with np.errstate(over="ignore"):
        if target != "bfloat16":
            return wide.astype(target, copy=False)
        bits = wide.astype(np.float32, copy=False).view(np.uint32)
    if not np.isfinite(wide).all():  # rounding would carry some NaN round to zero
        return np.full(len(wide), EXPONENTS["bfloat16"], np.uint16)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)


def _wide(values: Array) -> Array:
    return from_bfloat16(values.view(np.uint8)) if values.dtype == np.uint16 else values


def _refusal(values: Array, name: str, dtype: str) -> CheckpointError:
    if not np.isfinite(values).all():
        return CheckpointError(
            f"{name}: holds NaN or infinity", "look at how it was trained; --to hf alone keeps such values"
        )
    wider = "float32 or bfloat16" if dtype == "float16" else "the model's own type"
    return CheckpointError(f"{name}: holds values beyond {dtype} (to {np.abs(values).max():.3g})", f"export {wider}")
