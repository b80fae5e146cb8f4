"""breadcrumbs_ties: Breadcrumbs' masks with TIES' election of signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.linalg.quantiles import Cutoff
from chorus.merge.method import each, method
from chorus.merge.methods._breadcrumbs_mask import crumbs, cutoffs
from chorus.merge.methods._consensus import elected_sum
from chorus.merge.methods._parameters import (
    BandDensity,
    BandGamma,
    Int8Mask,
    L1Rescale,
    Lambda,
    NormalizeVote,
    VoteWeight,
)

if TYPE_CHECKING:
    import torch


@method(
    "breadcrumbs_ties",
    summary="Breadcrumbs' masks with TIES' election of signs",
    paper="Davari and Belilovsky 2023, arXiv 2312.06795; Yadav et al. 2023, arXiv 2306.01708",
    space="deltas",
    statistics=cutoffs,
    when="As breadcrumbs, where the models contradict each other.",
    recipe="""
        merge_method: breadcrumbs_ties
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5, density: 0.9, gamma: 0.01}
          - model: whisper-domain-b
            parameters: {weight: 0.5, density: 0.9, gamma: 0.01}
    """,
)
def breadcrumbs_ties(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: VoteWeight = each(1.0),
    density: BandDensity = each(1.0),
    gamma: BandGamma = each(0.01),
    normalize: NormalizeVote = False,
    rescale: L1Rescale = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: tuple[Sequence[tuple[Cutoff, Cutoff]], Sequence[float]],
    offset: int,
) -> torch.Tensor:
    """Return the elected sum (see ties) of the deltas masked as in breadcrumbs."""
    bands, factors = statistics
    kept = [crumbs(d, b, offset) for d, b in zip(deltas, bands, strict=True)]
    kept = [d if f == 1 else d * f for d, f in zip(kept, factors, strict=True)]
    return elected_sum(kept, weight, normalize=normalize, lambda_=lambda_)
