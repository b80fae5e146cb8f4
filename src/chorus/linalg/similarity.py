"""How alike two models represent the same examples: centred kernel alignment.

X [n, d] and Y [n, e] are the states of n examples in the two. With linear kernels K = X X^T and L = Y Y^T

    CKA = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))          Kornblith et al., arXiv 1905.00414

which turning or scaling a space does not change. HSIC is the unbiased one (Song et al. 2012), summed over minibatches
before it is divided (Nguyen, Raghu & Kornblith, arXiv 2010.15327): few examples in many dimensions would otherwise look
alike by chance. Being unbiased it may lie a little below zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
else:
    np, torch = lazy("numpy"), lazy("torch")

LEAST = 4  # examples of a minibatch, below which the estimate is not defined


def unbiased_hsic(k: torch.Tensor, other: torch.Tensor) -> float:
    """HSIC_1 of two kernels [n, n] of the same n >= 4 examples, in float64; their diagonals play no part.

    [tr(K L) + sum(K) sum(L) / ((n - 1)(n - 2)) - 2 sum(K L) / (n - 2)] / (n (n - 3)), K and L without diagonals.
    """
    n = len(k)
    assert n >= LEAST
    a, b = (x.double() - torch.diag(x.diagonal().double()) for x in (k, other))
    crossed = float((a * b.T).sum())
    sums = float(a.sum() * b.sum()) / ((n - 1) * (n - 2))
    rows = 2 * float(a.sum(0) @ b.sum(1)) / (n - 2)
    return (crossed + sums - rows) / (n * (n - 3))


def alignments(states: Sequence[torch.Tensor], batches: Sequence[torch.Tensor]) -> Floats:
    """CKA of all pairs of models [k, k], by the states [n, d] of each; `batches` are the examples of each minibatch.

    NaN where a model gives all examples one state.

    >>> import torch
    >>> x = torch.eye(6)[:, :3] + torch.arange(6.0)[:, None]
    >>> alignments([x, 2 * x], [torch.arange(6)]).round(6).tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    k = len(states)
    found = np.zeros((k, k))
    # a kernel of all examples grows with their square
    for chosen in batches:
        kernels = []
        for one in states:
            x = one[chosen].double()
            # the estimate does not depend on where the origin is, but the rounding of large sums would
            x = x - x.mean(0)
            kernels.append(x @ x.T)
        for i in range(k):
            for j in range(i + 1):
                value = unbiased_hsic(kernels[i], kernels[j])
                found[i, j] += value
                found[j, i] += value if i != j else 0.0
    # unbiased, a variance of nearly nothing may come out below zero
    scale = np.sqrt(np.clip(np.diag(found), 0, None))
    with np.errstate(divide="ignore", invalid="ignore"):
        aligned: Floats = found / np.outer(scale, scale)
    return aligned
