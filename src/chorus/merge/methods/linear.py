"""linear: the weighted mean of the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.combine import linear_combination
from chorus.merge.method import PerModel, method
from chorus.merge.methods._parameters import NormalizeSum
from chorus.merge.methods._weights import check_shares, shares

if TYPE_CHECKING:
    import torch


@method(
    "linear",
    summary="the weighted mean of the models (model soup)",
    paper="Wortsman et al. 2022, Model soups, arXiv 2203.05482",
    space="weights",
    base="input",
    check=check_shares,
    linear=True,
    when="Always try it first: every other method has to beat it. Works best for fine-tunes of one base.",
    recipe="""
        merge_method: linear
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.6}
          - model: whisper-domain-b
            parameters: {weight: 0.4}
    """,
)
def linear(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model, of all or of none (then all alike); may be negative"],
    normalize: NormalizeSum = True,
) -> torch.Tensor:
    """Return sum_i w_i x_i, divided by sum_i w_i where `normalize`.

    A base given in the recipe is one more model and needs a weight. Fine-tunes of one base lie in one basin, so
    that their mean usually works; models trained apart do not.

    Raises `ValueError` where the weights sum to zero and `normalize` is on.
    """
    return linear_combination(tensors, shares(weight) if normalize else weight)
