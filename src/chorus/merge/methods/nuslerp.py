"""nuslerp: slerp with weights in place of t, on weights or on deltas, whole or by rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks
from chorus.linalg.combine import linear_combination
from chorus.linalg.sphere import SMALL_ANGLE, slerp_coefficients
from chorus.linalg.statistics import gram_matrix
from chorus.merge.method import PerModel, Resolved, Split, method

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


def position(weight: Sequence[float]) -> float:
    """t = w_2 / (w_1 + w_2); one half where the weights cancel."""
    total = weight[0] + weight[1]
    # mergekit's threshold, which may be absolute since weights do not scale with the model
    return 0.5 if abs(total) < 1e-6 else weight[1] / total


def coefficients(
    blocks: Blocks, *, weight: Sequence[float], nuslerp_flatten: bool, nuslerp_row_wise: bool
) -> tuple[float, float] | None:
    if not nuslerp_flatten and len(blocks.shape) > 1:
        return None
    # mergekit's 1e-8 on the sine lies below the noise of arccos in float32 (3e-4 rad), 1e-4 above that in float64
    return slerp_coefficients(gram_matrix(blocks), position(weight), parallel=1 - SMALL_ANGLE**2 / 2)


def cut(parameters: Mapping[str, Resolved]) -> Split:
    if parameters["nuslerp_flatten"]:
        return "element"
    return "tensor" if parameters["nuslerp_row_wise"] else "row"


@method(
    "nuslerp",
    summary="spherical interpolation of two models or two deltas, by weights",
    paper="Goddard 2024, mergekit; Shoemake 1985",
    space="deltas_if_base",
    base="optional",
    models=(2, 2),
    split=cut,
    statistics=coefficients,
    symmetric=False,
    linear=True,
    when="Between two fine-tunes of one base, with the base given: their deltas are far from parallel, "
    "so that the sphere matters there.",
    recipe="""
        merge_method: nuslerp
        base_model: whisper-small
        models:
          - model: whisper-domain-a
            parameters: {weight: 1.0}
          - model: whisper-domain-b
            parameters: {weight: 1.0}
    """,
)
def nuslerp(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    weight: Annotated[PerModel[float], "share of each model: t = w2 / (w1 + w2)"],
    nuslerp_flatten: Annotated[bool, "the whole tensor is one vector"] = True,
    nuslerp_row_wise: Annotated[bool, "without flatten: vectors run along the first dimension, not the last"] = False,
    statistics: tuple[float, float] | None,
) -> torch.Tensor:
    """Return slerp(x_1, x_2; w_2 / (w_1 + w_2)), of the deltas where the recipe has a base.

    Vectors within 1e-4 radians of parallel, antiparallel, or zero are interpolated linearly. With
    `nuslerp_flatten: false` each vector along the last dimension is interpolated by itself, or with
    `nuslerp_row_wise: true` each along the first (mergekit's naming); one-dimensional tensors are one vector.
    """
    if statistics is not None:
        return linear_combination(tensors, statistics)
    dim = 0 if nuslerp_row_wise else -1
    a, b = (x.double() for x in tensors)
    t = position(weight)
    lengths = a.norm(dim=dim, keepdim=True) * b.norm(dim=dim, keepdim=True)
    cosine = ((a * b).sum(dim=dim, keepdim=True) / lengths.clamp(min=torch.finfo(torch.float64).tiny)).clamp(-1, 1)
    angle = torch.arccos(cosine)
    sine = torch.sin(angle)
    curved = (sine > SMALL_ANGLE) & (lengths > 0)
    # both sides of torch.where are computed
    safe = torch.where(curved, sine, torch.ones_like(sine))
    left = torch.where(curved, torch.sin((1 - t) * angle) / safe, torch.full_like(sine, 1 - t))
    right = torch.where(curved, torch.sin(t * angle) / safe, torch.full_like(sine, t))
    return (left * a + right * b).to(tensors[0].dtype)
