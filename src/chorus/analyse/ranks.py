"""Effective ranks of task vectors: whether merging keeps the directions that the specialists learnt."""

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
from chorus.linalg.energies import above_rounding, effective_rank, stable_rank
from chorus.linalg.spectra import singular_triplets
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch

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
    found = singular_triplets(delta, lambda values: 0)
    values = above_rounding((found.values if found.spectrum is None else found.spectrum).double().numpy())
    norm = float((values**2).sum() ** 0.5)
    return Ranks(name, min(delta.shape), effective_rank(values), stable_rank(values), norm)


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
