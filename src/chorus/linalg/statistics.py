"""Whole-tensor statistics, gathered in one pass over blocks: Gram matrices and norms in float64."""

from __future__ import annotations

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks, Tensor, chunks

torch = lazy("torch")


def gram_matrix(blocks: Blocks) -> Tensor:
    """All inner products <x_i, x_j> of N flattened tensors: [N, N], float64, on the CPU.

    >>> from chorus.linalg.blocks import InMemory
    >>> gram_matrix(InMemory([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])])).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    total = torch.zeros(blocks.count, blocks.count, dtype=torch.float64)
    for chunk in chunks(blocks):
        rows = torch.stack(chunk).double()
        total += (rows @ rows.T).cpu()
    return total


def absolute_sums(blocks: Blocks) -> Tensor:
    """sum |x_i| of each tensor: [N], float64, on the CPU."""
    total = torch.zeros(blocks.count, dtype=torch.float64)
    for chunk in chunks(blocks):
        total += torch.stack([x.abs().sum(dtype=torch.float64) for x in chunk]).cpu()
    return total
