"""pcb: balance the parameters' competition within each model and between the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks
from chorus.linalg.quantiles import largest
from chorus.merge.method import Between, PerModel, method

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

CLIPPED = 1e-4  # share of the magnitudes that is clipped at either end (the authors' code)


@dataclass(frozen=True)
class Clip:
    """The magnitudes that a model's delta is clipped to."""

    low: float
    high: float


@dataclass(frozen=True)
class Balance:
    """Clips by model, and the two ends of each model's scores: below the first a score counts nothing."""

    clips: list[Clip]
    ends: list[tuple[float, float]]


class Scores:
    """The models' scores b_i, or their negatives, where positive; as blocks."""

    def __init__(self, deltas: Blocks, clips: list[Clip], sign: float) -> None:
        self.deltas, self.clips, self.sign = deltas, clips, sign
        self.count, self.numel, self.shape = deltas.count, deltas.numel, deltas.shape

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for offset, block in self.deltas:
            yield offset, [(self.sign * b).clamp_(min=0) for b in scores(clipped(block, self.clips), self.clips)]


def clipped(deltas: Sequence[torch.Tensor], clips: Sequence[Clip]) -> list[torch.Tensor]:
    """sign(D) min(max(|D|, low), high)."""
    return [d.sign() * d.abs().clamp_(c.low, c.high) for d, c in zip(deltas, clips, strict=True)]


def scores(deltas: Sequence[torch.Tensor], clips: Sequence[Clip]) -> list[torch.Tensor]:
    """b_i = exp(N u_i^2) tanh(D_i sum_j D_j), u_i the magnitude on the scale from `low` (0) to `high` (1)."""
    total = deltas[0].clone()
    for d in deltas[1:]:
        total.add_(d)
    found = []
    for d, clip in zip(deltas, clips, strict=True):
        span = clip.high - clip.low
        u = (d.abs() - clip.low) / span if span > 0 else torch.zeros_like(d)
        found.append(u.square_().mul_(len(deltas)).exp_().mul_((d * total).tanh_()))
    return found


def balance(blocks: Blocks, *, ratio: Sequence[float]) -> Balance:
    """Exact order statistics of magnitudes, then of scores, each from histograms over the blocks."""
    n = blocks.numel
    low, high = int(n * CLIPPED), max(0, int(n * (1 - CLIPPED) - 1))
    cuts = largest(blocks, [[n - low, n - high]] * blocks.count)
    smallest, biggest = _ends(blocks)
    clips = [
        Clip(smallest[i] if low == 0 else a.threshold, biggest[i] if n - high >= n else b.threshold)
        for i, (a, b) in enumerate(cuts)
    ]
    kept = [n - min(n - 1, int(n * (1 - r))) for r in ratio]
    positive = Scores(blocks, clips, 1.0)
    tops = [row[0].threshold for row in largest(positive, [[k] for k in kept])]
    if any(t <= 0 for t in tops):  # fewer positive scores than are kept: look among the negative ones
        below = largest(Scores(blocks, clips, -1.0), [[n - k + 1] for k in kept])
        tops = [t if t > 0 else -max(row[0].threshold, 0.0) for t, row in zip(tops, below, strict=True)]
    _, best = _ends(positive)
    return Balance(clips, list(zip(tops, best, strict=True)))


def _ends(blocks: Blocks) -> tuple[list[float], list[float]]:
    """The smallest and the largest magnitude of each tensor."""
    low, high = [float("inf")] * blocks.count, [0.0] * blocks.count
    for _, block in blocks:
        for i, x in enumerate(block):
            size = x.abs()
            low[i], high[i] = min(low[i], float(size.min())), max(high[i], float(size.max()))
    return low, high


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
    ratio: Annotated[PerModel[float], Between(0, 1), "share of each delta's values that may survive"] = 0.1,  # type: ignore[assignment]
    weight: Annotated[PerModel[float], "factor of each model's delta; the paper's lambda of a task"] = 1.0,  # type: ignore[assignment]
    lambda_: Annotated[float, "factor of the merged delta"] = 1.0,
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
    return total.div_(divisor.clamp_(min=1e-12)).mul_(lambda_)
