"""The algebra of matrices that are known as a product of two thin ones, without ever forming the product.

    D = L R            L [m, r] left, R [r, n] right
    sum_i c_i D_i      [c_1 L_1 ..] [R_1; ..], exact, rank sum r_i

Everything else goes through the Gram matrices L^T L and R R^T in float64, [r, r] each: with their Cholesky factors
C and K the singular values of D are those of the small C^T K, and its vectors follow from it. Where a factor is
too ill conditioned for that (its columns depend on each other) a QR decomposition takes its place.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.lapack import FEW, SMALL, gram, symmetric_eigen

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

ILL_CONDITIONED = 1e-5  # smallest to largest diagonal of a Cholesky factor below which QR takes over
SQUARED = 1e-5  # singular values above this share of the largest survive the squaring in float64


@dataclass(frozen=True)
class LowRank:
    """left [m, r] @ right [r, n]; `shape` is the whole tensor's, which may have more than two dimensions."""

    left: Tensor
    right: Tensor
    shape: tuple[int, ...]

    @property
    def rank(self) -> int:
        """The number of columns of `left`; the true rank may be lower."""
        return int(self.left.shape[1])

    def matrix(self) -> LowRank:
        """The same as a matrix [m, n]."""
        return LowRank(self.left, self.right, (self.left.shape[0], self.right.shape[1]))

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows of the product, formed: [stop - start, n]."""
        return self.left[start:stop] @ self.right

    def dense(self) -> Tensor:
        """The product, formed."""
        return (self.left @ self.right).reshape(self.shape)

    def scaled(self, c: float) -> LowRank:
        return self if c == 1 else LowRank(self.left * c, self.right, self.shape)


if TYPE_CHECKING:
    Delta = Tensor | LowRank  # [m, n]


def low_rank_sum(terms: Sequence[LowRank], coefficients: Sequence[float]) -> LowRank:
    """sum_i c_i D_i, exactly: the ranks add up."""
    left = torch.cat([t.left * c for t, c in zip(terms, coefficients, strict=True)], dim=1)
    return LowRank(left, torch.cat([t.right for t in terms]), terms[0].shape)


def inner(a: LowRank, b: LowRank) -> float:
    """<A, B> = tr(A^T B) in float64."""
    left = a.left.double().T @ b.left.double()
    right = a.right.double() @ b.right.double().T
    return float((left * right).sum())


def norm(a: LowRank) -> float:
    """The Frobenius norm, in float64."""
    return math.sqrt(max(inner(a, a), 0.0))  # rounding may leave a small square below zero


def triangular(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """C [r, r] with x = Q C^T for some orthonormal Q [m, r], and Q itself where it had to be formed; float64.

    Without Q, a product Q y is x solve(C^T, y).
    """
    if x.shape[0] >= x.shape[1]:  # else x^T x has no full rank, and Cholesky fails
        factor, failed = torch.linalg.cholesky_ex(_squares(x))
        if x.device.type == "meta" or not x.shape[1]:
            return factor, None
        diagonal = factor.diagonal()
        if not int(failed) and bool(diagonal.min() > ILL_CONDITIONED * diagonal.max()):
            return factor, None
    q, r = torch.linalg.qr(x)
    return r.T, q


def _squares(x: Tensor) -> Tensor:
    """x^T x of a float64 matrix; perhaps its lower triangle only, which is all that Cholesky reads."""
    laid = x.is_contiguous() or x.T.is_contiguous()
    return torch.from_numpy(gram(x.numpy())) if x.device.type == "cpu" and laid and x.shape[1] else x.T @ x


def restore(x: Tensor, factor: Tensor, q: Tensor | None, y: Tensor) -> Tensor:
    """Q y, with what `triangular` gave for x."""
    if q is not None:
        return q @ y
    return thin_product(x, torch.linalg.solve_triangular(factor.T, y, upper=True))


def thin_product(x: Tensor, y: Tensor) -> Tensor:
    """x y for a y of few columns; where x lies by columns it is computed from the other side, several times as fast."""
    return x @ y if x.is_contiguous() else (y.T.contiguous() @ x.T).T


def svd(d: LowRank, rank: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors [m, k], all r singular values [r], right vectors [n, k], largest first; float64.

    k is the smaller of `rank` and r; the first k triplets are the best approximation of that rank.
    """
    left, right = d.left.double(), d.right.double().T
    if d.rank == 0:
        return left, left.new_zeros(0), right
    c, q_left = triangular(left)
    k, q_right = triangular(right)
    u, s, v = _small_svd(c.T @ k, rank)
    return restore(left, c, q_left, u), s, restore(right, k, q_right, v)


def _small_svd(core: Tensor, rank: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """The first `rank` singular vectors of a float64 matrix and all its values."""
    size = min(core.shape)
    rank = size if rank is None else min(rank, size)
    if core.device.type == "cpu" and size > SMALL and rank <= FEW * size:
        values, vectors = symmetric_eigen(gram(core.numpy()), rank)
        s = torch.from_numpy(values.clip(0) ** 0.5)
        if s[rank - 1] > SQUARED * s[0]:  # else the squares have lost the last ones
            v = torch.from_numpy(vectors.copy())
            return core @ v / s[:rank], s, v
    u, s, vh = torch.linalg.svd(core, full_matrices=False)
    return u[:, :rank], s, vh[:rank].mT


def recompress(d: LowRank, rank: int) -> tuple[LowRank, float]:
    """The best approximation of this rank (Eckart and Young), its energy split evenly, and the norm of the rest."""
    u, s, v = svd(d, rank)
    root = s[: u.shape[1]].sqrt()  # in both factors alike, so that neither leaves the range of a small type
    kept = LowRank((u * root).to(d.left.dtype), (v * root).T.to(d.right.dtype), d.shape)
    return kept, math.sqrt(float((s[u.shape[1] :] ** 2).sum()))
