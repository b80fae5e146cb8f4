"""The arithmetic of a matrix that a subspace method decomposes: deltas whole or in factors, one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.adapter import low_rank_delta
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.low_rank import LowRank
from chorus.merge.compute import Computation, Encoded
from chorus.merge.treatment import matrix_shape

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Deltas(Sequence[Any]):
    """A tensor's deltas, each read anew when it is asked for: factors of an adapter, else a matrix [m, n]."""

    def __init__(self, owner: Whole) -> None:
        self.owner = owner

    def __len__(self) -> int:
        return self.owner.count

    def __getitem__(self, index: Any) -> Any:
        return self.owner.delta(range(len(self))[index])


class Whole(Computation):
    """A subspace method on one matrix. The merged delta is computed at once, the base added in fixed blocks."""

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

    def compute(self, start: int, stop: int) -> Any:
        self.prepare()
        assert self.tensor.base is not None
        self.base = self.reader.values(self.tensor.base, start, stop)
        if isinstance(self._merged, LowRank):
            columns = math.prod(self.shape[1:])
            return self.base + self._merged.rows(start // columns, stop // columns).reshape(-1)
        return self.base + self._merged[start:stop]

    def encoded(self, start: int, stop: int) -> Encoded:
        found = super().encoded(start, stop)
        if stop == self.numel:
            self._merged = None
        return found
