"""breadcrumbs: deltas without their largest and smallest values, added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.linalg.quantiles import Cutoff
from chorus.merge.method import each, method
from chorus.merge.methods._breadcrumbs_mask import crumbs, cutoffs
from chorus.merge.methods._consensus import weighted_sum
from chorus.merge.methods._parameters import (
    BandDensity,
    BandGamma,
    DeltaWeight,
    Int8Mask,
    L1Rescale,
    Lambda,
    NormalizeSum,
)
from chorus.merge.methods._weights import check_shares

if TYPE_CHECKING:
    import torch


@method(
    "breadcrumbs",
    summary="drop the largest and the smallest values of the deltas, add the rest",
    paper="Davari and Belilovsky 2023, Model Breadcrumbs, arXiv 2312.06795",
    space="deltas",
    statistics=cutoffs,
    check=check_shares,
    when="For many fine-tunes with outliers: density 0.1 to 0.9, gamma 0.01. The defaults drop nothing.",
    recipe="""
        merge_method: breadcrumbs
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5, density: 0.9, gamma: 0.01}
          - model: whisper-domain-b
            parameters: {weight: 0.5, density: 0.9, gamma: 0.01}
    """,
)
def breadcrumbs(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: DeltaWeight = each(1.0),
    density: BandDensity = each(1.0),
    gamma: BandGamma = each(0.01),
    normalize: NormalizeSum = False,
    rescale: L1Rescale = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: tuple[Sequence[tuple[Cutoff, Cutoff]], Sequence[float]],
    offset: int,
) -> torch.Tensor:
    """Return lambda * sum_i w_i (M_i * D_i), M_i keeping int(density n) values below the int(gamma n) largest.

    Where density + gamma > 1 fewer of the largest are dropped, so that the defaults drop none.
    """
    bands, factors = statistics
    kept = [crumbs(d, b, offset) for d, b in zip(deltas, bands, strict=True)]
    kept = [d if f == 1 else d * f for d, f in zip(kept, factors, strict=True)]
    return weighted_sum(kept, weight, normalize=normalize, lambda_=lambda_)
