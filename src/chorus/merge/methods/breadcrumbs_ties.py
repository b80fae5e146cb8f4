"""breadcrumbs_ties: Breadcrumbs' masks with TIES' election of signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.quantiles import Cutoff
from chorus.merge.method import Between, PerModel, method
from chorus.merge.methods._consensus import elected_sum
from chorus.merge.methods._crumbs import crumbs, cutoffs

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
    weight: Annotated[PerModel[float], "weight of each model in the vote and in the sum"] = 1.0,  # type: ignore[assignment]
    density: Annotated[PerModel[float], Between(0, 1), "share of values kept below the largest"] = 1.0,  # type: ignore[assignment]
    gamma: Annotated[PerModel[float], Between(0, 1), "share of the largest values that is dropped"] = 0.01,  # type: ignore[assignment]
    normalize: Annotated[bool, "divide by the weights of the models that agree"] = False,
    rescale: Annotated[bool, "give each sparse delta back its L1 norm"] = False,
    lambda_: Annotated[float, "factor of the merged delta"] = 1.0,
    int8_mask: Annotated[bool, "without effect; mergekit's temporaries"] = False,
    statistics: tuple[Sequence[tuple[Cutoff, Cutoff]], Sequence[float]],
    offset: int,
) -> torch.Tensor:
    """Return the elected sum (see ties) of the deltas masked as in breadcrumbs."""
    bands, factors = statistics
    kept = [crumbs(d, b, offset) for d, b in zip(deltas, bands, strict=True)]
    kept = [d if f == 1 else d * f for d, f in zip(kept, factors, strict=True)]
    return elected_sum(kept, weight, normalize=normalize, lambda_=lambda_)
