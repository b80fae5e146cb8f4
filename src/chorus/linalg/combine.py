"""Linear combinations of tensors, one pass, the accumulator in the inputs' own (float) type."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank, low_rank_sum
from chorus.linalg.native import Terms

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chorus.linalg.low_rank import Delta
else:
    torch = lazy("torch")


def linear_combination(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """sum_i c_i x_i. A single term of coefficient 1 is returned as it is, bit for bit.

    For `Terms`, which stand for tensors, the coefficients themselves are returned.

    >>> linear_combination([torch.tensor([1.0]), torch.tensor([3.0])], [0.5, 0.5])
    tensor([2.])
    """
    if isinstance(tensors, Terms):
        return tuple(map(float, coefficients))
    # a model of weight 0 takes no part, also where it is not finite: 0 times infinity is no number
    terms = [(x, c) for x, c in zip(tensors, coefficients, strict=True) if c != 0]
    if not terms:
        return torch.zeros_like(tensors[0])
    if len(terms) == 1 and terms[0][1] == 1:
        return terms[0][0].clone()
    (first, c), *rest = terms
    total = first * c
    for x, c in rest:
        total.add_(x, alpha=c)
    return total


def weighted_total(deltas: Iterable[Delta], weight: Sequence[float]) -> Delta:
    """sum_i w_i D_i of matrices; in factors where all of them are, else one after the other."""
    factors: list[LowRank] = []
    total: Tensor | None = None
    for d, w in zip(deltas, weight, strict=True):
        if isinstance(d, LowRank):
            factors.append(d.scaled(w))
        elif total is None:
            total = d * w
        else:
            total.add_(d, alpha=w)
    if total is None:
        return low_rank_sum(factors, [1.0] * len(factors))
    for f in factors:  # once one is dense, so is the sum
        total.addmm_(f.left, f.right)
    return total
