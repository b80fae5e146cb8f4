"""Tensors with an adapter on them, and what it adds in factors: base plus delta, computed as it is read.

    LoRA    W' = W + s B A                          s = alpha / r, or alpha / sqrt(r) with rsLoRA
    AdaLoRA W' = W + s B diag(E) A                  s = alpha / the rank that training began with
    DoRA    W' = m (W + s B A) / ||W + s B A||      norm of each output row

    PiSSA, OLoRA: trained on W - s B0 A0, with factors B0, A0 that W alone determines; W' = W + s (B A - B0 A0)

Shapes: A [r, in], B [out, r]; convolutions are flattened to [out, in * k]. Computed in float32 over fixed groups
of rows, so that the values do not depend on how the tensor is cut for reading.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import singular_triplets

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

GROUP_VALUES = 1 << 20  # values computed at a time; part of the arithmetic, do not tune by machine


@dataclass
class Factors:
    """One module's factors, still unread: delta = scale * B A."""

    module: str
    scale: float = 1.0
    a: LazyTensor | None = None
    b: LazyTensor | None = None
    e: LazyTensor | None = None  # AdaLoRA: delta = scale * B diag(E) A
    magnitude: LazyTensor | None = None
    bias: LazyTensor | None = None
    transposed: bool = False  # fan_in_fan_out: the weight is stored [in, out]
    embedding: bool = False
    start: str = ""  # "pissa" or "olora"


class AdaptedTensor:
    """Base weight plus low-rank delta, in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, factors: Factors) -> None:
        self.name, self.shape, self.base, self.factors = base.name, base.shape, base, factors
        self.stored_dtype = base.dtype
        columns = math.prod(self.shape[1:])
        # there the stored rows are inputs, while DoRA's norm runs over outputs
        whole = factors.transposed or (factors.embedding and factors.magnitude is not None)
        self.group_rows = self.shape[0] if whole else max(1, GROUP_VALUES // columns)
        self._matrices: tuple[Tensor, Tensor, Tensor | None] | None = None
        self._last: tuple[int, Tensor] | None = None

    def factors_as_stored(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Left [rows, r], right [r, columns], magnitude [rows, 1] or None, for W in its stored orientation."""
        matrices = self._matrices
        if matrices is None:
            f = self.factors
            assert f.a is not None
            assert f.b is not None
            a, b = f.a.read().float().flatten(1), f.b.read().float().flatten(1)
            if f.e is not None:
                a = a * f.e.read().float().reshape(-1, 1)
            if f.start:
                weight = self.base.read().float().flatten(1)
                a0, b0 = starting_factors(f.start, weight.T if f.transposed else weight, a.shape[0], f.scale)
                # as PEFT makes a plain LoRA of such an adapter: [A; A0] and [B | -B0], of rank 2 r under the same scale
                a, b = torch.cat([a, a0]), torch.cat([b, -b0], dim=1)
            # PEFT's factors make [out, in], these two are stored as [in, out]: the product is transposed, not the
            # weight
            left, right = (a.T, b.T) if f.embedding or f.transposed else (b, a)
            # PEFT keeps a convolution's magnitude as [1, out, 1, 1], a linear map's as [out]
            magnitude = None if f.magnitude is None else f.magnitude.read().float().reshape(-1, 1)
            found = left.contiguous(), right.contiguous(), magnitude
            self._matrices = found
            return found  # not `self._matrices`: another thread may release it
        return matrices

    def difference(self, start: int, stop: int) -> Tensor | None:
        """What the adapter adds, values `start` to `stop`; None for DoRA, which changes the base's share too."""
        left, right, magnitude = self.factors_as_stored()
        if magnitude is not None:
            return None
        columns = right.shape[1]
        size = self.group_rows * columns
        parts = []
        for index in range(start // size, -(-stop // size)):  # whole groups, cut afterwards: as `flat` does
            rows = slice(index * self.group_rows, (index + 1) * self.group_rows)
            values = (self.factors.scale * (left[rows] @ right)).reshape(-1)
            parts.append(values[max(0, start - index * size) : stop - index * size])
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _group(self, index: int) -> Tensor:
        last_group = self._last
        if last_group is not None and last_group[0] == index:
            return last_group[1]
        columns = math.prod(self.shape[1:])
        first, last = index * self.group_rows, min((index + 1) * self.group_rows, self.shape[0])
        left, right, magnitude = self.factors_as_stored()
        weight = self.base.flat(first * columns, last * columns).float().reshape(last - first, columns)
        weight = weight + self.factors.scale * (left[first:last] @ right)
        if magnitude is not None:
            if self.factors.transposed or self.factors.embedding:
                weight = weight * (magnitude.reshape(1, -1) / weight.norm(dim=0, keepdim=True))
            else:
                weight = weight * (magnitude[first:last] / weight.norm(dim=1, keepdim=True))
        # ranges that are read one after the other end inside a group: its product is not made twice
        self._last = (index, weight.reshape(-1))
        return weight.reshape(-1)

    def release(self) -> None:
        """Drop what is kept for the next read."""
        self._matrices = self._last = None

    def flat(self, start: int, stop: int) -> Tensor:
        size = self.group_rows * math.prod(self.shape[1:])
        parts = []
        for index in range(start // size, (stop - 1) // size + 1 if stop > start else start // size):
            offset = index * size
            parts.append(self._group(index)[max(0, start - offset) : stop - offset])
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def starting_factors(start: str, weight: Tensor, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """A0 [r, in] and B0 [out, r] of which an initialisation takes s B0 A0 off the base's weight [out, in]; float32.

    "pissa": the first r singular triplets over s (arXiv 2404.02948); "olora": the first r columns and rows of Q R,
    as they are (arXiv 2406.01775).
    The signs that the decompositions leave open cancel in the product.
    """
    if start == "pissa":
        # PEFT gives either factor the root of S / s; only their product is needed here
        found = singular_triplets(weight, rank, whole=False)
        return found.right.T, found.left * (found.values / scale)
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def row_scaled_delta(tensor: LazyTensor, base: LazyTensor) -> tuple[Tensor, LowRank] | None:
    """The difference of two tensors as diag(t) W + L R, exactly: t [rows] and the factors; None where it is not so.

    DoRA's W' = d (W + s B A) with d = m / |W + s B A| is d - 1 times the rows of W, plus d s B A. For plain LoRA t
    is zero.
    """
    found = low_rank_delta(tensor, base)
    if found is not None:
        return torch.zeros(found.left.shape[0]), found
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return None
    left, right, magnitude = tensor.factors_as_stored()
    tensor.release()
    if magnitude is None or tensor.factors.transposed or tensor.factors.embedding:
        return None
    plain = LowRank(left * tensor.factors.scale, right, tensor.shape)
    d = magnitude.reshape(-1) / row_norms(base, plain)
    return d - 1, LowRank(plain.left * d[:, None], right, tensor.shape)


def row_norms(base: LazyTensor, factors: LowRank, scale: Tensor | None = None) -> Tensor:
    """|(1 + t) W + L R| of each row [rows], in float32, a group of rows at a time."""
    rows, columns = factors.left.shape[0], factors.right.shape[1]
    step = max(1, GROUP_VALUES // columns)
    norms = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        weight = base.flat(first * columns, last * columns).float().reshape(last - first, columns)
        if scale is not None:
            weight = weight * (1 + scale[first:last, None])
        norms.append((weight + factors.rows(first, last)).norm(dim=1))
    return torch.cat(norms)


def low_rank_delta(tensor: LazyTensor, base: LazyTensor) -> LowRank | None:
    """The difference of two tensors as factors, where the one is the other with an adapter on it; None elsewhere.

    A tensor that the adapter does not touch gives factors of rank 0. DoRA's difference is not of low rank.
    """
    if same_tensor(tensor, base):
        rows, columns = base.shape[0], math.prod(base.shape[1:])
        return LowRank(torch.zeros(rows, 0), torch.zeros(0, columns), base.shape)
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return None
    left, right, magnitude = tensor.factors_as_stored()
    tensor.release()
    return None if magnitude is not None else LowRank(left * tensor.factors.scale, right, tensor.shape)


def same_tensor(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether both are the same bytes of the same file."""
    if isinstance(a, FileTensor) and isinstance(b, FileTensor):
        # two openings of one directory
        return a.entry == b.entry and (a.file is b.file or a.file.path.resolve() == b.file.path.resolve())
    return a is b


class ShiftedTensor:
    """A bias plus the adapter's scaled bias, in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, shift: LazyTensor, scale: float) -> None:
        self.name, self.shape, self.base, self.shift, self.scale = base.name, base.shape, base, shift, scale
        self.stored_dtype = base.dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return self.base.flat(start, stop).float() + self.scale * self.shift.flat(start, stop).float()

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)
