"""Effective ranks of task vectors: whether merging keeps the directions that the specialists learnt.

effective rank   exp(-sum p log p) with p = s / sum(s), of the singular values s (Roy & Vetterli 2007)
stable rank      |D|_F^2 / |D|_2^2
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus import identity
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.sidecar import write_json
from chorus.errors import CheckpointError
from chorus.files import read_json
from chorus.lazy import lazy
from chorus.linalg.spectra import NULL, singular_triplets
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

FORMAT = 2
MAX_BYTES = 100_000_000  # of a file of ranks: a hundred a matrix


@dataclass(frozen=True)
class Ranks:
    """One matrix of a task vector."""

    tensor: str
    full: int
    effective: float
    stable: float
    norm: float  # Frobenius


def ranks(base: Mapping[str, LazyTensor], tensors: Mapping[str, LazyTensor], names: Iterable[str]) -> list[Ranks]:
    """The ranks of the matrices `names` of `tensors` less `base`."""
    return [ranks_of(n, tensors[n].read().float() - base[n].read().float()) for n in names]


def ranks_of(name: str, delta: torch.Tensor) -> Ranks:
    """The ranks of one matrix [m, n]; all zero where it is."""
    full, spectrum = min(delta.shape), spectrum_of(delta)
    if not len(spectrum):
        return Ranks(name, full, 0.0, 0.0, 0.0)
    shares, squares = spectrum / spectrum.sum(), spectrum.square().sum()
    effective = float(torch.exp(-(shares * shares.log()).sum()))
    return Ranks(name, full, effective, float(squares / spectrum[0].square()), float(squares.sqrt()))


def spectrum_of(delta: torch.Tensor) -> torch.Tensor:
    """The singular values above rounding, largest first, in float64."""
    found = singular_triplets(delta, lambda values: 0)
    values = (found.values if found.spectrum is None else found.spectrum).double()
    # what rounding leaves would count: the entropy of a thousand tiny values is large
    return values[values > NULL * values[0]] if len(values) and values[0] > 0 else values[:0]


def kept_ranks(path: Path, fingerprint: str, compute: Callable[[], Sequence[Ranks]]) -> list[Ranks]:
    """Ranks from a file where they are of the same fingerprint (of models and tensors), else computed and written."""
    with contextlib.suppress(CheckpointError, TypeError):  # not there, torn by a kill, or of another form
        found = read_json(path, limit=MAX_BYTES)
        if found == _document(fingerprint, found.get("matrices")):
            return [Ranks(**one) for one in found["matrices"]]
    made = list(compute())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, _document(fingerprint, [asdict(one) for one in made]))
    return made


def _document(fingerprint: str, matrices: object) -> JsonObject:
    """What the file holds, with a digest: a number that was changed in it is computed again, not believed."""
    digest = identity.fingerprint(matrices=matrices)
    return {"format": FORMAT, "fingerprint": fingerprint, "digest": digest, "matrices": matrices}
