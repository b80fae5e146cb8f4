"""passthrough: one model's tensors as they are, for stacking layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.linalg.combine import linear_combination
from chorus.merge.method import PerModel, each, method

if TYPE_CHECKING:
    import torch


@method(
    "passthrough",
    summary="the tensors of a single model, perhaps scaled; used to stack layers",
    paper="none; mergekit's frankenmerges",
    space="weights",
    base="input",
    models=(1, 1),
    linear=True,
    when="With slices, to build a deeper or shallower model; alone, to convert the dtype or the sharding.",
    recipe="""
        merge_method: passthrough
        slices:
          - sources: [{model: qwen-a, layer_range: [0, 16]}]
          - sources: [{model: qwen-a, layer_range: [8, 24]}]
    """,
)
def passthrough(
    tensors: Sequence[torch.Tensor],
    /,
    *,
    scale: Annotated[PerModel[float | None], "factor; with a filter it damps or zeroes some tensors"] = each(None),
) -> torch.Tensor:
    """Return the tensor, times `scale` where it is given; without it every bit stays as it is."""
    return linear_combination(tensors, [1.0 if scale[0] is None else scale[0]])
