"""What an analysis of weights tells: plain numbers, None where something is not defined."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from chorus.errors import DataError
from chorus.files import read_json
from chorus.plain import JsonObject

FORMAT = 1
MOST_BYTES = 1 << 30


@dataclass(frozen=True)
class SpectrumFacts:
    """Of one matrix, or means over `matrices` of them (see linalg/energies.py).

    `energies` are the fewest directions that hold 0.9, 0.95, 0.99 of the energy; `curve` is the share of it in the
    first `SHARES` of all directions.
    """

    matrices: int
    full: float
    rank: float
    effective: float
    stable: float
    participation: float
    effective_share: float  # of the full rank
    energies: dict[str, float]
    curve: list[float]


@dataclass(frozen=True)
class DeltaFacts:
    """What one model has changed: |D|_F, |D|_F / |W0|_F, and the spectrum where there are matrices that it changed."""

    norm: float
    relative: float | None
    spectrum: SpectrumFacts | None


@dataclass(frozen=True)
class SubspaceFacts:
    """Two subspaces (see linalg/alignment.py); angles in degrees. Means over matrices."""

    overlap: float
    chance: float
    smallest: float
    mean: float


@dataclass(frozen=True)
class PairFacts:
    """Two models: cosine; the share of coordinates, of those that both have changed, with opposite signs.

    `conflict_largest` is that among the coordinates that are among the largest of both, of which there are `both`.
    `left` are the output sides of matrices, `right` the input sides.
    """

    a: str
    b: str
    cosine: float | None
    conflict: float | None
    conflict_largest: float | None
    both: int
    left: SubspaceFacts | None
    right: SubspaceFacts | None


@dataclass(frozen=True)
class MergeFacts:
    """A merge D_M and one of the models D_t: <D_M, D_t> / |D_t|^2, cosine, effective rank of D_M over that of D_t."""

    merge: str
    model: str
    projection: float | None
    cosine: float | None
    effective_ratio: float | None


@dataclass(frozen=True)
class WeightGroup:
    """A tensor, or all of a component, kind or layer. Norms and inner products are those of all values together.

    `elected` is the share of the models' mass whose sign wins its coordinate, `elected_largest` that of their largest
    values: 1 where they never contradict each other.
    """

    name: str
    tensors: int
    values: int
    base_norm: float
    deltas: dict[str, DeltaFacts]
    pairs: list[PairFacts]
    merges: list[MergeFacts]
    elected: float | None
    elected_largest: float | None


@dataclass(frozen=True)
class AnalysedTensor:
    """A tensor: where it stands, and its numbers."""

    component: str
    kind: str
    layer: str  # of which stack and number; empty outside
    shape: list[int]
    numbers: WeightGroup


@dataclass(frozen=True)
class WeightAnalysis:
    """Everything that `analyse_weights` found; `groups` are by "all", "component", "kind", "layer"."""

    base: str
    models: list[str]
    merges: list[str]
    density: float
    energy: float
    groups: dict[str, list[WeightGroup]]
    tensors: list[AnalysedTensor]
    warnings: list[str] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """Models, then merges."""
        return [*self.models, *self.merges]

    @property
    def all(self) -> WeightGroup:
        """All tensors together."""
        return self.groups["all"][0]

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "weights", **asdict(self)}


def weights_at(place: str | Path) -> WeightAnalysis:
    """What `write_analysis` wrote of weights, read again; `DataError` where there is nothing of the kind."""
    path = Path(place) / "weights.json" if Path(place).is_dir() else Path(place)
    # a line a tensor: far above what a config may be
    values = read_json(path, limit=MOST_BYTES, raises=DataError, what="analysis of weights")
    try:
        return TypeAdapter(WeightAnalysis).validate_python(
            {k: v for k, v in values.items() if k not in ("format", "kind")}
        )
    except ValueError:
        raise DataError(
            f"{path}: no analysis of weights", "chorus analyse weights MODEL... -o DIR writes one"
        ) from None
