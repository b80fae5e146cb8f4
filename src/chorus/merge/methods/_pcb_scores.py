"""PCB-Merging's scores: which values win within their model and between the models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks
from chorus.linalg.quantiles import largest

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
            # `largest` ranks magnitudes, so that scores of either sign are ranked apart
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
        # 0 where all magnitudes are equal or there is one value: the authors' code divides by it and gets NaN
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
    kept = [n - min(n - 1, int(n * (1 - r))) for r in ratio]  # at least one
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
