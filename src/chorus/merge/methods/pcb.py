"""pcb: balance the parameters' competition within each model and between the models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.merge.method import Between, PerModel, each, method
from chorus.merge.methods._parameters import Lambda
from chorus.merge.methods._pcb_scores import Balance, balance, clipped, scores

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


@method(
    "pcb",
    summary="parameter competition balancing: large and agreeing values win, the rest is dropped",
    paper="Du et al. 2024, Parameter Competition Balancing for Model Merging, arXiv 2410.02396",
    space="deltas",
    statistics=balance,
    homogeneous=False,
    when="For many models with few changes that matter; ratio 0.05 to 0.2, lambda about 1.2, tuned on a dev set.",
    recipe="""
        merge_method: pcb
        base_model: whisper-small
        models:
          - model: whisper-domain-a
          - model: whisper-domain-b
        parameters: {ratio: 0.1, lambda: 1.2}
    """,
)
def pcb(
    deltas: Sequence[torch.Tensor],
    /,
    *,
    ratio: Annotated[PerModel[float], Between(0, 1), "share of each delta's values that may survive"] = each(0.1),
    weight: Annotated[PerModel[float], "factor of each model's delta; the paper's lambda of a task"] = each(1.0),
    lambda_: Lambda = 1.0,
    statistics: Balance,
) -> torch.Tensor:
    """Return sum_i w_i s_i D_i / sum_i s_i (PCB-Merging, section 3), tensor by tensor.

    Magnitudes are first clipped at their quantiles 0.0001 and 0.9999. The score of a value is
    b_i = exp(N u_i^2) tanh(D_i sum_j D_j), u_i its magnitude scaled to [0, 1] within the model; s_i scales the
    scores above the (1 - ratio) quantile to [0, 1] and is 0 below. The paper writes softmaxes where the authors'
    code, followed here, has exp and tanh. Where all of a model's scores are equal it counts everywhere.
    """
    values = clipped(deltas, statistics.clips)
    total, divisor = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for d, b, (low, high), w in zip(values, scores(values, statistics.clips), statistics.ends, weight, strict=True):
        b = b.float().to(d.dtype)  # the scores' order was found in float32
        s = (b - low).div_(high - low).clamp_(min=0) if high > low else torch.ones_like(b)
        divisor.add_(s)
        total.addcmul_(s, d, value=w)
    return total.div_(divisor.clamp_(min=1e-12)).mul_(lambda_)  # the authors' floor
