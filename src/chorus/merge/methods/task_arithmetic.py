"""task_arithmetic: the base plus the weighted sum of the models' deltas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.combine import linear_combination
from chorus.merge.method import Between, PerModel, each, method
from chorus.merge.methods._parameters import Int8Mask, Lambda, NormalizeSum
from chorus.merge.methods._weights import check_shares, shares

if TYPE_CHECKING:
    import torch


@method(
    "task_arithmetic",
    summary="base plus the weighted sum of the task vectors",
    paper="Ilharco et al. 2022, Editing models with task arithmetic, arXiv 2212.04089",
    space="deltas",
    check=check_shares,
    linear=True,
    when="To add skills, or (with a negative weight) to remove one; lambda about 0.3 for eight models.",
    recipe="""
        merge_method: task_arithmetic
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 0.5}
          - model: whisper-domain-b
            parameters: {weight: 0.5}
    """,
)
def task_arithmetic(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "factor of each delta; negative ones subtract"] = each(1.0),
    normalize: NormalizeSum = False,
    lambda_: Lambda = 1.0,
    density: Annotated[PerModel[float], Between(0, 1), "without effect here; mergekit accepts it"] = each(1.0),
    rescale: Annotated[bool, "without effect here; mergekit accepts it"] = False,
    int8_mask: Int8Mask = False,
) -> torch.Tensor:
    """Return lambda * sum_i w_i D_i, which the engine adds to the base.

    Raises `ValueError` where the weights sum to zero and `normalize` is on.
    """
    w = shares(weight) if normalize else weight
    return linear_combination(deltas, [lambda_ * x for x in w])
