"""dare_linear: drop values of each delta at random, rescale, add."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.linalg.draws import keep_random
from chorus.merge.method import each, method
from chorus.merge.methods._consensus import weighted_sum
from chorus.merge.methods._dare import factors
from chorus.merge.methods._parameters import DareRescale, DeltaWeight, Int8Mask, KeepProbability, Lambda, NormalizeSum
from chorus.merge.methods._weights import check_shares

if TYPE_CHECKING:
    import torch


@method(
    "dare_linear",
    summary="drop values of the deltas at random, rescale the rest, add",
    paper="Yu et al. 2023, Language models are super Mario (DARE), arXiv 2311.03099",
    space="deltas",
    statistics=factors,
    check=check_shares,
    random=True,
    when="For small deltas (|D| < 0.002) of many models; a density of 0.1 to 0.5.",
    recipe="""
        merge_method: dare_linear
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5, density: 0.5}
          - model: whisper-domain-b
            parameters: {weight: 0.5, density: 0.5}
        seed: 1
    """,
)
def dare_linear(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: DeltaWeight = each(1.0),
    density: KeepProbability = each(1.0),
    normalize: NormalizeSum = False,
    rescale: DareRescale = "l1",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: Sequence[float],
    offset: int,
    keys: Sequence[int],
) -> torch.Tensor:
    """Return lambda * sum_i w_i c_i (M_i * D_i), with M_i a Bernoulli(density) mask.

    c_i restores the L1 norm (`l1`, as mergekit does), divides by the density (`expectation`, as the paper
    does), or is one (`none`). Masks depend on the seed, the model's place in the recipe and the tensor's name.
    """
    kept = [keep_random(d, p, key, offset) for d, p, key in zip(deltas, density, keys, strict=True)]
    scaled = [w * c for w, c in zip(weight, statistics, strict=True)]
    # by the weights alone: shares of w_i c_i would take the rescaling out again
    if normalize:
        total = sum(weight)
        if total == 0:
            raise ValueError(f"the weights {list(weight)} sum to zero, so they cannot be normalised")
        lambda_ = lambda_ / total
    return weighted_sum(kept, scaled, normalize=False, lambda_=lambda_)
