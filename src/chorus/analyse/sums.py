"""What is counted of one tensor, in a form that adds up over tensors: numbers of a layer are made of the same sums."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.analyse.deltas import TensorDeltas
from chorus.analyse.facts import DeltaFacts, MergeFacts, PairFacts, SpectrumFacts, SubspaceFacts, WeightGroup
from chorus.errors import UsageError
from chorus.lazy import lazy
from chorus.linalg.alignment import Signs, count_signs, inner_products, no_signs, principal_angles
from chorus.linalg.energies import (
    ENERGIES,
    SHARES,
    above_rounding,
    effective_rank,
    energy_curve,
    energy_rank,
    participation_ratio,
    stable_rank,
)
from chorus.linalg.lapack import one_blas_thread
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import Triplets, singular_triplets

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from chorus.linalg.low_rank import Delta

    Floats = NDArray[np.float64]
else:
    np, torch = lazy("numpy"), lazy("torch")

BLOCK = 1 << 20
# of one matrix, in the order of `_numbers`
NUMBERS = ("full", "rank", "effective", "stable", "participation", "effective_share", *map(str, ENERGIES))
SIDES = ("left", "right")
ANGLES = ("overlap", "chance", "smallest", "mean")


@dataclass(frozen=True)
class Wanted:
    """Which share of a difference's values counts as its largest, and which share of its energy as its subspace."""

    density: float
    energy: float
    spectra: bool
    threads: int

    def __post_init__(self) -> None:
        for name, value in (("density", self.density), ("energy", self.energy)):
            if not 0 < value <= 1:
                raise UsageError(f"the {name} must lie above 0 and be at most 1, got {value}")


@dataclass
class Sums:
    """k differences of some tensors; means are over the matrices among them that are not zero."""

    tensors: int
    values: int
    base_square: float
    gram: Floats  # [k, k] inner products
    signs: Signs
    largest: Signs
    spectral: Floats  # [k, numbers + curve]
    matrices: Floats  # [k] how many are in `spectral`
    angles: Floats  # [2 sides, k, k, 4]
    paired: Floats  # [k, k] how many are in `angles`

    def add(self, other: Sums) -> None:
        """Put another's tensors to these."""
        self.tensors += other.tensors
        self.values += other.values
        self.base_square += other.base_square
        self.signs += other.signs
        self.largest += other.largest
        for mine, others in (
            (self.gram, other.gram), (self.spectral, other.spectral), (self.matrices, other.matrices),
            (self.angles, other.angles), (self.paired, other.paired),
        ):  # fmt: skip
            mine += others

    def facts(self, name: str, labels: Sequence[str], merges: int) -> WeightGroup:
        """The numbers that these sums make; None where something is not defined."""
        k = len(labels)
        models = range(k - merges)
        return WeightGroup(
            name, self.tensors, self.values, math.sqrt(self.base_square),
            {labels[i]: self._delta(i) for i in range(k)},
            [self._pair(labels, i, j) for j in range(k) for i in range(j)],
            [self._merge(labels, m, t) for m in range(k - merges, k) for t in models],
            _ratio(self.signs.elected, self.signs.mass), _ratio(self.largest.elected, self.largest.mass),
        )  # fmt: skip

    def _delta(self, i: int) -> DeltaFacts:
        # of factors that cancel each other rounding may leave a square below zero
        norm = math.sqrt(max(float(self.gram[i, i]), 0.0))
        spectrum = None
        if self.matrices[i]:
            mean = [float(x) for x in self.spectral[i] / self.matrices[i]]
            told = dict(zip(NUMBERS, mean, strict=False))
            energies = {str(e): told.pop(str(e)) for e in ENERGIES}
            spectrum = SpectrumFacts(
                int(self.matrices[i]), **told, energies=energies,
                curve=[round(x, 6) for x in mean[len(NUMBERS) :]],
            )  # fmt: skip
        return DeltaFacts(norm, _ratio(norm, math.sqrt(self.base_square)), spectrum)

    def _pair(self, labels: Sequence[str], i: int, j: int) -> PairFacts:
        sides: list[SubspaceFacts | None] = [None, None]
        if self.paired[i, j]:
            mean = self.angles[:, i, j] / self.paired[i, j]
            sides = [SubspaceFacts(*map(float, one)) for one in mean]
        return PairFacts(
            labels[i], labels[j], self._cosine(i, j),
            _ratio(self.signs.opposite[i, j], self.signs.shared[i, j]),
            _ratio(self.largest.opposite[i, j], self.largest.shared[i, j]),
            int(self.largest.shared[i, j]), *sides,
        )  # fmt: skip

    def _merge(self, labels: Sequence[str], m: int, t: int) -> MergeFacts:
        share = None
        if self.matrices[m] and self.matrices[t]:
            effective = NUMBERS.index("effective")
            means = self.spectral[[m, t], effective] / self.matrices[[m, t]]
            share = _ratio(*means)
        return MergeFacts(labels[m], labels[t], _ratio(self.gram[m, t], self.gram[t, t]), self._cosine(m, t), share)

    def _cosine(self, i: int, j: int) -> float | None:
        cosine = _ratio(self.gram[i, j], math.sqrt(max(float(self.gram[i, i] * self.gram[j, j]), 0.0)))
        # rounding alone leads beyond
        return None if cosine is None else max(-1.0, min(1.0, cosine))


def _ratio(a: float, b: float) -> float | None:
    return float(a / b) if b else None


def empty(k: int) -> Sums:
    """The sums of no tensor."""
    return Sums(
        0, 0, 0.0, np.zeros((k, k)), no_signs(k), no_signs(k), np.zeros((k, len(NUMBERS) + len(SHARES))), np.zeros(k),
        np.zeros((len(SIDES), k, k, len(ANGLES))), np.zeros((k, k)),
    )  # fmt: skip


def sums_of(tensor: TensorDeltas, wanted: Wanted, voters: int) -> Sums:
    """Everything that is counted of one tensor; the `voters` first models elect signs."""
    deltas = tensor.deltas
    made = empty(len(deltas))
    made.tensors, made.values = 1, math.prod(tensor.origin.shape)
    made.base_square = _square(tensor)
    made.gram = inner_products(deltas)
    # a model that has left a tensor as it is has no sign there, and needs no pass over it
    changed = [i for i in range(len(deltas)) if made.gram[i, i] > 0]
    electing = sum(i < voters for i in changed)
    if changed:
        counted = count_signs([deltas[i] for i in changed], density=wanted.density, voters=electing)
        made.signs, made.largest = (_spread(one, changed, len(deltas)) for one in counted)
    if wanted.spectra and len(tensor.origin.shape) > 1 and min(_matrix(tensor.origin.shape)) > 1:
        _decompose(made, {i: deltas[i] for i in changed}, wanted)
    return made


def _square(tensor: TensorDeltas) -> float:
    """|W0|^2, a block at a time."""
    values = math.prod(tensor.origin.shape)
    starts = range(0, values, BLOCK)
    return sum(float(tensor.origin.flat(i, min(i + BLOCK, values)).double().square().sum()) for i in starts)


def _matrix(shape: Sequence[int]) -> tuple[int, int]:
    """[out, the rest]: a convolution maps from the rest."""
    return shape[0], math.prod(shape[1:])


def _spread(found: Signs, places: Sequence[int], k: int) -> Signs:
    """Counts between some models in the tables of all."""
    opposite, shared = np.zeros((k, k)), np.zeros((k, k))
    opposite[np.ix_(places, places)], shared[np.ix_(places, places)] = found.opposite, found.shared
    return Signs(opposite, shared, found.elected, found.mass)


def _decompose(made: Sums, deltas: dict[int, Delta], wanted: Wanted) -> None:
    """Spectra of each matrix, and the angles between the subspaces that hold `energy` of them."""

    def decomposed(delta: Delta) -> Triplets:
        matrix = delta.matrix() if isinstance(delta, LowRank) else delta.reshape(_matrix(delta.shape))
        with torch.inference_mode():  # which holds in the thread that asks for it alone
            return singular_triplets(matrix, lambda found: energy_rank(above_rounding(found), wanted.energy))

    # a BLAS with threads of its own inside these would fight them for the cores
    with ThreadPoolExecutor(wanted.threads) as pool, one_blas_thread():
        parts = dict(zip(deltas, pool.map(decomposed, deltas.values()), strict=True))
    # all have one shape, whichever is first
    full = min(_matrix(next(iter(deltas.values())).shape)) if deltas else 0
    for i, one in parts.items():
        assert one.spectrum is not None  # whoever chooses by all values has seen them
        made.spectral[i], made.matrices[i] = _numbers(above_rounding(one.spectrum.numpy()), full), 1
        for j, other in parts.items():
            # each pair once: the angles of j and i are the same
            if i < j:
                left, right = principal_angles(one.left, other.left), principal_angles(one.right, other.right)
                if left is not None and right is not None:
                    made.angles[:, i, j] = [[getattr(side, key) for key in ANGLES] for side in (left, right)]
                    made.paired[i, j] = 1


def _numbers(values: Floats, full: int) -> Floats:
    effective = effective_rank(values)
    # as many directions as there are only where none is rounding
    told = [full, len(values), effective, stable_rank(values), participation_ratio(values), effective / full]
    return np.array([*told, *(energy_rank(values, e) for e in ENERGIES), *energy_curve(values, full)])
