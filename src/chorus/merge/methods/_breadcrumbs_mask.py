"""Model Breadcrumbs' mask: without the largest values, and without the smallest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.linalg.blocks import Blocks
from chorus.linalg.quantiles import Cutoff, drop_largest, keep_largest, largest
from chorus.merge.methods._sparse import kept_count, rescale_factors

if TYPE_CHECKING:
    import torch


def band(numel: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest are dropped, and how many after them are kept.

    The upper cut gives way where both do not fit: density + gamma > 1 drops fewer of the largest.
    """
    top, kept = int(gamma * numel), kept_count(numel, density)
    # top may be 0, as for short biases: there mergekit's main branch sliced [:-0] and lost the whole delta
    return min(top, numel - kept), kept


def crumbs(x: torch.Tensor, cut: tuple[Cutoff, Cutoff], offset: int) -> torch.Tensor:
    """x inside the band, 0 outside."""
    return drop_largest(keep_largest(x, cut[1], offset), cut[0], offset)


def cutoffs(
    blocks: Blocks, *, density: Sequence[float], gamma: Sequence[float], rescale: bool
) -> tuple[list[tuple[Cutoff, Cutoff]], list[float]]:
    """For each model the two ends of its band, and the factor that restores its L1 norm."""
    bands = [band(blocks.numel, d, g) for d, g in zip(density, gamma, strict=True)]
    # both ends of all bands from the same passes
    found = [(low, high) for low, high in largest(blocks, [[top, top + kept] for top, kept in bands])]
    factors = [1.0] * blocks.count
    if rescale:
        factors = rescale_factors(blocks, lambda i, x, offset: crumbs(x, found[i], offset))
    return found, factors
