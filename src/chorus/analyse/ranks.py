"""Effective ranks of task vectors: whether merging keeps the directions that the specialists learnt.

effective rank   exp(-sum p log p) with p = s / sum(s), of the singular values s (Roy & Vetterli 2007)
stable rank      |D|_F^2 / |D|_2^2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chorus.lazy import lazy
from chorus.linalg.spectra import NULL, singular_triplets

torch = lazy("torch")


@dataclass(frozen=True)
class Ranks:
    """One matrix of a task vector."""

    tensor: str
    full: int
    effective: float
    stable: float
    norm: float  # Frobenius


def ranks(base: Mapping[str, Any], tensors: Mapping[str, Any], names: Iterable[str]) -> list[Ranks]:
    """The ranks of the matrices `names` of `tensors` less `base`, both mappings from name to lazy tensor."""
    return [ranks_of(n, tensors[n].read().float() - base[n].read().float()) for n in names]


def ranks_of(name: str, delta: Any) -> Ranks:
    """The ranks of one matrix [m, n]; all zero where it is."""
    full, spectrum = min(delta.shape), spectrum_of(delta)
    if not len(spectrum):
        return Ranks(name, full, 0.0, 0.0, 0.0)
    shares, squares = spectrum / spectrum.sum(), spectrum.square().sum()
    effective = float(torch.exp(-(shares * shares.log()).sum()))
    return Ranks(name, full, effective, float(squares / spectrum[0].square()), float(squares.sqrt()))


def spectrum_of(delta: Any) -> Any:
    """The singular values above rounding, largest first, in float64."""
    found = singular_triplets(delta, lambda values: 0)
    values = (found.values if found.spectrum is None else found.spectrum).double()
    return values[values > NULL * values[0]] if len(values) and values[0] > 0 else values[:0]
