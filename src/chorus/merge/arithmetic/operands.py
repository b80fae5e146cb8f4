"""What a step works on: the models' tensors or their deltas, or what an earlier step has made of them.

Each can be had a range of values at a time, or as one matrix [m, n]; the matrices of adapters stay in factors for as
long as they are asked for so.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from chorus.checkpoints.adapted import low_rank_delta, same_tensor
from chorus.checkpoints.lazy_tensor import ChangedTensor
from chorus.identity import bytes_hash
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import Input, TensorPlan
from chorus.merge.arithmetic.treatment import matrix_shape

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


class Operands(Protocol):
    """`count` tensors of one shape."""

    count: int

    def values(self, start: int, stop: int) -> list[Tensor]:
        """Values `start` to `stop` of each, flat; not to be written to."""

    def matrix(self, index: int, *, factors: bool) -> Tensor | LowRank:
        """One of them as a matrix [m, n]; where `factors`, and it is known so, in factors."""

    def identity(self, index: int) -> str | None:
        """What one of them is, by content; None where that is not known before it is computed."""

    def auxiliary(self, name: str, start: int, stop: int) -> list[Tensor | None]:
        """What the method takes beside them, of each model: a range of values, or a tensor of another shape whole."""


class ModelOperands:
    """The models' tensors as they are stored, or where `deltas` what they differ by from the base."""

    def __init__(self, tensor: TensorPlan, reader: Reader) -> None:
        self.tensor, self.reader, self.count = tensor, reader, len(tensor.inputs)
        self._digests: dict[Input, str] = {}

    def values(self, start: int, stop: int) -> list[Tensor]:
        if not self.tensor.deltas:
            return [self.reader.values(which, start, stop) for which in self.tensor.inputs]
        assert self.tensor.base is not None
        base = self.reader.values(self.tensor.base, start, stop)
        return [self._delta(i, which, base, start, stop) for i, which in enumerate(self.tensor.inputs)]

    def _delta(self, index: int, which: Input, base: Tensor, start: int, stop: int) -> Tensor:
        """A model's difference to the base; of adapters and task vectors on this very base what they add, exactly."""
        assert self.tensor.base is not None
        stored, origin = self.reader.tensor(which), self.reader.tensor(self.tensor.base)
        if isinstance(stored, ChangedTensor) and same_tensor(stored.base, origin):
            # (W + s B A) - W would keep of s B A only what W's last place leaves of it
            exact = stored.difference(start, stop)
            if exact is not None:
                return self.reader.checked(which, exact)
        values = self.reader.values(which, start, stop)
        # a buffer an index, since all models' deltas of a block are in use at once; float64 on either side is kept
        wider = torch.promote_types(values.dtype, base.dtype)
        return torch.sub(values, base, out=self.reader.buffer(("delta", index), wider, stop - start))

    def matrix(self, index: int, *, factors: bool) -> Tensor | LowRank:
        which, base = self.tensor.inputs[index], self.tensor.base
        assert base is not None
        known = low_rank_delta(self.reader.tensor(which), self.reader.tensor(base)) if factors else None
        if known is not None:
            # in place of the product, which is never formed
            left, right = (self.reader.checked(which, x) for x in (known.left, known.right))
            return LowRank(left, right, known.shape)
        return self.reader.whole_delta(which, base, self.tensor.numel).reshape(matrix_shape(self.tensor.shape))

    def identity(self, index: int) -> str:
        which, base = self.tensor.inputs[index], self.tensor.base
        assert base is not None
        # what an adapter adds does not depend on the base, whose bytes are not read (PiSSA's factors contain it)
        factors = low_rank_delta(self.reader.tensor(which), self.reader.tensor(base))
        if factors is not None:
            return " ".join(content(x) for x in (factors.left, factors.right))
        return f"{self._digest(which)} less {self._digest(base)}"

    def _digest(self, which: Input) -> str:
        # else the base would be hashed once a model
        if which not in self._digests:
            self._digests[which] = self.reader.digest(which)
        return self._digests[which]

    def auxiliary(self, name: str, start: int, stop: int) -> list[Tensor | None]:
        wanted = self.tensor.auxiliary[name]
        return [None if which is None else self._beside(which, start, stop) for which in wanted]

    def _beside(self, which: Input, start: int, stop: int) -> Tensor:
        shape = self.reader.tensor(which).shape
        # a Gram matrix beside a weight has a shape of its own, in which the weight's ranges mean nothing
        if shape == self.tensor.shape:
            return self.reader.values(which, start, stop)
        size = torch.Size(shape)
        return self.reader.values(which, 0, size.numel()).reshape(size)


class InMemoryOperands:
    """Tensors that are there, such as a method makes for its inner method."""

    def __init__(self, tensors: Sequence[Tensor | LowRank]) -> None:
        self.tensors, self.count = tensors, len(tensors)

    def values(self, start: int, stop: int) -> list[Tensor]:
        return [_dense(t).reshape(-1)[start:stop] for t in self.tensors]

    def matrix(self, index: int, *, factors: bool) -> Tensor | LowRank:
        return self.tensors[index] if factors else _dense(self.tensors[index])

    def identity(self, index: int) -> None:
        return None

    def auxiliary(self, name: str, start: int, stop: int) -> list[Tensor | None]:
        raise ValueError(f"{name} belongs to the models' own tensors")


def _dense(x: Tensor | LowRank) -> Tensor:
    return x.dense() if isinstance(x, LowRank) else x


def content(x: Tensor) -> str:
    """Shape and XXH3-128 of a tensor in memory."""
    values = x.contiguous().cpu()
    return f"{tuple(x.shape)} {bytes_hash(values.view(torch.uint8).numpy())}"
