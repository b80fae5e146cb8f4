"""Values of an export beside the source's: in its type by other means than the exporters', and how far they are off."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.export.values import BLOCK, from_bfloat16, numbers
from chorus.lazy import lazy
from chorus.verify.protocol import TensorProof

torch = lazy("torch")

Raw = Callable[[int, int], NDArray[np.uint8]]  # the bytes of values so and so, as they lie in a file


def rounded(values: NDArray[np.generic], dtype: str) -> NDArray[np.generic]:
    """Values in another type, to the nearest and even: by numpy's float16 and torch's bfloat16 (its bits)."""
    if dtype == "bfloat16":
        halves = torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(torch.bfloat16).view(torch.int16)
        found: NDArray[np.generic] = halves.numpy()
        return found
    with np.errstate(over="ignore"):
        return values.astype(dtype, copy=False)


def floats(raw: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    """float32 of the bytes of a type; the way back from `rounded`."""
    if dtype == "bfloat16":
        return from_bfloat16(raw)
    # beyond float32 lies only what a damage made of a float64
    with np.errstate(over="ignore"):
        return raw.copy().view(dtype).astype(np.float32)


def finite(raw: NDArray[np.uint8], dtype: str) -> bool:
    """Whether all of them are numbers, by the bits of the exponent where the type has 16."""
    if dtype in ("float32", "float64"):
        return bool(np.isfinite(raw.copy().view(dtype)).all())
    mask = np.uint16(0x7F80 if dtype == "bfloat16" else 0x7C00)
    return not ((raw.copy().view(np.uint16) & mask) == mask).any()


def source_values(tensor: LazyTensor, start: int, stop: int) -> NDArray[np.float32]:
    """Values so and so of a source's tensor."""
    return np.asarray(numbers(tensor, start, stop), np.float32)


class Distance:
    """Root mean square of what values are off by, relative to the source's own, block by block."""

    def __init__(self) -> None:
        self._off = self._whole = 0.0

    def add(self, held: NDArray[np.generic], values: NDArray[np.generic]) -> None:
        """The next block of both."""
        # in float64: of a million squares float32 loses the small ones
        with np.errstate(over="ignore", invalid="ignore"):
            self._off += float(np.square(np.subtract(held, values, dtype=np.float64)).sum())
            self._whole += float(np.square(values, dtype=np.float64).sum())

    @property
    def error(self) -> float:
        return math.sqrt(self._off / self._whole) if self._whole else math.sqrt(self._off)


def plain_proof(name: str, dtype: str, count: int, raw: Raw, source: LazyTensor) -> TensorProof:
    """A tensor of the first `count` of the source's values, unquantised: its bytes are theirs, rounded to its type."""
    size, first, distance = np.dtype("int16" if dtype == "bfloat16" else dtype).itemsize, -1, Distance()
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        mine = raw(start, stop)
        # counters and positions are no values to be rounded
        whole = dtype not in FLOATS
        values = source.flat(start, stop).numpy() if whole else numbers(source, start, stop)
        wanted = np.frombuffer((values if whole else rounded(values, dtype)).tobytes(), np.uint8)
        other = np.flatnonzero(mine != wanted) if len(mine) == len(wanted) else np.array([0])
        first = size * start + int(other[0]) if first < 0 and len(other) else first
        if not whole:
            distance.add(floats(mine, dtype), values)
    problem = f"differs from the source in {dtype} from its byte {first:,} on" if first >= 0 else ""
    return TensorProof(name, dtype, first < 0, distance.error, problem)
