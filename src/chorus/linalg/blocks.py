"""Tensors that are read a block at a time, as often as an algorithm needs.

Reductions sum fixed chunks of `CHUNK` values in float64, in index order, so that their value does not depend on
how large the blocks are or how many threads work. A block starts at a multiple of `CHUNK`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

CHUNK = 65_536


class Blocks(Protocol):
    """`count` equally shaped tensors of `numel` values, readable in blocks from the start, any number of times.

    On the engine's fast path the blocks are float32 numpy arrays in the place of tensors; what gathers statistics
    for a linear method takes both.
    """

    count: int
    numel: int
    shape: tuple[int, ...]

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        """Yield (offset, one flat block of each tensor); offsets are multiples of `CHUNK`."""


class InMemory:
    """Blocks over tensors that are in memory."""

    def __init__(self, tensors: Sequence[Tensor], block: int = 4 * CHUNK) -> None:
        self.tensors = [t.reshape(-1) for t in tensors]  # a view where they are contiguous
        self.count, self.block = len(tensors), block
        self.shape = tuple(tensors[0].shape)
        self.numel = math.prod(self.shape)

    def __iter__(self) -> Iterator[tuple[int, list[Tensor]]]:
        for offset in range(0, self.numel, self.block):
            yield offset, [t[offset : offset + self.block] for t in self.tensors]


def chunks(blocks: Blocks) -> Iterator[list[Tensor]]:
    """The fixed chunks of all tensors, in index order."""
    for _, block in blocks:
        for start in range(0, len(block[0]), CHUNK):
            yield [t[start : start + CHUNK] for t in block]
