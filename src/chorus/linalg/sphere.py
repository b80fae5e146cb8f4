"""Means on the sphere, in the coordinates of the inputs' span.

Slerp, the weighted spherical mean and the Karcher mean of flattened tensors x_i are linear combinations of the
x_i, so their coefficients follow from the Gram matrix G_ij = <x_i, x_j> alone: one pass over the data in
float64, then arithmetic on N numbers, then one linear combination.

    u_i = x_i / |x_i|       unit vectors, C_ij = <u_i, u_j>
    m   = sum_i a_i u_i     a point on the sphere: a^T C a = 1
"""

from __future__ import annotations

from collections.abc import Sequence
from math import acos, cos, sin
from typing import TYPE_CHECKING

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Matrix = NDArray[np.float64]
else:
    np = lazy("numpy")

PARALLEL = 0.9995  # cosine beyond which slerp interpolates linearly (Shoemake's remedy, mergekit's figure)
SMALL_ANGLE = 1e-4  # radians; float64 cosines resolve it


def slerp_coefficients(gram: Matrix, t: float, *, parallel: float = PARALLEL) -> tuple[float, float]:
    """Coefficients of a and b in slerp(a, b; t), the raw vectors combined (Shoemake 1985).

    Linear where the angle's cosine exceeds `parallel` in magnitude, or one vector is zero.
    """
    norms = np.sqrt(gram.diagonal())
    if norms.min() == 0.0:  # a zero vector has no direction to turn from
        return 1.0 - t, t
    cosine = min(1.0, max(-1.0, float(gram[0, 1] / (norms[0] * norms[1]))))
    if abs(cosine) > parallel:
        return 1.0 - t, t
    angle = acos(cosine)
    return sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle)


def unit_gram(gram: Matrix) -> tuple[Matrix, Matrix]:
    """Norms [N] and cosines [N, N]; a zero vector has cosine 0 with all, itself too."""
    norms = np.sqrt(np.maximum(gram.diagonal(), 0))
    inverse = reciprocals(norms)
    return norms, gram * inverse[:, None] * inverse[None, :]


def reciprocals(norms: Matrix) -> Matrix:
    """1 / x, and 0 for 0."""
    return np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)


def spherical_mean_coefficients(gram: Matrix, weights: Sequence[float], *, eps: float = 1e-8) -> list[float] | None:
    """Coefficients of direction(sum w_i u_i) * sum w_i |x_i|; None where the sum of directions is zero.

    This is what one step of the published multi-SLERP (Goddard 2025) comes to, since the weighted tangents at
    the normalised sum cancel. Zero vectors give no direction; the others keep their weights' proportion.
    """
    norms, cosines = unit_gram(gram)
    w = np.array(weights, dtype=np.float64)
    alive = norms > 0
    if not alive.any():
        return [0.0] * len(w)
    total, left = w.sum(), w[alive].sum()
    w = np.where(alive, w, 0.0)
    if left != 0.0:
        w = w * (total / left)  # zero vectors' weight goes to the others, in proportion
    length_squared = float(w @ cosines @ w)
    if length_squared <= (eps * float(np.abs(w).sum())) ** 2:
        return None
    scale = float(w @ norms) / length_squared**0.5
    return [float(c) for c in w * reciprocals(norms) * scale]


def karcher_coefficients(
    gram: Matrix, weights: Sequence[float], *, max_iter: int, tol: float
) -> tuple[list[float], int] | None:
    """Coefficients of the Karcher (Frechet) mean of directions times the mean norm, and the iterations used.

    None where the directions cancel, so that no starting point exists. Karcher 1977; the iteration is
    m <- exp_m(sum_i w_i log_m(u_i)).
    """
    norms, cosines = unit_gram(gram)
    w = np.array(weights, dtype=np.float64)
    w = w / w.sum()
    mean_norm = float(w @ norms)
    # a direction shorter than tol * the longest is noise
    alive = norms > tol * norms.max()
    if not alive.any():
        return [0.0] * len(w), 0
    w = np.where(alive, w, 0.0)
    w = w / w.sum()
    length = float(w @ cosines @ w)
    if length <= 1e-24:
        return None
    a = w / length**0.5
    used = 0
    for _ in range(max_iter):
        cosine = np.clip(cosines @ a, -1, 1)
        angle = np.arccos(cosine)
        sine = np.sin(angle)
        # log_m(u_i) = (angle / sine) (u_i - cos m); the factor tends to 1 at angle 0
        factor = w * np.divide(angle, sine, out=np.ones_like(sine), where=sine > 1e-12)
        tangent = factor - float(factor @ cosine) * a
        size = max(float(tangent @ cosines @ tangent), 0.0) ** 0.5
        if size < tol:
            break
        used += 1
        a = cos(size) * a + sin(size) / size * tangent
        a = a / float(a @ cosines @ a) ** 0.5
    inverse = np.where(alive, reciprocals(norms), 0.0)
    return [float(c) for c in a * inverse * mean_norm], used
