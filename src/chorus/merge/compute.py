"""The arithmetic of one output tensor: inputs in blocks, statistics, the method, the base added, the cast.

Two ways, chosen by the plan alone: `Combination`, for linear methods over the bytes of files, in compiled loops
without torch; `Computation`, for everything else, in torch on any device.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.directory import Model
from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.lazy_tensor import FileTensor
from chorus.errors import CheckpointError, ChorusError
from chorus.lazy import lazy
from chorus.linalg import native
from chorus.linalg.blocks import CHUNK
from chorus.linalg.draws import key_of
from chorus.merge.method import METHODS, Method
from chorus.merge.plan import COPY, Input, TensorPlan, split_of

torch = lazy("torch")

LOSS_SAMPLE = 32  # every so many chunks one is looked at for what the cast loses
NONFINITE_HINT = "its training has diverged, or the file is damaged; --allow-nonfinite merges it all the same"
Bytes = NDArray[np.uint8]
Observer = Callable[[Input, int, int, Bytes], None]


@dataclass(frozen=True)
class Encoded:
    """Values of a range as they are written, and sums of squares over its sampled chunks: error, weights, deltas."""

    data: Bytes
    loss: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Reader:
    """Reads blocks of input tensors. One a thread: it reuses its buffers.

    `observe(input, first value, number of values, bytes)` sees every block of the first pass over a file's tensor.
    """

    def __init__(
        self, models: Sequence[Model], *, device: str, allow_nonfinite: bool, observe: Observer | None = None
    ) -> None:
        self.models, self.device, self.allow_nonfinite = models, device, allow_nonfinite
        self.observe = observe
        self.bytes_read = 0
        self._seen: dict[Input, int] = {}
        self._blocks: dict[Input, tuple[int, int, Any]] = {}
        self._buffers: dict[Any, Any] = {}

    def start(self) -> None:
        """Begin with another output tensor."""
        for which in self._seen:
            release = getattr(self.tensor(which), "release", None)
            if release is not None:
                release()
        self._seen.clear()
        self._blocks.clear()

    def tensor(self, which: Input) -> Any:
        return self.models[which.model].checkpoint[which.tensor]

    def bytes(self, which: Input, start: int, stop: int) -> Bytes:
        """The bytes of a file's tensor as they are stored."""
        raw: Bytes = self.tensor(which).bytes(start, stop)
        self._passed(which, start, stop, raw.nbytes, raw)
        return raw

    def raw(self, which: Input, start: int, stop: int) -> Any:
        """Values as they are stored, in torch."""
        tensor = self.tensor(which)
        raw = tensor.flat(start, stop)
        self._passed(
            which, start, stop, raw.nbytes, tensor.bytes(start, stop) if isinstance(tensor, FileTensor) else None
        )
        return raw

    def _passed(self, which: Input, start: int, stop: int, size: int, data: Bytes | None) -> None:
        self.bytes_read += size
        if self._seen.get(which, 0) <= start:
            self._seen[which] = stop
            if self.observe is not None and data is not None:
                self.observe(which, start, stop - start, data)

    def array(self, which: Input, start: int, stop: int, key: Any) -> NDArray[np.float32]:
        """Values in float32 without torch, in the buffer of this key; refused where one is not finite."""
        dtype = self.tensor(which).dtype
        raw = native.as_array(self.bytes(which, start, stop), dtype)
        out = self.array_buffer(key, stop - start)
        if not native.widen(raw, dtype, out) and not self.allow_nonfinite:
            values = out if dtype == "float32" else raw.view(np.float16) if dtype == "float16" else out
            self._refuse(which, int(np.flatnonzero(~np.isfinite(values))[0]) + start, "a value that is not finite")
        return out

    def array_buffer(self, key: Any, size: int) -> NDArray[np.float32]:
        """Working memory that lives as long as the reader."""
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < size:
            buffer = self._buffers[key] = np.empty(size, np.float32)
        return buffer[:size]

    def values(self, which: Input, start: int, stop: int) -> Any:
        """Values in float32 (float64 where so stored), on the device; not to be written to.

        Valid until other values of the same tensor are asked for; asking again for the same costs nothing.
        """
        known = self._blocks.get(which)
        if known is not None and known[:2] == (start, stop):
            return known[2]
        unseen = self._seen.get(which, 0) <= start
        raw = self.raw(which, start, stop)
        dtype = torch.float64 if raw.dtype == torch.float64 else torch.float32
        slot = list(self._blocks).index(which) if known is not None else len(self._blocks)
        values = self.buffer(("input", slot), dtype, stop - start)
        values.copy_(raw)
        self._blocks[which] = (start, stop, values)
        if unseen and not self.allow_nonfinite and not math.isfinite(float(values.sum())):
            self._check_finite(which, values, start)
        return values

    def buffer(self, key: Any, dtype: Any, size: int) -> Any:
        """Working memory on the device that lives as long as the reader."""
        buffer = self._buffers.get((key, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return buffer[:size]

    def _check_finite(self, which: Input, values: Any, start: int) -> None:
        """The sum may overflow where no value is infinite: look at each."""
        wrong = (~torch.isfinite(values)).nonzero()
        if len(wrong):
            self._refuse(which, start + int(wrong[0, 0]), str(float(values[wrong[0, 0]])))

    def _refuse(self, which: Input, position: int, value: str) -> None:
        label = self.models[which.model].label
        raise CheckpointError(f"{label}: tensor {which.tensor} holds {value} at position {position:,}", NONFINITE_HINT)


class Work(Protocol):
    """The arithmetic of one output tensor."""

    tensor: TensorPlan

    def prepare(self) -> None:
        """Gather the statistics, which may take passes of their own."""

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges in which the result is to be computed, in order."""

    def encoded(self, start: int, stop: int) -> Encoded:
        """The result's bytes of a range from `ranges()`."""


def work_of(tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> Work:
    """The way to compute a tensor: without torch where that is possible."""
    if without_torch(tensor, reader.models, reader.device):
        return Combination(tensor, reader, seed=seed, block_values=block_values)
    return Computation(tensor, reader, seed=seed, block_values=block_values)


def without_torch(tensor: TensorPlan, models: Sequence[Model], device: str) -> bool:
    """Whether a tensor is copied or combined linearly from the bytes of files, on the CPU."""
    stored = [models[i.model].checkpoint[i.tensor] for i in tensor.all_inputs]
    if device != "cpu" or not all(isinstance(t, FileTensor) for t in stored):
        return False
    if tensor.method == COPY:
        return stored[0].dtype == tensor.dtype
    if tensor.dtype not in native.DTYPES or not all(t.dtype in native.DTYPES for t in stored):
        return False
    return METHODS.get(tensor.method).linear and split_of(tensor) == "element"


class _Base:
    """What both ways share: ranges of elementwise methods, and the keywords that a method takes."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> None:
        self.tensor, self.reader, self.seed = tensor, reader, seed
        self.block = max(CHUNK, block_values // CHUNK * CHUNK)
        self.shape, self.numel, self.count = tensor.shape, tensor.numel, len(tensor.inputs)
        self.method: Method | None = None
        self.deltas = False
        if tensor.method != COPY:
            self.method = METHODS.get(tensor.method)
            self.deltas = self.method.space == "deltas" or (
                self.method.space == "deltas_if_base" and tensor.base is not None
            )
        self._keywords: dict[str, Any] | None = None

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Blocks of whole chunks."""
        for start in range(0, self.numel, self.block):
            yield start, min(start + self.block, self.numel)

    def keywords(self, blocks: Any) -> dict[str, Any]:
        """Everything that the method takes by keyword; the statistics are gathered at the first call."""
        assert self.method is not None
        if self._keywords is None:
            keywords = dict(self.tensor.parameters)
            if "role" in self.method.uses:
                keywords["role"] = self.tensor.role
            keys = tuple(key_of(self.seed, self.method.name, i, self.tensor.name) for i in range(self.count))
            if "keys" in self.method.uses:
                keywords["keys"] = keys
            if self.method.statistics is not None:
                wanted = _keyword_names(self.method.statistics)
                given = {k: v for k, v in {**keywords, "keys": keys}.items() if k in wanted}
                keywords["statistics"] = self.call(self.method.statistics, blocks, given)
            self._keywords = keywords
        return self._keywords

    def call(self, function: Callable[..., Any], operands: Any, keywords: dict[str, Any]) -> Any:
        try:
            return function(operands, **keywords)
        except ValueError as error:  # by convention the user's fault: parameters or geometry
            raise ChorusError(f"{self.tensor.method}, tensor {self.tensor.name}: {error}") from error


class Combination(_Base):
    """sum_i c_i x_i, or base + sum_i c_i (x_i - base), in float32 from the files' bytes."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> None:
        super().__init__(tensor, reader, seed=seed, block_values=block_values)
        self._coefficients: Sequence[float] = ()
        self._one_block = self.numel <= self.block  # then one read serves the statistics and the result
        self._kept: tuple[list[Any], Any] | None = None

    def prepare(self) -> None:
        if self.method is not None:
            terms = native.Terms(self.count)
            self._coefficients = self.call(self.method.function, terms, self.keywords(self))

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]:
        """Blocks of what the method works on, as float32 arrays."""
        for start, stop in self.ranges():
            rows, base = self._operands(start, stop)
            if not self.deltas:
                yield start, rows
                continue
            yield (
                start,
                [np.subtract(x, base, out=self.reader.array_buffer(("delta", i), x.size)) for i, x in enumerate(rows)],
            )

    def _operands(self, start: int, stop: int) -> tuple[list[Any], Any]:
        if self._kept is not None:
            return self._kept
        rows = [self.reader.array(which, start, stop, ("input", i)) for i, which in enumerate(self.tensor.inputs)]
        base = self.tensor.base
        found = rows, None if base is None else self.reader.array(base, start, stop, "base")
        if self._one_block:
            self._kept = found
        return found

    def encoded(self, start: int, stop: int) -> Encoded:
        if self.method is None:
            return Encoded(self.reader.bytes(self.tensor.inputs[0], start, stop))
        rows, base = self._operands(start, stop)
        total = self.reader.array_buffer("total", stop - start)
        for first in range(0, stop - start, CHUNK):  # pieces that stay in the cache
            piece = slice(first, first + CHUNK)
            self._combine(total[piece], [x[piece] for x in rows], base[piece] if base is not None else None)
        bits, fits = native.narrow(total, self.tensor.dtype)
        if not fits and not self.reader.allow_nonfinite:
            _refuse_overflow(self.tensor, float(np.abs(total).max()))
        return Encoded(bits.view(np.uint8), self._loss(total, bits, base, start))

    def _combine(self, total: Any, rows: list[Any], base: Any) -> None:
        """Fill a piece: terms in the models' order, then the base, each step rounded to float32."""
        total[:] = 0
        for x, c in zip(rows, self._coefficients, strict=True):
            if c == 0:
                continue
            if self.deltas:
                native.add_scaled_delta(total, x, base, c)
            else:
                native.add_scaled(total, x, c)
        if self.deltas:
            native.add_scaled(total, base, 1.0)

    def _loss(self, total: Any, bits: Any, base: Any, start: int) -> tuple[float, float, float]:
        if self.tensor.dtype == "float32":
            return 0.0, 0.0, 0.0
        sums = np.zeros(3)
        for piece in _sampled(start, total.size):
            exact = total[piece]
            delta = exact - base[piece] if base is not None else np.zeros(1, np.float32)
            error = native.squared_error(exact, bits[piece], self.tensor.dtype)
            sums += error, native.dots([exact])[0, 0], native.dots([delta])[0, 0]
        return float(sums[0]), float(sums[1]), float(sums[2])


class Computation(_Base):
    """Any method in torch, on any device, from any kind of tensor."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> None:
        super().__init__(tensor, reader, seed=seed, block_values=block_values)
        self.base: Any = None  # the base's values of the last block, for reports
        self.split = split_of(tensor) if self.method is not None else "element"

    def prepare(self) -> None:
        if self.method is not None:
            self.keywords(self)

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]:
        """Blocks of what the method works on: weights or deltas (see chorus.linalg.blocks.Blocks)."""
        for start in range(0, self.numel, self.block):
            yield start, self.operands(start, min(start + self.block, self.numel))

    def operands(self, start: int, stop: int) -> list[Any]:
        """The method's operands for a range of values."""
        values = [self.reader.values(i, start, stop) for i in self.tensor.inputs]
        if self.tensor.base is None:
            self.base = None
            return values
        self.base = self.reader.values(self.tensor.base, start, stop)
        if not self.deltas:
            return values
        return [
            torch.sub(x, self.base, out=self.reader.buffer(("delta", i), _wider(x, self.base), stop - start))
            for i, x in enumerate(values)
        ]

    def ranges(self) -> Iterator[tuple[int, int]]:
        if self.split == "element":
            yield from super().ranges()
            return
        step = max(1, self.numel)
        if self.split == "row":
            row = math.prod(self.shape[1:])
            step = max(1, CHUNK // row) * row  # part of the arithmetic: the same for any block size
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def compute(self, start: int, stop: int) -> Any:
        """The merged values of a range from `ranges()`, flat, in the arithmetic's type."""
        if self.method is None:
            self.base = None
            return self.reader.raw(self.tensor.inputs[0], start, stop)
        keywords = self.keywords(self)
        if "offset" in self.method.uses:
            keywords["offset"] = start
        operands = self.operands(start, stop)
        if self.split != "element" and len(self.shape) > 1:
            operands = [x.reshape(-1, *self.shape[1:]) for x in operands]
        merged = self.call(self.method.function, operands, keywords).reshape(-1)
        if self.deltas:
            merged = merged + self.base
        return merged

    def encoded(self, start: int, stop: int) -> Encoded:
        merged = self.compute(start, stop)
        cast = merged.to(torch_dtype(self.tensor.dtype)).cpu().contiguous()
        narrower = self.tensor.dtype == "float16" and merged.dtype != torch.float16
        if narrower and not self.reader.allow_nonfinite and bool(torch.isinf(cast).any()):
            _refuse_overflow(self.tensor, float(merged.abs().max()))
        return Encoded(cast.view(torch.uint8).numpy(), self._loss(merged, cast, start))

    def _loss(self, merged: Any, cast: Any, start: int) -> tuple[float, float, float]:
        sums = [0.0, 0.0, 0.0]
        if merged.is_floating_point() and itemsize(self.tensor.dtype) < merged.element_size():
            for piece in _sampled(start, merged.numel()):
                exact = merged[piece].double()
                sums[0] += float((cast[piece].to(exact) - exact).square().sum())
                sums[1] += float(exact.square().sum())
                if self.base is not None:
                    sums[2] += float((exact - self.base[piece].double()).square().sum())
        return sums[0], sums[1], sums[2]


def _sampled(start: int, size: int) -> Iterator[slice]:
    """The chunks of a range that are looked at for the cast's loss."""
    for offset in range(-start % CHUNK, size, CHUNK):
        if (start + offset) // CHUNK % LOSS_SAMPLE == 0:
            yield slice(offset, offset + CHUNK)


def _refuse_overflow(tensor: TensorPlan, largest: float) -> None:
    raise ChorusError(
        f"tensor {tensor.name}: a merged value of {largest:.4g} does not fit {tensor.dtype} (at most 65504)",
        "write out_dtype: bfloat16 or float32 in the recipe",
    )


def _wider(a: Any, b: Any) -> Any:
    return torch.promote_types(a.dtype, b.dtype)


def _keyword_names(function: Callable[..., Any]) -> set[str]:
    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
