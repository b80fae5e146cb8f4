"""SCE's selection: where the models vary most, and how much each of them changed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks, chunks
from chorus.linalg.quantiles import Cutoff, keep_largest, largest
from chorus.linalg.statistics import squares

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")


class Variance:
    """The variance of each value across the models, as blocks of one tensor."""

    def __init__(self, deltas: Blocks) -> None:
        self.deltas, self.count, self.numel, self.shape = deltas, 1, deltas.numel, deltas.shape

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for offset, block in self.deltas:
            yield offset, [variance(block)]


def variance(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared deviation from the mean of the models, value by value."""
    mean = deltas[0].clone()
    for d in deltas[1:]:
        mean.add_(d)
    mean.div_(len(deltas))
    total = torch.zeros_like(mean)
    for d in deltas:
        deviation = d - mean
        total.addcmul_(deviation, deviation)
    return total.div_(len(deltas))


def selection(blocks: Blocks, *, select_topk: float) -> tuple[Cutoff | None, list[float]]:
    """The cutoff of the largest variances (None: all are selected), and each model's mean square there."""
    cut = None
    if select_topk < 1:
        cut = largest(Variance(blocks), lambda nonzero: [[int(nonzero[0] * select_topk)]])[0][0]
    sums = [0.0] * blocks.count
    offset = 0
    for chunk in chunks(blocks):
        kept = selected(chunk, cut, offset)
        sums = [a + squares(x) for a, x in zip(sums, kept, strict=True)]
        offset += chunk[0].numel()
    total = sum(sums)
    return cut, [s / total for s in sums] if total > 0 else [1 / blocks.count] * blocks.count


def selected(deltas: Sequence[torch.Tensor], cut: Cutoff | None, offset: int) -> list[torch.Tensor]:
    """The deltas where their variance is among the largest, zero elsewhere."""
    if cut is None:
        return list(deltas)
    zero = torch.zeros_like(deltas[0])
    chosen = keep_largest(variance(deltas), cut, offset) > 0
    return [torch.where(chosen, d, zero) for d in deltas]
