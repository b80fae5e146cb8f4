"""Copies and linear methods over the bytes of files, on the CPU: compiled loops, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, cast

from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.lazy_tensor import FileTensor
from chorus.checkpoints.model import Model
from chorus.lazy import lazy
from chorus.linalg import native
from chorus.linalg.blocks import CHUNK, Blocks
from chorus.merge.arithmetic.encoded import LOSS_SAMPLE, Encoded, refuse_overflow
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.steps import MethodCall, context_of
from chorus.merge.arithmetic.tensor_plan import TensorPlan

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    Raw = NDArray[np.float32] | NDArray[np.uint16]
else:
    np = lazy("numpy")


def without_torch(tensor: TensorPlan, models: Sequence[Model], device: str) -> bool:
    """Whether a tensor is copied or combined linearly from the bytes of files, on the CPU."""
    stored = [models[i.model].checkpoint[i.tensor] for i in tensor.all_inputs]
    # an adapter's tensors, a planned merge's and a pickle's have no bytes in a file: torch makes them
    if device != "cpu" or not all(isinstance(t, FileTensor) for t in stored):
        return False
    if not tensor.steps:
        # a copy in another type is a cast, and takes the general way
        return stored[0].dtype == tensor.dtype
    # float64 and the eight-bit types are too rare for kernels of their own
    if tensor.dtype not in native.DTYPES or not all(t.dtype in native.DTYPES for t in stored):
        return False
    # a linear step's function tells its coefficients without seeing a value; an auxiliary tensor it would have to see.
    # model_stock by filters and nuslerp by rows are linear too, but have coefficients for each row
    only = len(tensor.steps) == 1 and not tensor.auxiliary
    return only and tensor.steps[0].definition.linear and tensor.steps[0].split(len(tensor.shape)) == "element"


class Combination:
    """sum_i c_i x_i, or base + sum_i c_i (x_i - base), in float32 from the files' bytes; a copy where no step is."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block: int) -> None:
        self.tensor, self.reader, self.block, self.deltas = tensor, reader, block, tensor.deltas
        self.count, self.numel, self.shape = len(tensor.inputs), tensor.numel, tensor.shape
        self._call = (
            MethodCall(tensor.steps[0], context_of(tensor, seed=seed, block=block), self.count)
            if tensor.steps
            else None
        )
        self._coefficients: Sequence[float] = ()

    def prepare(self) -> None:
        if self._call is not None:
            self._coefficients = self._call.coefficients(cast("Blocks", self))  # arrays in the place of tensors

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Blocks of whole chunks."""
        for start in range(0, self.numel, self.block):
            yield start, min(start + self.block, self.numel)

    def __iter__(self) -> Iterator[tuple[int, list[Floats]]]:
        """Chunks of what the method works on, as float32 arrays, small enough to stay in the cache."""
        for start in range(0, self.numel, CHUNK):
            stop = min(start + CHUNK, self.numel)
            # a buffer an input, overwritten by the next chunk: who gathers statistics may keep no row
            rows = [self.reader.array(which, start, stop, ("input", i)) for i, which in enumerate(self.tensor.inputs)]
            if self.deltas:
                assert self.tensor.base is not None
                base = self.reader.array(self.tensor.base, start, stop, "base")
                # in place, since the rows are the reader's buffers and never the mapped file
                rows = [np.subtract(x, base, out=x) for x in rows]
            yield start, rows

    def encoded(self, start: int, stop: int) -> Encoded:
        if self._call is None:
            # from the mapping straight to the output: what float32 does not hold, such as integers, passes bit for bit
            return Encoded(self.reader.bytes(self.tensor.inputs[0], start, stop))
        raws = [self.reader.numbers(which, start, stop) for which in self.tensor.inputs]
        base_raw = self.reader.numbers(self.tensor.base, start, stop) if self.tensor.base else None
        # a new array, no buffer: who reads a planned tensor keeps the pieces of several ranges side by side
        data = np.empty((stop - start) * itemsize(self.tensor.dtype), np.uint8)
        bits = native.as_array(data, self.tensor.dtype)
        loss = np.zeros(3)
        for first in range(0, stop - start, CHUNK):
            piece = slice(first, min(first + CHUNK, stop - start))
            base = None if base_raw is None else self._widened(base_raw[piece], start + first)
            total = self._total([raw[piece] for raw in raws], base, start + first)
            # float16 is meant: bfloat16 has float32's range
            if not native.narrow(total, self.tensor.dtype, bits[piece]) and not self.reader.allow_nonfinite:
                refuse_overflow(self.tensor, float(np.abs(total).max()))
            # by the chunk's place in the tensor, so that the same ones are looked at whatever the block
            if (start + first) // CHUNK % LOSS_SAMPLE == 0:
                loss += self._loss(total, bits[piece], base)
        return Encoded(data, (float(loss[0]), float(loss[1]), float(loss[2])))

    def _widened(self, raw: Raw, offset: int) -> Floats:
        assert self.tensor.base is not None
        out = self.reader.array_buffer("base", raw.size)
        if not native.widen(raw, self.reader.tensor(self.tensor.base).dtype, out):
            self.reader.refuse_nonfinite(self.tensor.base, offset, raw.size)
        return out

    def _total(self, raws: list[Raw], base: Floats | None, offset: int) -> Floats:
        """A chunk: terms in the models' order, then the base, each step rounded to float32."""
        size = raws[0].size
        total, scratch = (self.reader.array_buffer(key, size) for key in ("total", "scratch"))
        total[:] = 0
        for which, raw, c in zip(self.tensor.inputs, raws, self._coefficients, strict=True):
            dtype = self.reader.tensor(which).dtype
            # as in linear_combination: 0 times an infinity that is allowed would be NaN
            if c == 0:
                continue
            if not native.add_scaled(total, raw, dtype, c, base if self.deltas else None, scratch):
                self.reader.refuse_nonfinite(which, offset, size)
        if self.deltas:
            # last: were small deltas added to the weight one by one, each sum would round them to its last place
            assert base is not None
            native.add_scaled(total, base, "float32", 1.0, None, scratch)
        return total

    def _loss(self, total: Floats, bits: Raw, base: Floats | None) -> NDArray[np.float64]:
        """Sums of squares over a chunk: the cast's error, the weights, the deltas."""
        if self.tensor.dtype == "float32":
            return np.zeros(3)
        error = native.squared_error(total, bits, self.tensor.dtype)
        delta = native.dots([total - base])[0, 0] if base is not None else 0.0
        return np.array([error, native.dots([total])[0, 0], delta])
