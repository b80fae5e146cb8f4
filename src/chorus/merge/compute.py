"""The arithmetic of one output tensor: inputs as float blocks, statistics, the method, the base added."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from chorus.checkpoints.directory import Model
from chorus.errors import CheckpointError, ChorusError
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.draws import key_of
from chorus.merge.method import METHODS
from chorus.merge.plan import COPY, Input, TensorPlan, split_of

torch = lazy("torch")

Observer = Callable[[Input, int, Any], None]


class Reader:
    """Reads blocks of input tensors as floats on the device. One a thread: it reuses its buffers.

    `observe(input, start, raw)` sees every block of the first pass over a tensor.
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
        self._seen.clear()
        self._blocks.clear()

    def raw(self, which: Input, start: int, stop: int) -> Any:
        """Values as they are stored."""
        raw = self.models[which.model].checkpoint[which.tensor].flat(start, stop)
        self.bytes_read += raw.nbytes
        if self._seen.get(which, 0) <= start:
            self._seen[which] = stop
            if self.observe is not None:
                self.observe(which, start, raw)
        return raw

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
        """Working memory that lives as long as the reader."""
        buffer = self._buffers.get((key, dtype))
        if buffer is None or buffer.numel() < size:
            buffer = self._buffers[key, dtype] = torch.empty(size, dtype=dtype, device=self.device)
        return buffer[:size]

    def _check_finite(self, which: Input, values: Any, start: int) -> None:
        """The sum may overflow where no value is infinite: look at each."""
        wrong = (~torch.isfinite(values)).nonzero()
        if len(wrong):
            raise CheckpointError(
                f"{self.models[which.model].label}: tensor {which.tensor} holds {float(values[wrong[0, 0]])} "
                f"at position {start + int(wrong[0, 0]):,}",
                "its training has diverged, or the file is damaged; --allow-nonfinite merges it all the same",
            )


class Computation:
    """One output tensor. Statistics are gathered when first needed, then any range can be computed."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> None:
        self.tensor, self.reader = tensor, reader
        self.block = max(CHUNK, block_values // CHUNK * CHUNK)
        self.shape, self.numel, self.count = tensor.shape, tensor.numel, len(tensor.inputs)
        self.base: Any = None  # the base's values of the last block, for reports
        self._keywords: dict[str, Any] | None = None
        self.seed = seed
        if tensor.method != COPY:
            self.method = METHODS.get(tensor.method)
            self.split = split_of(tensor)
            self.deltas = self.method.space == "deltas" or (
                self.method.space == "deltas_if_base" and tensor.base is not None
            )

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
        """The ranges in which the result is to be computed, in order."""
        step = self.block
        if self.tensor.method != COPY and self.split == "row":
            row = math.prod(self.shape[1:])
            step = max(1, CHUNK // row) * row  # part of the arithmetic: the same for any block size
        elif self.tensor.method != COPY and self.split == "tensor":
            step = max(1, self.numel)
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def compute(self, start: int, stop: int) -> Any:
        """The merged values of a range from `ranges()`, flat, in the arithmetic's type."""
        if self.tensor.method == COPY:
            self.base = None
            (which,) = self.tensor.inputs
            return self.reader.raw(which, start, stop)
        keywords = self.keywords()
        if "offset" in self.method.uses:
            keywords["offset"] = start
        operands = self.operands(start, stop)
        if self.split != "element" and len(self.shape) > 1:
            operands = [x.reshape(-1, *self.shape[1:]) for x in operands]
        merged = self._call(self.method.function, operands, keywords).reshape(-1)
        if self.deltas:
            merged = merged + self.base
        return merged

    def keywords(self) -> dict[str, Any]:
        """Everything that the method takes by keyword; the statistics are gathered at the first call."""
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
                keywords["statistics"] = self._call(self.method.statistics, self, given)
            self._keywords = keywords
        return self._keywords

    def _call(self, function: Callable[..., Any], operands: Any, keywords: dict[str, Any]) -> Any:
        try:
            return function(operands, **keywords)
        except ValueError as error:  # by convention the user's fault: parameters or geometry
            raise ChorusError(f"{self.tensor.method}, tensor {self.tensor.name}: {error}") from error


def _wider(a: Any, b: Any) -> Any:
    return torch.promote_types(a.dtype, b.dtype)


def _keyword_names(function: Callable[..., Any]) -> set[str]:
    import inspect

    return {p.name for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}
