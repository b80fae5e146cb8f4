"""Linear combinations of tensors, one pass, the accumulator in the inputs' own (float) type."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.lazy import lazy
from chorus.linalg.blocks import Tensor
from chorus.linalg.native import Terms

torch = lazy("torch")


def linear_combination(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """sum_i c_i x_i. A single term of coefficient 1 is returned as it is, bit for bit.

    For `Terms`, which stand for tensors, the coefficients themselves are returned.

    >>> linear_combination([torch.tensor([1.0]), torch.tensor([3.0])], [0.5, 0.5])
    tensor([2.])
    """
    if isinstance(tensors, Terms):
        return tuple(map(float, coefficients))
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
