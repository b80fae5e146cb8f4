"""Exact thresholds on magnitudes, for tensors of any size, read in blocks.

The k largest of n magnitudes, ties broken by the lowest index, are described by a threshold and an index: kept
is |x| > threshold, and |x| == threshold up to that index. Two passes find the threshold (a histogram of the upper
half of the float's bits, then of the lower half inside one bin), a third finds the index where values tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.blocks import Blocks

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from chorus.linalg import kernels
else:
    np = lazy("numpy")
    torch = lazy("torch")
    kernels = lazy("chorus.linalg.kernels")


@dataclass(frozen=True)
class Cutoff:
    """The k largest magnitudes: above `threshold`, or equal to it at a flat index below `ties_before`."""

    threshold: float
    ties_before: int


Counts = Sequence[Sequence[int]]


def largest(blocks: Blocks, counts: Counts | Callable[[list[int]], Counts]) -> list[list[Cutoff]]:
    """For each tensor and each count k asked of it, the cutoff of its k largest magnitudes.

    `counts[i]` lists the k of tensor i, each from 0 to numel; a function gets the numbers of values that are not
    zero and returns the counts. float64 inputs are ranked as float32.
    """
    # two rows a tensor, see count_high; int64, since a vocabulary's matrix may pass 2^31 values
    high = np.zeros((blocks.count, 2, 32768), np.int64)
    wanted = list(range(blocks.count))
    # all or none of a tensor: no pass over it is needed
    if not callable(counts):
        wanted = [i for i in wanted if any(_trivial(k, blocks.numel) is None for k in counts[i])]
    zeros = [0] * blocks.count
    if wanted:
        for _, block in blocks:
            for i in wanted:
                magnitudes = _bits(block[i])
                kernels.count_high(magnitudes, high[i])
                if callable(counts):
                    zeros[i] += int(kernels.count_equal(magnitudes, 0))
    if callable(counts):
        counts = counts([blocks.numel - z for z in zeros])
    trivial = [[_trivial(k, blocks.numel) for k in ks] for ks in counts]
    bins = {}  # (tensor, bin) -> histogram of the lower bits
    places = {}  # (tensor, k) -> (bin, how many of the bin's values are kept)
    for i in wanted:
        from_top = np.cumsum(high[i].sum(axis=0)[::-1])  # how many lie in this bin or above, from the highest bin down
        for k, known in zip(counts[i], trivial[i], strict=True):
            if known is None:
                position = int(np.searchsorted(from_top, k))
                above = int(from_top[position - 1]) if position else 0
                places[i, k] = (32767 - position, k - above)
                bins[i, 32767 - position] = np.zeros(65536, np.int64)
    if bins:
        for _, block in blocks:
            for (i, high_bits), histogram in bins.items():
                kernels.count_low(_bits(block[i]), high_bits, histogram)
    cutoffs = {}
    open_ties = {}
    for (i, k), (high_bits, left) in places.items():
        histogram = bins[i, high_bits]
        from_top = np.cumsum(histogram[::-1])
        position = int(np.searchsorted(from_top, left))
        above = int(from_top[position - 1]) if position else 0
        bits = (high_bits << 16) | (65535 - position)
        value = float(np.uint32(bits).view(np.float32))
        if left - above == histogram[65535 - position]:  # the values that equal the threshold are all kept
            cutoffs[i, k] = Cutoff(value, blocks.numel)
        else:
            open_ties[i, k] = (bits, left - above)
    cutoffs |= _place_ties(blocks, open_ties)
    return [
        [c if c is not None else cutoffs[i, k] for k, c in zip(ks, trivial[i], strict=True)]
        for i, ks in enumerate(counts)
    ]


def _trivial(k: int, numel: int) -> Cutoff | None:
    if k <= 0:
        return Cutoff(float("inf"), 0)  # no magnitude is above, no tie is kept
    return Cutoff(-1.0, numel) if k >= numel else None  # every magnitude is above -1


def _place_ties(blocks: Blocks, open_ties: dict[tuple[int, int], tuple[int, int]]) -> dict[tuple[int, int], Cutoff]:
    """Find, for each threshold, the index after the last equal value that is still kept."""
    found: dict[tuple[int, int], Cutoff] = {}
    left = dict(open_ties)
    if not left:
        return found
    for offset, block in blocks:
        for key, (bits, nth) in list(left.items()):
            x = _bits(block[key[0]])
            equal = kernels.count_equal(x, bits)
            if equal >= nth:
                index = offset + kernels.index_of_equal(x, bits, nth)
                found[key] = Cutoff(float(np.uint32(bits).view(np.float32)), index + 1)
                del left[key]
            else:
                left[key] = (bits, nth - equal)
        if not left:
            break
    return found


def _bits(x: Tensor) -> np.ndarray:
    """The float32 bits of a tensor, as unsigned integers; no copy on the CPU."""
    array: np.ndarray = x.float().cpu().contiguous().numpy()
    return array.view(np.uint32)


def keep_largest(x: Tensor, cutoff: Cutoff, offset: int) -> Tensor:
    """x with everything below the cutoff set to zero; `offset` is the flat index of its first value."""
    if cutoff.threshold < 0:
        return x
    ties = cutoff.ties_before - offset
    if x.device.type == "cpu" and x.dtype == torch.float32:
        out = torch.empty_like(x)
        kernels.keep_largest(x.numpy(), np.float32(cutoff.threshold), ties, out.numpy())
        return out
    return torch.where(_kept(x, cutoff, ties), x, torch.zeros_like(x))


def drop_largest(x: Tensor, cutoff: Cutoff, offset: int) -> Tensor:
    """x with everything above the cutoff set to zero."""
    if cutoff.threshold == float("inf"):
        return x
    ties = cutoff.ties_before - offset
    if x.device.type == "cpu" and x.dtype == torch.float32:
        out = torch.empty_like(x)
        kernels.drop_largest(x.numpy(), np.float32(cutoff.threshold), ties, out.numpy())
        return out
    return torch.where(_kept(x, cutoff, ties), torch.zeros_like(x), x)


def _kept(x: Tensor, cutoff: Cutoff, ties: int) -> Tensor:
    magnitude = x.abs().float()
    early = torch.arange(x.numel(), device=x.device) < ties
    return (magnitude > cutoff.threshold) | ((magnitude == cutoff.threshold) & early)
