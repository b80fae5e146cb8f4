"""Counting and rescaling of sparse deltas."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK, Blocks

if TYPE_CHECKING:
    import torch

    from chorus.linalg import kernels
else:
    torch = lazy("torch")
    kernels = lazy("chorus.linalg.kernels")


def kept_count(numel: int, density: float) -> int:
    """int(density * numel): mergekit's rounding, which recipes rely on."""
    return int(density * numel)


def rescale_factors(blocks: Blocks, sparsify: Callable[[int, torch.Tensor, int], torch.Tensor]) -> list[float]:
    """For each delta, sum |D| over sum |sparsify(D)|: what gives the sparse one its L1 norm back.

    One where nothing is left. `sparsify(model, values, offset)` is elementwise.
    """
    full, kept = [0.0] * blocks.count, [0.0] * blocks.count
    for offset, block in blocks:
        for i, x in enumerate(block):
            sparse = sparsify(i, x, offset)
            # by fixed chunks, so that the factor does not depend on the block
            for start in range(0, x.numel(), CHUNK):
                full[i] += l1(x[start : start + CHUNK])
                kept[i] += l1(sparse[start : start + CHUNK])
    return [f / k if k > 0 else 1.0 for f, k in zip(full, kept, strict=True)]


def l1(x: torch.Tensor) -> float:
    """Sum of magnitudes in float64."""
    if x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous():
        return float(kernels.absolute_sum(x.numpy()))
    return float(x.abs().sum(dtype=torch.float64))
