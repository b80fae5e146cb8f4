"""How several differences of one tensor lie to each other: inner products, signs, subspaces.

Differences are given as they are: as two thin factors, which stay factors, or whole. What must look at single values
(signs) forms a block of rows at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.low_rank import LowRank, inner
from chorus.linalg.quantiles import Cutoff, keep_largest, largest

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from chorus.linalg.low_rank import Delta

    Floats = NDArray[np.float64]
else:
    np, torch = lazy("numpy"), lazy("torch")

BLOCK = 16 * CHUNK


class DeltaBlocks:
    """Flat blocks of differences of one shape, in float32; the products of factors are formed a few rows at a time."""

    def __init__(self, deltas: Sequence[Delta], block: int = BLOCK) -> None:
        assert block % CHUNK == 0  # which `largest` counts on
        self.deltas, self.count, self.block = deltas, len(deltas), block
        self.shape = tuple(deltas[0].shape)
        self.numel = math.prod(self.shape)

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for start in range(0, self.numel, self.block):
            stop = min(start + self.block, self.numel)
            yield start, [_flat(one, start, stop) for one in self.deltas]


def _flat(delta: Delta, start: int, stop: int) -> torch.Tensor:
    if not isinstance(delta, LowRank):
        return delta.reshape(-1)[start:stop].float()
    # whole rows are formed, of which a block may need but a part
    columns = delta.right.shape[1]
    first, last = start // columns, -(-stop // columns)
    return delta.rows(first, last).reshape(-1)[start - first * columns : stop - first * columns].float()


def inner_products(deltas: Sequence[Delta]) -> Floats:
    """<D_i, D_j> of all pairs [k, k], in float64.

    Of two products of factors sum((L_i^T L_j) o (R_i R_j^T)); of one and a whole D, <L, D R^T>.

    >>> import torch
    >>> one = LowRank(torch.ones(2, 1), torch.ones(1, 3), (2, 3))
    >>> inner_products([one, one.dense()]).tolist()
    [[6.0, 6.0], [6.0, 6.0]]
    """
    found = np.zeros((len(deltas), len(deltas)))
    # whole ones together, so that each is read once
    whole = [i for i, one in enumerate(deltas) if not isinstance(one, LowRank)]
    if whole:
        for _, block in DeltaBlocks([deltas[i] for i in whole]):
            values = torch.stack(block).double()
            found[np.ix_(whole, whole)] += (values @ values.T).numpy()
    for i, one in enumerate(deltas):
        for j, other in enumerate(deltas[: i + 1]):
            if isinstance(one, LowRank) and isinstance(other, LowRank):
                found[i, j] = found[j, i] = inner(one, other)
            elif isinstance(one, LowRank) and not isinstance(other, LowRank):
                found[i, j] = found[j, i] = _mixed(one, other)
            elif isinstance(other, LowRank) and not isinstance(one, LowRank):
                found[i, j] = found[j, i] = _mixed(other, one)
    return found


def _mixed(factors: LowRank, whole: torch.Tensor) -> float:
    """<L R, D> = <L, D R^T>, some rows at a time."""
    matrix, right = whole.reshape(factors.left.shape[0], -1), factors.right.double().T
    step = max(1, BLOCK // matrix.shape[1])
    rows = range(0, len(matrix), step)
    return float(
        sum((factors.left[i : i + step].double() * (matrix[i : i + step].double() @ right)).sum() for i in rows)
    )


@dataclass(frozen=True)
class Signs:
    """Counts of coordinates and sums of magnitudes, which add up over tensors.

    `opposite` and `shared` [k, k]: coordinates in which two differences have opposite signs, and in which neither is
    zero. `elected` is the sum over coordinates of the larger of the masses of either sign, `mass` that of both.
    """

    opposite: Floats
    shared: Floats
    elected: float
    mass: float

    def __add__(self, other: Signs) -> Signs:
        return Signs(
            self.opposite + other.opposite, self.shared + other.shared, self.elected + other.elected,
            self.mass + other.mass,
        )  # fmt: skip


def count_signs(deltas: Sequence[Delta], *, density: float, voters: int | None = None) -> tuple[Signs, Signs]:
    """Conflicts of sign of all values, and of each difference's largest `density` only (TIES, arXiv 2306.01708).

    The `voters` first ones (None: all) elect a sign in each coordinate.
    """
    blocks, k = DeltaBlocks(deltas), len(deltas)
    every, largest_ones = no_signs(k), no_signs(k)
    kept = _cutoffs(blocks, density)
    for start, block in blocks:
        every += _signs_in(torch.stack(block), voters)
        if kept:
            trimmed = [keep_largest(x, c, start) for x, c in zip(block, kept, strict=True)]
            largest_ones += _signs_in(torch.stack(trimmed), voters)
    return every, largest_ones if kept else every


def no_signs(k: int) -> Signs:
    """The counts of no coordinate."""
    return Signs(np.zeros((k, k)), np.zeros((k, k)), 0.0, 0.0)


def _signs_in(values: torch.Tensor, voters: int | None) -> Signs:
    """The counts of a block [k, coordinates]."""
    # counts up to the block's size are exact in float32
    up, down = (values > 0).float(), (values < 0).float()
    crossed = up @ down.T
    opposite = (crossed + crossed.T).double().numpy()
    alike = (up @ up.T + down @ down.T).double().numpy()
    votes = values[:voters]
    # of the masses P and N of either sign max(P, N) = (P + N + |P - N|) / 2
    mass = float(votes.abs().sum(dtype=torch.float64))
    margin = float(votes.sum(0).abs().sum(dtype=torch.float64))
    return Signs(opposite, alike + opposite, (mass + margin) / 2, mass)


def _cutoffs(blocks: DeltaBlocks, density: float) -> list[Cutoff]:
    """The cutoff of each difference's largest values; none where all are taken. At least one value is kept."""
    if density >= 1:
        return []
    # as TIES rounds it
    count = max(1, int(density * blocks.numel))
    return [one for (one,) in largest(blocks, [[count]] * blocks.count)]


@dataclass(frozen=True)
class Angles:
    """Two subspaces of R^m, by orthonormal bases U [m, r] and V [m, q]: their principal angles.

    `overlap` |U^T V|_F^2 / min(r, q) is 1 where the smaller lies in the larger, `chance` what two random ones have.
    The angles (degrees) are the smallest, and the mean of all min(r, q).
    """

    overlap: float
    chance: float
    smallest: float
    mean: float


def principal_angles(u: torch.Tensor, v: torch.Tensor) -> Angles | None:
    """cos theta = singular values of U^T V (Bjorck & Golub 1973); None where one of the subspaces is empty.

    >>> import torch
    >>> eye = torch.eye(4)
    >>> principal_angles(eye[:, :2], eye[:, 1:3])
    Angles(overlap=0.5, chance=0.5, smallest=0.0, mean=45.0)
    """
    if not u.shape[1] or not v.shape[1]:
        return None
    cosines = torch.linalg.svdvals(u.double().T @ v.double()).clamp(max=1.0)
    angles = torch.rad2deg(torch.arccos(cosines))
    # E |U^T V|_F^2 = r q / m for random U
    chance = max(u.shape[1], v.shape[1]) / u.shape[0]
    return Angles(float(cosines.square().mean()), chance, float(angles.min()), float(angles.mean()))
