"""sce: select what varies between the models, weigh models by what is selected, erase minority signs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.quantiles import Cutoff
from chorus.merge.method import Between, PerModel, each, method
from chorus.merge.methods._consensus import agreeing_sum
from chorus.merge.methods._parameters import Int8Mask, Lambda
from chorus.merge.methods._sce_selection import selected, selection

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@method(
    "sce",
    summary="keep what varies most between the models, weighted by its energy, without minority signs",
    paper="Wan et al. 2024, FuseChat: Knowledge Fusion of Chat Models, arXiv 2408.07990",
    space="deltas",
    models=(1, None),
    statistics=selection,
    when="When the models should weigh by how far they moved: three times the delta counts nine times.",
    recipe="""
        merge_method: sce
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {select_topk: 0.1}
    """,
)
def sce(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    select_topk: Annotated[float, Between(0, 1), "share of the varying values that is kept"] = 1.0,
    weight: Annotated[PerModel[float], "factor of each model's own weight, which its energy gives"] = each(1.0),
    lambda_: Lambda = 1.0,
    int8_mask: Int8Mask = False,
    statistics: tuple[Cutoff | None, Sequence[float]],
    offset: int,
) -> torch.Tensor:
    """Return the merged delta of SCE (section 3.3 of the paper), tensor by tensor.

    1. select: the int(select_topk * n) values of largest variance across the models, n counting those that vary
       at all, of equal ones those of lowest index;
    2. calculate: w_i = sum D_i^2 / sum_j sum D_j^2 over the selected values;
    3. erase: values whose sign is not that of sum_i D_i;
    4. merge: sum w_i D_i / sum w_i over what is left of each value.

    Identical models do not vary: below select_topk 1 nothing of them is selected and the base comes back.
    """
    cut, energies = statistics
    factors, votes = [e * w for e, w in zip(energies, weight, strict=True)], [1.0] * len(deltas)
    rows = [d.reshape(-1) for d in deltas]
    out = torch.empty_like(rows[0])
    for start in range(0, out.numel(), CHUNK):  # so that what is made on the way stays in the cache
        kept = selected([d[start : start + CHUNK] for d in rows], cut, offset + start)
        out[start : start + CHUNK] = agreeing_sum(kept, factors, votes=votes, normalize=True, lambda_=lambda_)
    return out.reshape(deltas[0].shape)
