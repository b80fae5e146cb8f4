"""dare_ties: drop values of each delta at random, rescale, elect signs, add what agrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.linalg.draws import keep_random
from chorus.merge.method import each, method
from chorus.merge.methods._consensus import elected_sum
from chorus.merge.methods._dare import factors
from chorus.merge.methods._parameters import DareRescale, Int8Mask, KeepProbability, Lambda, NormalizeVote, VoteWeight

if TYPE_CHECKING:
    import torch


@method(
    "dare_ties",
    summary="DARE's random dropping with TIES' election of signs",
    paper="Yu et al. 2023, arXiv 2311.03099; Yadav et al. 2023, arXiv 2306.01708",
    space="deltas",
    statistics=factors,
    random=True,
    when="As dare_linear, where the models contradict each other.",
    recipe="""
        merge_method: dare_ties
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5, density: 0.5}
          - model: whisper-domain-b
            parameters: {weight: 0.5, density: 0.5}
        seed: 1
    """,
)
def dare_ties(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: VoteWeight = each(1.0),
    density: KeepProbability = each(1.0),
    normalize: NormalizeVote = False,
    rescale: DareRescale = "l1",
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: Sequence[float],
    offset: int,
    keys: Sequence[int],
) -> torch.Tensor:
    """Return the elected sum (see ties) of the deltas c_i (M_i * D_i) (see dare_linear)."""
    kept = [keep_random(d, p, key, offset) for d, p, key in zip(deltas, density, keys, strict=True)]
    kept = [d if c == 1 else d * c for d, c in zip(kept, statistics, strict=True)]
    return elected_sum(kept, weight, normalize=normalize, lambda_=lambda_)
