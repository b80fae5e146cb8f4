"""The arithmetic of a matrix that a subspace method decomposes: deltas whole or in factors, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.adapter import low_rank_delta
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.low_rank import LowRank
from chorus.merge.arithmetic.compute import Computation, Encoded
from chorus.merge.arithmetic.memo import CachedMemo
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.treatment import matrix_shape
from chorus.merge.plan import Input, TensorPlan

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")
xxhash = lazy("xxhash")


class Deltas(Sequence[Any]):
    """A tensor's deltas, each read anew when it is asked for: factors of an adapter, else a matrix [m, n]."""

    def __init__(self, owner: Whole) -> None:
        self.owner = owner

    def __len__(self) -> int:
        return self.owner.count

    def __getitem__(self, index: Any) -> Any:
        return self.owner.delta(range(len(self))[index])


def content(x: Any) -> str:
    """Shape and XXH3-128 of a tensor in memory."""
    values = x.contiguous().cpu()
    return f"{tuple(x.shape)} {xxhash.xxh3_128(values.view(torch.uint8).numpy()).hexdigest()}"


class Whole(Computation):
    """A subspace method on one matrix. The merged delta is computed at once, the base added in fixed blocks."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int) -> None:
        super().__init__(tensor, reader, seed=seed, block_values=block_values)
        self._digests: dict[Input, str] = {}

    _merged: Any = None

    def prepare(self) -> None:
        """Compute the merged delta."""
        assert self.method is not None
        if self._merged is None:
            merged = self.call(self.method.function, Deltas(self), self.keywords(None))
            self._merged = merged if isinstance(merged, LowRank) else merged.reshape(-1)

    def merged_delta(self) -> Any:
        """The merged delta: a LowRank, or values in the tensor's flat order."""
        self.prepare()
        return self._merged

    def keywords(self, blocks: Any) -> dict[str, Any]:
        found = super().keywords(blocks)
        if self.reader.cache is not None and "memo" in found and not self.reader.allow_nonfinite:
            found["memo"] = CachedMemo(self.reader.cache, self.shape, self.reader.device, self.identity)
        return found

    def identity(self, index: int) -> str:
        """What a model's delta is computed from, by content."""
        which, base = self.tensor.inputs[index], self.tensor.base
        assert base is not None
        factors = low_rank_delta(self.reader.tensor(which), self.reader.tensor(base))
        if factors is not None:
            return " ".join(content(x) for x in (factors.left, factors.right))
        return f"{self._digest(which)} less {self._digest(base)}"

    def _digest(self, which: Input) -> str:
        if which not in self._digests:
            self._digests[which] = self.reader.digest(which)
        return self._digests[which]

    def delta(self, index: int) -> Any:
        """The delta of one model."""
        which, base = self.tensor.inputs[index], self.tensor.base
        assert base is not None
        rows, columns = matrix_shape(self.shape)
        factors = low_rank_delta(self.reader.tensor(which), self.reader.tensor(base))
        if factors is not None and self.method is not None and self.method.low_rank:
            return self._checked(factors, index)
        values = self.reader.whole_delta(which, base, self.numel)
        return values.reshape(rows, columns)

    def _checked(self, factors: LowRank, index: int) -> LowRank:
        """Factors on the device, finite."""
        left, right = (self.reader.checked(self.tensor.inputs[index], x) for x in (factors.left, factors.right))
        return LowRank(left, right, factors.shape)

    def ranges(self) -> Iterator[tuple[int, int]]:
        """Whole rows, about a chunk of values at a time: part of the arithmetic, the same for any block size."""
        columns = max(1, math.prod(self.shape[1:]))
        step = max(1, 4 * CHUNK // columns) * columns
        for start in range(0, self.numel, step):
            yield start, min(start + step, self.numel)

    def method_values(self, start: int, stop: int) -> Any:
        self.prepare()
        assert self.tensor.base is not None
        self.base = self.reader.values(self.tensor.base, start, stop)
        if isinstance(self._merged, LowRank):
            columns = math.prod(self.shape[1:])
            return self._merged.rows(start // columns, stop // columns).reshape(-1)
        return self._merged[start:stop]

    def encoded(self, start: int, stop: int) -> Encoded:
        found = super().encoded(start, stop)
        if stop == self.numel:
            self._merged = None
        return found
