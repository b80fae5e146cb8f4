"""The polar factor: the nearest matrix with orthonormal columns, or the nearest partial isometry.

    X = P H        P = X (X^T X)^{-1/2} on X's row space, zero on its null space

Exactly, from one eigendecomposition of the smaller Gram matrix in float64; or by Newton-Schulz iterations, which
need only products. The form U V^T from a full SVD is never used: where X has dependent columns it fills the null
space with directions that no input has.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from chorus.lazy import lazy
from chorus.linalg.lapack import gram, symmetric_eigen
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import NULL, singular_triplets

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np, torch = lazy("numpy"), lazy("torch")

THIN = 0.6  # columns to rows up to which bases may be well conditioned
STRONG = 0.01  # smallest to largest squared singular value above which they are
Schedule = Literal["quintic", "muon"]
Scale = Literal["sqrt_n", "frobenius"]
# a, b, c of X <- a X + b (X X^T) X + c (X X^T)^2 X, one row a step. "quintic" is what the package
# orthogonal optimisers share calls so (five tuned steps), "muon" Keller Jordan's triple five times.
SCHEDULES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "quintic": (
        (4.0848, -6.8946, 2.9270),
        (3.9505, -6.3029, 2.6377),
        (3.7418, -5.5913, 2.3037),
        (2.8769, -3.1427, 1.2046),
        (2.8366, -3.0525, 1.2012),
    ),
    "muon": ((3.4445, -4.7750, 2.0315),) * 5,
}
POLISH = (15 / 8, -10 / 8, 3 / 8)  # the classical fifth-order step, which converges to 1 from (0, sqrt(7/3))


def polar_factor(x: Tensor) -> Tensor:
    """P of x [m, k], a partial isometry: singular values below `NULL` of the largest become 0, the others 1.

    In x's type, computed in float64; one eigendecomposition of the smaller of the two Gram matrices.

    >>> import torch
    >>> polar_factor(torch.tensor([[2.0, 0.0], [0.0, 0.0]])).tolist()
    [[1.0, 0.0], [0.0, 0.0]]
    """
    if x.shape[0] < x.shape[1]:
        return polar_factor(x.T).T
    if x.dtype == torch.float32 and x.shape[1] <= THIN * x.shape[0] and x.device.type != "meta":
        squares, vectors = _eigen(x)  # products in float32: as good where no direction is weak
        if x.shape[1] and bool(squares.amin() > STRONG * squares.amax()):
            return x @ ((vectors * squares.rsqrt()) @ vectors.T).to(x.dtype)  # one product with the large matrix
    squares, vectors = _eigen(x, widened=True)
    limit = NULL**2 * squares.amax() if squares.numel() else 0
    roots = torch.where(squares > limit, squares.clamp(min=1e-300).rsqrt(), torch.zeros_like(squares))
    vectors = vectors.to(x.dtype)
    return (x @ vectors * roots.to(x.dtype)) @ vectors.T  # x Q first: its columns are as long as the roots are large


def _eigen(x: Tensor, *, widened: bool = False) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of x^T x, decomposed in float64; the product in x's type, unless `widened`."""
    if x.device.type == "cpu":
        laid = x if x.is_contiguous() or x.T.is_contiguous() else x.contiguous()
        products = gram(laid.numpy(), np.float64 if widened else None)
        values, vectors = symmetric_eigen(products.astype(np.float64, copy=False))
        return torch.from_numpy(values.copy()), torch.from_numpy(vectors.copy())
    wide = x.double() if widened else x
    squares, directions = torch.linalg.eigh((wide.T @ wide).double())
    return squares, directions


def newton_schulz(
    x: Tensor, *, blocks: int, schedule: Schedule = "quintic", scale: Scale = "sqrt_n", polish: int = 4
) -> Tensor:
    """P of x [m, k] by Newton-Schulz, in x's type: five steps of a tuned schedule, then `polish` exact ones.

    `blocks` concatenated orthonormal blocks have no singular value above sqrt(blocks), which is what "sqrt_n"
    divides by before the first step; "frobenius" divides by the norm, which starts lower and ends further off.
    Directions that are nearly null are damped, not dropped.
    """
    if x.shape[0] < x.shape[1]:
        return newton_schulz(x.T, blocks=blocks, schedule=schedule, scale=scale, polish=polish).T
    size = x.new_tensor(float(blocks)).sqrt() if scale == "sqrt_n" else x.norm()
    x = x / torch.where(size > 0, size, torch.ones_like(size))  # without a branch on a device
    for a, b, c in (*SCHEDULES[schedule], *[POLISH] * polish):
        square = x.T @ x
        x = a * x + x @ (b * square + c * square @ square)
    return x


def nuclear_flattened(d: Tensor | LowRank, *, average: Literal["effective", "all"] = "effective") -> Tensor | LowRank:
    """d with all its singular values replaced by their mean: mean(s) U V^T on the space that d spans.

    "effective" takes the mean over the values that are not null, "all" over min(m, n).
    """
    if isinstance(d, LowRank):
        found = singular_triplets(d)
        mean = _mean(found.values, min(d.left.shape[0], d.right.shape[1]), average)
        return LowRank(found.left * mean, found.right.T, d.shape)
    p = polar_factor(d)
    total = (p.double() * d.double()).sum()  # <P, D> is the sum of the singular values
    count = (p.double() * p.double()).sum().round().clamp(min=1) if average == "effective" else min(d.shape)
    return p * (total / count).to(p.dtype)


def _mean(values: Tensor, size: int, average: str) -> Tensor:
    count = max(1, values.numel()) if average == "effective" else size
    return values.sum() / count
