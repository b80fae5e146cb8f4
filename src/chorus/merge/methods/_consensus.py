"""What TIES, DARE and Breadcrumbs share: the sum of sparse deltas, with or without an election of signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.combine import linear_combination
from chorus.merge.methods._weights import shares

if TYPE_CHECKING:
    import torch

    from chorus.linalg import kernels
else:
    torch = lazy("torch")
    kernels = lazy("chorus.linalg.kernels")


def weighted_sum(
    deltas: Sequence[torch.Tensor], weight: Sequence[float], *, normalize: bool, lambda_: float
) -> torch.Tensor:
    """lambda * sum_i w_i D_i, over the sum of the weights where `normalize`."""
    w = shares(weight) if normalize else weight
    return linear_combination(deltas, [lambda_ * x for x in w])


def elected_sum(
    deltas: Sequence[torch.Tensor], weight: Sequence[float], *, normalize: bool, lambda_: float
) -> torch.Tensor:
    """TIES' second and third step: elect a sign for each value, then sum what agrees with it.

    The weights multiply before the vote, a sum of zero votes plus, and zeros never count (Yadav et al. 2023,
    section 3). With `normalize` the sum is divided by the absolute weights of those that agree.
    """
    return agreeing_sum(deltas, weight, votes=weight, normalize=normalize, lambda_=lambda_)


def agreeing_sum(
    deltas: Sequence[torch.Tensor],
    weight: Sequence[float],
    *,
    votes: Sequence[float],
    normalize: bool,
    lambda_: float,
) -> torch.Tensor:
    """sum_i w_i D_i over those w_i D_i that have the sign of sum_i v_i D_i, value by value."""
    if deltas[0].device.type == "cpu" and deltas[0].dtype == torch.float32 and deltas[0].is_contiguous():
        return _compiled(deltas, weight, votes, normalize, lambda_)
    # products first, as the compiled loop has them: fused into the sum, a vote close to zero may turn
    total = linear_combination([d * v for d, v in zip(deltas, votes, strict=True)], [1.0] * len(deltas))
    plus = total >= 0
    merged, divisor = torch.zeros_like(total), torch.zeros_like(total)
    for d, w in zip(deltas, weight, strict=True):
        weighted = d * w
        agrees = torch.where(plus, weighted > 0, weighted < 0)
        merged += torch.where(agrees, weighted, torch.zeros_like(d))
        # |w|: under weights of both signs mergekit's sum of them comes near 0 (deltas of 88 from inputs of 0.08)
        divisor += agrees * abs(w)
    if normalize:
        merged = merged / torch.where(divisor > 0, divisor, torch.ones_like(divisor))
    return merged * lambda_


def _compiled(
    deltas: Sequence[torch.Tensor], weight: Sequence[float], votes: Sequence[float], normalize: bool, lambda_: float
) -> torch.Tensor:
    import numpy as np

    out = torch.empty_like(deltas[0])
    stacked = tuple(d.reshape(-1).numpy() for d in deltas)
    work = np.zeros((2, stacked[0].size), np.float32)  # the votes' sum, the divisor
    flat = out.reshape(-1).numpy()
    for d, v in zip(stacked, votes, strict=True):
        kernels.add_scaled(d, np.float32(v), work[0])
    flat[:] = 0
    for d, w in zip(stacked, weight, strict=True):
        kernels.sum_agreeing(d, np.float32(w), work[0], flat, work[1])
    kernels.finish_vote(flat, work[1], normalize, np.float32(lambda_))
    return out
