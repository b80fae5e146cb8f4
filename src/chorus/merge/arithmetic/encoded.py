"""Values as they are written: the cast, refused where it overflows, and what it loses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, Protocol

from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.errors import ChorusError
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.merge.arithmetic.tensor_plan import TensorPlan

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from chorus.merge.arithmetic.reader import Bytes
else:
    torch = lazy("torch")

# Three float64 sums over every value are dear beside a mean of bytes; for a role's ratios of norms a sample will do.
LOSS_SAMPLE = 32  # every so many chunks one is looked at for what the cast loses
Loss = tuple[float, float, float]


@dataclass(frozen=True)
class Encoded:
    """Values of a range as they are written, and sums of squares over its sampled chunks: error, weights, deltas."""

    data: Bytes
    loss: Loss = (0.0, 0.0, 0.0)


class Work(Protocol):
    """The arithmetic of one output tensor."""

    tensor: TensorPlan

    def prepare(self) -> None:
        """Gather the statistics, which may take passes of their own."""

    def ranges(self) -> Iterator[tuple[int, int]]:
        """The ranges in which the result is to be computed, in order."""

    def encoded(self, start: int, stop: int) -> Encoded:
        """The result's bytes of a range from `ranges()`."""


def encode(tensor: TensorPlan, merged: Tensor, base: Tensor | None, start: int, *, allow_overflow: bool) -> Encoded:
    """Merged values [n] from flat index `start` on, in the tensor's type; the loss is told against `base`."""
    cast = merged.to(torch_dtype(tensor.dtype)).cpu().contiguous()
    # no other output type has a smaller range than the arithmetic; a float16 tensor that is copied may hold infinities
    narrower = tensor.dtype == "float16" and merged.dtype != torch.float16
    if narrower and not allow_overflow and bool(torch.isinf(cast).any()):
        refuse_overflow(tensor, float(merged.abs().max()))
    return Encoded(cast.view(torch.uint8).numpy(), _loss(tensor, merged, cast, base, start))


def _loss(tensor: TensorPlan, merged: Tensor, cast: Tensor, base: Tensor | None, start: int) -> Loss:
    sums = [0.0, 0.0, 0.0]
    # integers that are copied, and casts to a wider type, lose nothing
    if merged.is_floating_point() and itemsize(tensor.dtype) < merged.element_size():
        for piece in _sampled(start, merged.numel()):
            exact = merged[piece].double()
            sums[0] += float((cast[piece].to(exact) - exact).square().sum())
            sums[1] += float(exact.square().sum())
            if base is not None:
                sums[2] += float((exact - base[piece].double()).square().sum())
    return sums[0], sums[1], sums[2]


def _sampled(start: int, size: int) -> Iterator[slice]:
    """The chunks of a range that are looked at for the cast's loss."""
    # from the next whole chunk on, since a matrix' ranges are rows and begin anywhere; chunk 0 is always one of those
    # that are looked at, so that the smallest bias is
    for offset in range(-start % CHUNK, size, CHUNK):
        if (start + offset) // CHUNK % LOSS_SAMPLE == 0:
            yield slice(offset, offset + CHUNK)


def refuse_overflow(tensor: TensorPlan, largest: float) -> NoReturn:
    """Say which tensor does not fit float16."""
    raise ChorusError(
        f"tensor {tensor.name}: a merged value of {largest:.4g} does not fit {tensor.dtype} (at most 65504)",
        "write out_dtype: bfloat16 or float32 in the recipe",
    )
