"""A planned merge read as a checkpoint: each tensor is computed when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from chorus.checkpoints.dtypes import itemsize, torch_dtype
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.lazy import lazy
from chorus.merge.arithmetic.encoded import Work
from chorus.merge.arithmetic.session import Session
from chorus.merge.arithmetic.tensor_plan import TensorPlan

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np, torch = lazy("numpy"), lazy("torch")


class MergedTensor:
    """A tensor of a planned merge; its bytes are those that the merge writes."""

    def __init__(self, session: Session, tensor: TensorPlan) -> None:
        self.name, self.shape, self.dtype = tensor.name, tensor.shape, tensor.dtype
        self.stored_dtype = tensor.dtype
        self.session, self.tensor = session, tensor
        self._work: Work | None = None

    def _prepared(self) -> Work:
        if self._work is None:
            # not the thread's reader: a plan is read back and forth between its tensors, a reader works on one
            self._work = self.session.work(self.tensor, self.session.new_reader())
            self._work.prepare()
        return self._work

    def flat(self, start: int, stop: int) -> Tensor:
        """Values `start` to `stop`, in the output's type."""
        with self.session.computing(decomposes=self.tensor.decomposed):
            size = itemsize(self.dtype)
            parts = [np.empty(0, np.uint8)]  # a range without values has a type too
            # the ranges (chunks, rows) are part of the arithmetic: cut out of them, any read gives the merge's bytes
            for first, last in self._prepared().ranges():
                if first < stop and last > start:
                    data = self._prepared().encoded(first, last).data
                    parts.append(data[max(0, start - first) * size : (stop - first) * size])
            return torch.from_numpy(np.concatenate(parts)).view(torch_dtype(self.dtype))

    def read(self) -> Tensor:
        """The whole tensor."""
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def merged_checkpoint(session: Session, tensors: Mapping[str, TensorPlan], label: str) -> Checkpoint:
    """The merged model as a mapping whose tensors are computed as they are read."""
    return Checkpoint({name: MergedTensor(session, tensor) for name, tensor in tensors.items()}, label)
