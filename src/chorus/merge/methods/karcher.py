"""karcher: the Riemannian centre of mass of the models' directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.sphere import karcher_coefficients
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import PerModel, Resolved, each, method, numbers

if TYPE_CHECKING:
    import torch


def coefficients(blocks: Blocks, *, weight: Sequence[float], max_iter: int, tol: float) -> list[float]:
    if blocks.count == 1:
        return [1.0]
    found = karcher_coefficients(gram_matrix(blocks), weight, max_iter=max_iter, tol=tol)
    if found is None:
        raise ValueError("the models' directions cancel, so that they have no Karcher mean")
    return found[0]


def check(parameters: Mapping[str, Resolved], models: int) -> None:
    weight = numbers(parameters, "weight")
    # under negative shares the mean is no minimum, and the iteration need not come to rest
    if sum(weight) <= 0 or min(weight) < 0:
        raise ValueError(f"the weights {list(weight)} must not be negative, nor all zero")


@method(
    "karcher",
    summary="Karcher mean: the point on the sphere nearest to all models",
    paper="Karcher 1977, Riemannian center of mass; mergekit's formulation",
    space="weights",
    base="input",
    statistics=coefficients,
    check=check,
    linear=True,
    when="As multislerp; the two differ only where models are far apart. No parameter to tune.",
    recipe="""
        merge_method: karcher
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
          - model: whisper-domain-c
    """,
)
def karcher(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model"] = each(1.0),
    max_iter: Annotated[int, "most steps taken"] = 10,
    tol: Annotated[float, "stop when a step is shorter than this (radians)"] = 1e-5,
    statistics: Sequence[float],
) -> torch.Tensor:
    """Return m * mean |x_i|, with m the unit vector that minimises sum_i w_i angle(m, x_i)^2.

    The mean lies in the span of the inputs: the iteration runs on N coefficients with the float64 Gram matrix,
    and the tensors are read twice in all. A base given in the recipe is one more model. Directions shorter than
    `tol` times the longest are left out, their norm is not.
    """
    return linear_combination(tensors, statistics)
