"""What computing a plan's tensors needs beside the tensors' plans: models, device, seed, cache, threads.

Whoever computes (the engine, a search in memory, a merge into an adapter, a tensor of a plan that is read) opens one
session for its plan; another executor would open it on another machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from threading import local
from typing import TYPE_CHECKING

from chorus.cache import TensorCache
from chorus.checkpoints.model import Model
from chorus.lazy import lazy
from chorus.linalg.blocks import CHUNK
from chorus.linalg.lapack import one_blas_thread, start_solvers
from chorus.merge.arithmetic.combination import Combination, without_torch
from chorus.merge.arithmetic.computation import Computation
from chorus.merge.arithmetic.encoded import Work
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import TensorPlan

if TYPE_CHECKING:
    import torch

    from chorus.merge.arithmetic.reader import Observer
else:
    torch = lazy("torch")


@dataclass
class Session:
    """`threads` compute at once, each with a reader of its own. `block_values` is rounded to the reductions' chunk."""

    models: Sequence[Model]
    seed: int = 0
    device: str = "cpu"
    allow_nonfinite: bool = False
    block_values: int = 4 * CHUNK
    threads: int = 1
    cache: TensorCache | None = None
    _thread: local = field(default_factory=local, repr=False)  # the reader, whose buffers are one thread's

    @property
    def block(self) -> int:
        # whole chunks: a block that ended within one would cut a sum in two, and change its last digits
        return max(CHUNK, self.block_values // CHUNK * CHUNK)

    def reader(self) -> Reader:
        """The calling thread's reader, made by `new_reader` at the first call."""
        if not hasattr(self._thread, "reader"):
            self._thread.reader = self.new_reader()
        found: Reader = self._thread.reader
        return found

    def new_reader(self, observe: Observer | None = None) -> Reader:
        """A reader that nobody else has."""
        return Reader(
            self.models, device=self.device, allow_nonfinite=self.allow_nonfinite, observe=observe, cache=self.cache
        )

    def needs_torch(self, tensors: Sequence[TensorPlan]) -> bool:
        """Whether any of these cannot be made from bytes alone."""
        return not all(without_torch(t, self.models, self.device) for t in tensors)

    def work(self, tensor: TensorPlan, reader: Reader | None = None) -> Work:
        """The way to compute a tensor: from bytes, without torch, where that is possible."""
        if without_torch(tensor, self.models, self.device):
            return Combination(tensor, reader or self.reader(), seed=self.seed, block=self.block)
        return self.computation(tensor, reader)

    def computation(self, tensor: TensorPlan, reader: Reader | None = None) -> Computation:
        """The way to compute a tensor in torch."""
        return Computation(tensor, reader or self.reader(), seed=self.seed, block=self.block)

    @contextmanager
    def computing(self, *, decomposes: bool = True) -> Iterator[None]:
        """torch's own threads off: tensors are computed side by side, and sums must not depend on how many.

        `decomposes` keeps BLAS and LAPACK to one thread too. `in_thread` says the same to each further thread.
        """
        # put back at the end: who merges from Python goes on with the threads of before
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        if decomposes:
            start_solvers(self.device)  # before there are threads, which must not come to it together
        try:
            # the limit imports scipy and looks through the loaded libraries: only where something is decomposed
            with torch.inference_mode(), one_blas_thread() if decomposes else nullcontext():
                yield
        finally:
            torch.set_num_threads(before)

    @contextmanager
    def in_thread(self) -> Iterator[None]:
        """What holds in one thread of several: these settings are a thread's own."""
        with torch.inference_mode():
            torch.set_num_threads(1)
            yield
