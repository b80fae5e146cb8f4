"""A planned merge read as a checkpoint: each tensor is computed when it is asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from threading import Lock
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

    from chorus.merge.arithmetic.reader import Bytes
else:
    np, torch = lazy("numpy"), lazy("torch")


class MergedTensor:
    """A tensor of a planned merge; its bytes are those that the merge writes."""

    def __init__(self, session: Session, tensor: TensorPlan) -> None:
        self.name, self.shape, self.dtype = tensor.name, tensor.shape, tensor.dtype
        self.stored_dtype = tensor.dtype
        self.session, self.tensor = session, tensor
        self._work: Work | None = None
        self._last: tuple[int, int, Bytes] | None = None  # the range that was computed last
        self._lock = Lock()

    def _encoded(self, first: int, last: int, work: Work) -> Bytes:
        """A range's bytes; asked for again piece by piece, it is computed once."""
        if self._last is None or self._last[:2] != (first, last):
            self._last = first, last, work.encoded(first, last).data
        return self._last[2]

    def flat(self, start: int, stop: int) -> Tensor:
        """Values `start` to `stop`, in the output's type."""
        # one at a time: a reader works in buffers of its own, and two models (or layers) may share this tensor
        with self._lock, self.session.computing(decomposes=self.tensor.decomposed):
            if self._work is None:
                # not the thread's reader: a plan is read back and forth between its tensors, a reader works on one
                self._work = self.session.work(self.tensor, self.session.new_reader())
                self._work.prepare()
            size = itemsize(self.dtype)
            parts = [np.empty(0, np.uint8)]  # a range without values has a type too
            # the ranges (chunks, rows) are part of the arithmetic: cut out of them, any read gives the merge's bytes
            for first, last in self._work.ranges():
                if first < stop and last > start:
                    data = self._encoded(first, last, self._work)
                    parts.append(data[max(0, start - first) * size : (stop - first) * size])
            data = np.concatenate(parts)
            if stop >= self.tensor.numel:  # most readers go through once: buffers of every tensor would be the model
                self._work = self._last = None
        # outside of inference mode, so that what is read may be trained on
        return torch.from_numpy(data).view(torch_dtype(self.dtype))

    def release(self) -> None:
        """Drop what is kept for the next read."""
        with self._lock:
            self._work = self._last = None

    def read(self) -> Tensor:
        """The whole tensor."""
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def merged_checkpoint(session: Session, tensors: Mapping[str, TensorPlan], label: str) -> Checkpoint:
    """The merged model as a mapping whose tensors are computed as they are read."""
    return Checkpoint({name: MergedTensor(session, tensor) for name, tensor in tensors.items()}, label)
