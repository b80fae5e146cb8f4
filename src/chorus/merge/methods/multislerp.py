"""multislerp: the weighted mean direction of many models, at their weighted mean norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.sphere import spherical_mean_coefficients
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import PerModel, method
from chorus.merge.methods._weights import check_shares, shares

if TYPE_CHECKING:
    import torch


def coefficients(blocks: Blocks, *, weight: Sequence[float], normalize_weights: bool, eps: float) -> list[float]:
    if blocks.count == 1:
        return [1.0]
    w = shares(weight) if normalize_weights else list(weight)
    found = spherical_mean_coefficients(gram_matrix(blocks), w, eps=eps)
    if found is None:
        if blocks.count == 2:
            return shares(weight)
        raise ValueError("the weighted directions of the models cancel, so that they have no spherical mean")
    return found


@method(
    "multislerp",
    summary="spherical mean of any number of models or deltas",
    paper="Goddard 2025, Multi-SLERP (mergekit)",
    space="deltas_if_base",
    base="optional",
    statistics=coefficients,
    check=check_shares,
    linear=True,
    when="As linear, where the models' norms should survive: the mean of unlike vectors is shorter than they are.",
    recipe="""
        merge_method: multislerp
        models:
          - model: whisper-domain-a
            parameters: {weight: 1.0}
          - model: whisper-domain-b
            parameters: {weight: 1.0}
          - model: whisper-domain-c
            parameters: {weight: 1.0}
    """,
)
def multislerp(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model"],
    normalize_weights: Annotated[bool, "divide the weights by their sum"] = True,
    eps: Annotated[float, "a sum of directions shorter than this has none"] = 1e-8,
    statistics: Sequence[float],
) -> torch.Tensor:
    """Return direction(sum w_i u_i) * sum w_i |x_i|, with u_i = x_i / |x_i|; on deltas where there is a base.

    The published steps (tangents at the normalised sum, their weighted mean, back to the sphere) come to this:
    the weighted tangents cancel. A single model is returned as it is. Where the directions cancel, two models
    are averaged linearly and more are an error (`ValueError`).
    """
    return linear_combination(tensors, statistics)
