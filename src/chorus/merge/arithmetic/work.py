"""The way to compute an output tensor: from bytes, in torch by blocks, or as a whole matrix."""

from __future__ import annotations

from chorus.merge.arithmetic.compute import Combination, Computation, Work, without_torch
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.arithmetic.whole import Whole
from chorus.merge.plan import TensorPlan


def work_of(tensor: TensorPlan, reader: Reader, *, seed: int, block_values: int, in_torch: bool = False) -> Work:
    """The way to compute a tensor: without torch where that is possible, unless `in_torch`."""
    if not in_torch and without_torch(tensor, reader.models, reader.device):
        return Combination(tensor, reader, seed=seed, block_values=block_values)
    kind = Whole if tensor.treatment == MATRIX else Computation
    return kind(tensor, reader, seed=seed, block_values=block_values)
