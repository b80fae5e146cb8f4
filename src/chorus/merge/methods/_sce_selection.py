"""SCE's selection: where the models vary most, and how much each of them changed there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK, Blocks, chunks
from chorus.linalg.quantiles import Cutoff, keep_largest, largest
from chorus.linalg.statistics import squares

if TYPE_CHECKING:
    import numpy as np
    import torch

    from chorus.linalg import kernels
else:
    np, torch = lazy("numpy"), lazy("torch")
    kernels = lazy("chorus.linalg.kernels")

PIECE = 32_768  # values at a time: all models' and two more lie in the second cache


class Variance:
    """The variance of each value across the models, as blocks of one tensor."""

    def __init__(self, deltas: Blocks) -> None:
        self.deltas, self.count, self.numel, self.shape = deltas, 1, deltas.numel, deltas.shape

    def __iter__(self) -> Iterator[tuple[int, list[torch.Tensor]]]:
        for offset, block in self.deltas:
            for start in range(0, block[0].numel(), CHUNK):
                yield offset + start, [variance([d[start : start + CHUNK] for d in block])]


def variance(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean squared deviation from the mean of the models, value by value."""
    if _on_cpu(deltas):
        return _variance(deltas)
    mean = sum(deltas[1:], deltas[0]) / len(deltas)
    total = torch.zeros_like(mean)
    for d in deltas:
        total += (d - mean).square()
    return total / len(deltas)


def _on_cpu(deltas: Sequence[torch.Tensor]) -> bool:
    return all(d.device.type == "cpu" and d.dtype == torch.float32 and d.is_contiguous() for d in deltas)


def _variance(deltas: Sequence[torch.Tensor]) -> torch.Tensor:
    """The same in compiled loops over pieces that stay in the cache."""
    out = torch.empty_like(deltas[0])
    rows, found = [d.reshape(-1).numpy() for d in deltas], out.reshape(-1).numpy()
    share = np.float32(1 / len(rows))
    for start in range(0, found.size, PIECE):
        piece = slice(start, start + PIECE)
        total = found[piece]
        mean = np.zeros(total.size, np.float32)
        for x in rows:
            kernels.add_scaled(x[piece], share, mean)
        total[:] = 0
        for x in rows:
            kernels.add_squared_deviation(x[piece], mean, total)
        total *= share
    return out


def selection(blocks: Blocks, *, select_topk: float) -> tuple[Cutoff | None, list[float]]:
    """The cutoff of the largest variances (None: all are selected), and each model's mean square there."""
    cut = None
    if select_topk < 1:
        # a share of the values that vary, as mergekit counts them
        cut = largest(Variance(blocks), lambda nonzero: [[int(nonzero[0] * select_topk)]])[0][0]
    sums = [0.0] * blocks.count
    offset = 0
    for chunk in chunks(blocks):
        kept = selected(chunk, cut, offset)
        sums = [a + squares(x) for a, x in zip(sums, kept, strict=True)]
        offset += chunk[0].numel()
    # without a threshold: mergekit's 1e-6 lies above the mean squares of deltas of 6e-4 and makes their weights equal
    total = sum(sums)
    return cut, [s / total for s in sums] if total > 0 else [1 / blocks.count] * blocks.count


def selected(deltas: Sequence[torch.Tensor], cut: Cutoff | None, offset: int) -> list[torch.Tensor]:
    """The deltas where their variance is among the largest, zero elsewhere."""
    if cut is None:
        return list(deltas)
    spread = variance(deltas)
    if _on_cpu(deltas) and cut.threshold != float("inf"):
        found = [torch.empty_like(d) for d in deltas]
        for d, out in zip(deltas, found, strict=True):
            threshold, ties = np.float32(cut.threshold), cut.ties_before - offset
            kernels.where_largest(
                d.reshape(-1).numpy(), spread.reshape(-1).numpy(), threshold, ties, out.reshape(-1).numpy()
            )
        return found
    chosen = keep_largest(spread, cut, offset) > 0
    return [torch.where(chosen, d, torch.zeros_like(d)) for d in deltas]
