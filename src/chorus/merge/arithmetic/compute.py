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

from chorus.checkpoints.adapter import same_tensor
from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.lazy_tensor import FileTensor
from chorus.checkpoints.model import Model
from chorus.errors import ChorusError
from chorus.lazy import lazy
from chorus.linalg import native
from chorus.linalg.blocks import CHUNK
from chorus.linalg.draws import key_of
from chorus.merge.arithmetic.reader import Bytes, Reader
from chorus.merge.arithmetic.treatment import matrix_shape
from chorus.merge.method import METHODS, Method, compute_now
from chorus.merge.plan import COPY, Input, TensorPlan, split_of

torch = lazy("torch")

LOSS_SAMPLE = 32  # every so many chunks one is looked at for what the cast loses


@dataclass(frozen=True)
class Encoded:
    """Values of a range as they are written, and sums of squares over its sampled chunks: error, weights, deltas."""

    data: Bytes
    loss: tuple[float, float, float] = (0.0, 0.0, 0.0)


class Work(Protocol):
    """The arithmetic of one output tensor."""

    tensor: TensorPlan

    def prepare(self) -> None:
        """Gather the statistics, which may take passes of their own."""

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges in which the result is to be computed, in order."""

    def encoded(self, start: int, stop: int) -> Encoded:
        """The result's bytes of a range from `ranges()`."""


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
            engine = {"role": self.tensor.role, "treatment": self.tensor.treatment, "memo": compute_now}
            keywords |= {k: v for k, v in engine.items() if k in self.method.uses}
            if "shape" in self.method.uses:
                keywords["shape"] = matrix_shape(self.shape) if len(self.shape) > 1 else (self.numel, 1)
            keys = tuple(key_of(self.seed, self.method.name, i, self.tensor.name) for i in range(self.count))
            if "keys" in self.method.uses:
                keywords["keys"] = keys
            if self.method.statistics is not None:
                wanted = _keyword_names(self.method.statistics)
                given = {k: v for k, v in {**keywords, "keys": keys, **engine}.items() if k in wanted}
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

    def prepare(self) -> None:
        if self.method is not None:
            terms = native.Terms(self.count)
            self._coefficients = self.call(self.method.function, terms, self.keywords(self))

    def __iter__(self) -> Iterator[tuple[int, list[Any]]]:
        """Chunks of what the method works on, as float32 arrays, small enough to stay in the cache."""
        for start in range(0, self.numel, CHUNK):
            stop = min(start + CHUNK, self.numel)
            rows = [self.reader.array(which, start, stop, ("input", i)) for i, which in enumerate(self.tensor.inputs)]
            if self.deltas:
                assert self.tensor.base is not None
                base = self.reader.array(self.tensor.base, start, stop, "base")
                rows = [np.subtract(x, base, out=x) for x in rows]
            yield start, rows

    def encoded(self, start: int, stop: int) -> Encoded:
        if self.method is None:
            return Encoded(self.reader.bytes(self.tensor.inputs[0], start, stop))
        raws = [self.reader.numbers(which, start, stop) for which in self.tensor.inputs]
        base_raw = self.reader.numbers(self.tensor.base, start, stop) if self.tensor.base else None
        data = np.empty((stop - start) * itemsize(self.tensor.dtype), np.uint8)
        bits = native.as_array(data, self.tensor.dtype)
        loss = np.zeros(3)
        for first in range(0, stop - start, CHUNK):
            piece = slice(first, min(first + CHUNK, stop - start))
            base = None
            if base_raw is not None:
                base = self._widened(base_raw[piece], start + first)
            total = self._total([raw[piece] for raw in raws], base, start + first)
            if not native.narrow(total, self.tensor.dtype, bits[piece]) and not self.reader.allow_nonfinite:
                _refuse_overflow(self.tensor, float(np.abs(total).max()))
            if (start + first) // CHUNK % LOSS_SAMPLE == 0:
                loss += self._loss(total, bits[piece], base)
        return Encoded(data, (float(loss[0]), float(loss[1]), float(loss[2])))

    def _widened(self, raw: Any, offset: int) -> Any:
        assert self.tensor.base is not None
        out = self.reader.array_buffer("base", raw.size)
        if not native.widen(raw, self.reader.tensor(self.tensor.base).dtype, out):
            self.reader.refuse_nonfinite(self.tensor.base, offset, raw.size)
        return out

    def _total(self, raws: list[Any], base: Any, offset: int) -> Any:
        """A chunk: terms in the models' order, then the base, each step rounded to float32."""
        size = raws[0].size
        total, scratch = (self.reader.array_buffer(key, size) for key in ("total", "scratch"))
        total[:] = 0
        for which, raw, c in zip(self.tensor.inputs, raws, self._coefficients, strict=True):
            dtype = self.reader.tensor(which).dtype
            if c == 0:
                continue
            if not native.add_scaled(total, raw, dtype, c, base if self.deltas else None, scratch):
                self.reader.refuse_nonfinite(which, offset, size)
        if self.deltas:
            native.add_scaled(total, base, "float32", 1.0, None, scratch)
        return total

    def _loss(self, total: Any, bits: Any, base: Any) -> NDArray[np.float64]:
        """Sums of squares over a chunk: the cast's error, the weights, the deltas."""
        if self.tensor.dtype == "float32":
            return np.zeros(3)
        error = native.squared_error(total, bits, self.tensor.dtype)
        delta = native.dots([total - base])[0, 0] if base is not None else 0.0
        return np.array([error, native.dots([total])[0, 0], delta])


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
        if self.tensor.base is None:
            self.base = None
            return [self.reader.values(which, start, stop) for which in self.tensor.inputs]
        self.base = self.reader.values(self.tensor.base, start, stop)
        if not self.deltas:
            return [self.reader.values(which, start, stop) for which in self.tensor.inputs]
        return [self._delta(i, which, start, stop) for i, which in enumerate(self.tensor.inputs)]

    def _delta(self, index: int, which: Input, start: int, stop: int) -> Any:
        """A model's difference to the base; of adapters and task vectors on this very base what they add, exactly."""
        assert self.tensor.base is not None
        stored, base = self.reader.tensor(which), self.reader.tensor(self.tensor.base)
        if hasattr(stored, "difference") and same_tensor(stored.base, base):
            exact = stored.difference(start, stop)
            if exact is not None:
                return self.reader.checked(which, exact)
        values = self.reader.values(which, start, stop)
        return torch.sub(
            values, self.base, out=self.reader.buffer(("delta", index), _wider(values, self.base), stop - start)
        )

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
        merged = self.method_values(start, stop)
        return merged + self.base if self.deltas else merged

    def method_values(self, start: int, stop: int) -> Any:
        """What the method returns for a range, flat: of methods on deltas the merged delta, without the base."""
        assert self.method is not None
        keywords = self.keywords(self)
        if "offset" in self.method.uses:
            keywords["offset"] = start
        operands = self.operands(start, stop)
        if self.split != "element" and len(self.shape) > 1:
            operands = [x.reshape(-1, *self.shape[1:]) for x in operands]
        return self.call(self.method.function, operands, keywords).reshape(-1)

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
