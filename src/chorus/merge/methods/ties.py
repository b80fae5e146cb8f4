"""ties: trim each delta to its largest values, elect signs, average what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.blocks import Blocks
from chorus.linalg.quantiles import Cutoff, keep_largest, largest
from chorus.merge.method import Between, PerModel, each, method
from chorus.merge.methods._consensus import elected_sum
from chorus.merge.methods._parameters import Int8Mask, Lambda, NormalizeVote
from chorus.merge.methods._sparse import kept_count, rescale_factors

if TYPE_CHECKING:
    import torch


def cutoffs(blocks: Blocks, *, density: Sequence[float], rescale: bool) -> tuple[list[Cutoff], list[float]]:
    """For each model, the cutoff of its largest values and the factor that restores its L1 norm."""
    # mergekit 0.1.5: one value stays where int() leaves none, and density 0 is the base
    counts = [max(1, kept_count(blocks.numel, d)) if d > 0 else 0 for d in density]
    found = [row[0] for row in largest(blocks, [[k] for k in counts])]
    factors = [1.0] * blocks.count
    if rescale:
        factors = rescale_factors(blocks, lambda i, x, offset: keep_largest(x, found[i], offset))
    return found, factors


@method(
    "ties",
    summary="trim, elect signs, merge: deltas that contradict each other do not cancel",
    paper="Yadav et al. 2023, TIES-Merging, arXiv 2306.01708",
    space="deltas",
    statistics=cutoffs,
    when="For several fine-tunes that interfere; density 0.2 to 0.5. Tune lambda on a dev set.",
    recipe="""
        merge_method: ties
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 1.0, density: 0.5}
          - model: whisper-domain-b
            parameters: {weight: 1.0, density: 0.5}
    """,
)
def ties(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "weight of each model in the vote and in the mean"] = each(1.0),
    density: Annotated[PerModel[float], Between(0, 1), "share of each delta's values that is kept"] = each(1.0),
    normalize: NormalizeVote = True,
    rescale: Annotated[bool, "give each trimmed delta back its L1 norm"] = False,
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: tuple[Sequence[Cutoff], Sequence[float]],
    offset: int,
) -> torch.Tensor:
    """Return the merged delta of TIES (section 3 of the paper), trimmed tensor by tensor.

    1. trim: keep the max(1, int(density * n)) values of largest magnitude, of equal ones those of lowest index;
    2. elect: the sign of sum_i w_i D_i for each value;
    3. merge: sum of the w_i D_i of that sign, over the sum of their |w_i| where `normalize`.
    """
    kept, factors = statistics
    trimmed = [keep_largest(d, c, offset) for d, c in zip(deltas, kept, strict=True)]
    trimmed = [d if f == 1 else d * f for d, f in zip(trimmed, factors, strict=True)]
    return elected_sum(trimmed, weight, normalize=normalize, lambda_=lambda_)
