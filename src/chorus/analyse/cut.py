"""A model between its base and beyond itself: its difference cut to a rank, scaled, or summed with others'.

    W = W_0 + sum_i a_i [D_i]_r        [D]_r: the best approximation of rank r (Eckart and Young)

Factors of adapters stay factors; what is no matrix (norms, biases) has no rank, and is kept whole at any.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.extract.pair import Counterparts, Pair, Selection, difference
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank
from chorus.linalg.low_rank import norm as low_rank_norm
from chorus.linalg.spectra import singular_triplets
from chorus.progress import Progress

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


@dataclass(frozen=True)
class Factored:
    """A matrix's first directions, largest first, and how much of |D|^2 all of them hold up to each."""

    directions: LowRank
    squares: list[float]  # of the singular values
    whole: float  # |D|^2
    rank: int  # of the whole matrix, or more


class MovedTensor:
    """The base's tensor and what is added to it, computed when it is read; float32."""

    dtype = "float32"

    def __init__(self, job: Counterparts, added: Sequence[tuple[float, LowRank | Counterparts]], label: str) -> None:
        self.name, self.shape, self.stored_dtype = job.name, job.shape, job.origin.dtype
        self.job, self.added, self.label = job, added, label

    def read(self) -> Tensor:
        # a copy: what is read of a file is the file's own memory
        found = self.job.origin.read().float().clone()
        for weight, one in self.added:
            delta = one if isinstance(one, LowRank) else difference(one, self.label)
            if isinstance(delta, LowRank):
                delta = delta.dense()
            found.add_(delta.reshape(self.shape), alpha=weight)
        return found

    def flat(self, start: int, stop: int) -> Tensor:
        return self.read().reshape(-1)[start:stop]


class Cut:
    """One model's differences to its base, of which matrices are decomposed once, to `most` directions."""

    def __init__(self, pair: Pair, label: str, most: int | None, progress: Progress = lambda done, total: None) -> None:
        """`most` None: no rank is asked for, and nothing is decomposed."""
        self.pair, self.label, self.most = pair, label, most
        self.jobs = {job.name: job for job in pair.tensors(Selection())}
        self.factored: dict[str, Factored] = {}
        for done, job in enumerate(self.jobs.values(), 1):
            if most is not None and len(job.shape) > 1 and min(job.shape[0], math.prod(job.shape[1:])) > 1:
                self.factored[job.name] = _factored(job, label, most)
            progress(done, len(self.jobs))

    def tensors(self, rank: int | None, weight: float) -> Mapping[str, LazyTensor]:
        """The model's tensors at a rank (None: whole) and a weight; at 1 and whole its own."""
        # what no training changes (positions that are computed) stays as the model has it
        own: dict[str, LazyTensor] = dict(self.pair.model.checkpoint)
        if rank is None and weight == 1:
            return own
        for name, job in self.jobs.items():
            cut = self.factored.get(name) if rank is not None else None
            if cut is not None and rank is not None:
                own[name] = MovedTensor(job, [(weight, first(cut.directions, rank))], self.label)
            else:
                own[name] = MovedTensor(job, [(weight, job)], self.label)
        return own

    def energy(self, rank: int | None) -> float:
        """How much of the squared norm of all matrices a rank keeps; 1 where there is nothing to keep."""
        whole = sum(one.whole for one in self.factored.values())
        if rank is None or not whole:
            return 1.0
        # float32 vectors may hold a little more than there is
        return min(1.0, sum(sum(one.squares[:rank]) for one in self.factored.values()) / whole)

    def whole_at(self, rank: int) -> bool:
        """Whether a rank cuts nothing off."""
        return all(rank >= one.rank for one in self.factored.values())


def first(d: LowRank, rank: int) -> LowRank:
    """The first columns and rows."""
    return LowRank(d.left[:, :rank], d.right[:rank], d.shape)


def _factored(job: Counterparts, label: str, most: int) -> Factored:
    delta = difference(job, label)
    if isinstance(delta, LowRank):
        matrix: LowRank | Tensor = delta.matrix()
        whole = low_rank_norm(delta) ** 2
    else:
        matrix = delta.reshape(job.shape[0], -1)
        whole = float(matrix.double().square().sum())
    # once for the largest rank: the first r triplets of it are the best approximation of rank r
    found = singular_triplets(matrix, most)
    root = found.values.sqrt()  # half of each value to either side, so that neither leaves the range of a small type
    directions = LowRank(found.left * root, (found.right * root).T.contiguous(), job.shape)
    squares = found.values.double().square().tolist()
    # fewer than were asked for are all that there are
    full = len(squares) if len(squares) < most else matrix.rank if isinstance(matrix, LowRank) else min(matrix.shape)
    return Factored(directions, squares, whole, full)
