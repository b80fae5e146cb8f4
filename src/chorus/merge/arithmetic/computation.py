"""A tensor's steps in torch, on any device, from any kind of tensor: the chain, the base added, the cast."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from chorus.linalg.low_rank import LowRank
from chorus.merge.arithmetic.encoded import Encoded, encode
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.steps import StepWork, chain
from chorus.merge.arithmetic.tensor_plan import TensorPlan

if TYPE_CHECKING:
    from torch import Tensor


class Computation:
    """Any tensor of a plan. `base` holds the base's values of the last range that was computed."""

    def __init__(self, tensor: TensorPlan, reader: Reader, *, seed: int, block: int) -> None:
        self.tensor, self.reader, self.block = tensor, reader, block
        self.steps: list[StepWork] = chain(tensor, reader, seed=seed, block=block)
        self.deltas = tensor.deltas
        self.base: Tensor | None = None

    def prepare(self) -> None:
        for step in self.steps:
            step.prepare()

    def ranges(self) -> Iterator[tuple[int, int]]:
        if self.steps:
            yield from self.steps[-1].ranges()
            return
        for start in range(0, self.tensor.numel, self.block):
            yield start, min(start + self.block, self.tensor.numel)

    def compute(self, start: int, stop: int) -> Tensor:
        """The merged values of a range from `ranges()`, flat, in the arithmetic's type."""
        if not self.steps:
            self.base = None  # what a copy's cast loses is told of the weights alone
            # not `values`, which would take integers (num_batches_tracked, position ids) through float32
            copied: Tensor = self.reader.raw(self.tensor.inputs[0], start, stop)
            return copied
        merged = self.merged_values(start, stop)
        # after the steps: where they cut by elements, the reader still has this block from forming the deltas
        self.base = None if self.tensor.base is None else self.reader.values(self.tensor.base, start, stop)
        return merged + self.base if self.deltas and self.base is not None else merged

    def merged_values(self, start: int, stop: int) -> Tensor:
        """What the steps return for a range, flat: of methods on deltas the merged delta, without the base."""
        return self.steps[-1].values(start, stop)

    def merged_delta(self) -> Tensor | LowRank:
        """The whole merged delta as a matrix [m, n], in factors where the steps leave it so."""
        return self.steps[-1].whole(factors=True)

    def encoded(self, start: int, stop: int) -> Encoded:
        merged = self.compute(start, stop)
        found = encode(self.tensor, merged, self.base, start, allow_overflow=self.reader.allow_nonfinite)
        # a subspace method's result is as large as the tensor; who reads on after the end has it computed again
        if stop == self.tensor.numel:
            for step in self.steps:
                step.release()
        return found
