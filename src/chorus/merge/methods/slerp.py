"""slerp: spherical interpolation of two models, and the weighted spherical mean of more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.sphere import slerp_coefficients, spherical_mean_coefficients
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import PerModel, Resolved, each, method, numbers
from chorus.merge.methods._weights import shares

if TYPE_CHECKING:
    import torch


def coefficients(blocks: Blocks, *, t: float | None, weight: Sequence[float | None]) -> list[float]:
    """The linear coefficients of the inputs, from their angles."""
    if t is None:
        share = shares([w for w in weight if w is not None])
        if blocks.count > 2:
            found = spherical_mean_coefficients(gram_matrix(blocks), share)
            if found is None:
                raise ValueError("the models' directions cancel, so that they have no spherical mean")
            return found
        t = share[1]
    # an end needs no angle, and so no pass over the tensors
    if t in (0.0, 1.0):
        return [1.0 - t, t]
    return list(slerp_coefficients(gram_matrix(blocks), t))


def check(parameters: Mapping[str, Resolved], models: int) -> None:
    """Exactly one of t and weights; t only between two."""
    t, weight = parameters["t"], numbers(parameters, "weight")
    if t is None:
        if len(weight) < models:
            raise ValueError("needs t, or a weight for every model")
        shares(weight)
    elif weight:
        raise ValueError("takes t, or weights, not both; mergekit goes by t: remove the weights to do as it does")
    elif models > 2:
        raise ValueError(f"t interpolates between two models, and there are {models}; give each a weight instead")


@method(
    "slerp",
    summary="spherical interpolation between two models",
    paper="Shoemake 1985, Animating rotation with quaternion curves",
    space="weights",
    base="first",
    models=(2, None),
    statistics=coefficients,
    check=check,
    symmetric=False,
    linear=True,
    when="To interpolate between two models. Fine-tunes of one base are nearly parallel, and there it is linear.",
    recipe="""
        merge_method: slerp
        base_model: whisper-small
        models:
          - model: whisper-domain-a
        parameters: {t: 0.5}
    """,
)
def slerp(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    t: Annotated[float | None, "position between the base (0) and the other model (1)"] = None,
    weight: Annotated[PerModel[float | None], "in place of t: the share of each model"] = each(None),
    statistics: Sequence[float],
) -> torch.Tensor:
    """Return [sin((1-t)A) a + sin(tA) b] / sin A, with A the angle between the flattened tensors a and b.

    The raw vectors are combined, so a change of norm is not interpolated. Where |cos A| > 0.9995, or one tensor
    is zero, it is linear. The base is t = 0 wherever it stands; without a base, t = 0 is the first model.
    With a `weight` for each model in place of `t`, t is the second's share; over more than two models it is
    the weighted spherical mean (see multislerp).
    """
    return linear_combination(tensors, statistics)
