"""The factors by which DARE scales what it kept."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.linalg.blocks import Blocks
from chorus.linalg.draws import keep_random
from chorus.merge.methods._sparse import rescale_factors


def factors(blocks: Blocks, *, density: Sequence[float], rescale: str, keys: Sequence[int]) -> list[float]:
    """One factor a model: the L1 norm restored, 1 / density, or 1."""
    # takes a pass over the tensor, which densities of 1 need not pay
    if rescale == "l1" and any(p < 1 for p in density):
        return rescale_factors(blocks, lambda i, x, offset: keep_random(x, density[i], keys[i], offset))
    if rescale == "expectation":
        return [1 / p if p > 0 else 1.0 for p in density]
    return [1.0] * blocks.count
