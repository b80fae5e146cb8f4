"""Whole-tensor statistics, gathered in one pass over blocks, in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks, chunks
from chorus.linalg.native import dots

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor
else:
    np = lazy("numpy")
    torch = lazy("torch")


def gram_matrix(blocks: Blocks) -> NDArray[np.float64]:
    """All inner products <x_i, x_j> of N flattened tensors: [N, N], float64.

    >>> import torch
    >>> from chorus.linalg.blocks import InMemory
    >>> gram_matrix(InMemory([torch.tensor([1.0, 2.0]), torch.tensor([0.0, 3.0])])).tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    total = np.zeros((blocks.count, blocks.count))
    for chunk in chunks(blocks):
        if isinstance(chunk[0], np.ndarray):  # the engine's fast path, without torch
            total += dots(chunk)
        elif chunk[0].device.type == "cpu" and all(x.dtype == torch.float32 and x.is_contiguous() for x in chunk):
            total += dots([x.numpy() for x in chunk])
        else:
            rows = torch.stack(list(chunk)).double()  # other devices and types, summed as the kernels sum
            total += (rows @ rows.T).cpu().numpy()
    return total


def squares(x: Tensor | NDArray[np.float32]) -> float:
    """Sum of the squares of one chunk, in float64."""
    if isinstance(x, np.ndarray):
        return float(dots([x])[0, 0])
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous():
        return float(dots([x.numpy()])[0, 0])
    return float(x.double().square().sum())
