"""What is told of a training: its provenance on disk, its result in Python."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

Curve = dict[str, list[list[float]]]  # a measure's name -> [step, value]
Logged = dict[str, float]  # one entry of the Trainer's history: the step, and what was measured there


class DataFacts(TypedDict):
    """What was learnt and measured: counts, and hashes of the manifests."""

    manifests: dict[str, str]
    train_rows: int
    train_hours: float
    dev_rows: int
    left_out: dict[str, int]
    speakers: int
    language: NotRequired[dict[str, int]]
    domain: NotRequired[dict[str, int]]


class Identity(TypedDict):
    """What decides the result, and what the base is: the hub's commit, or hashes by file."""

    fingerprint: str
    base: dict[str, str]


class TrainingFacts(TypedDict):
    """`chorus.json` of a training. `best` and `curve` are of dev, as the training's metric has it."""

    chorus: str
    kind: str
    versions: dict[str, str]
    base_model: str
    base_revision: str | None
    config: dict[str, object]
    data: DataFacts
    steps: int
    best_step: int
    metric: str
    normaliser: str
    best: float | None
    trained_parameters: int
    parameters: int
    curve: Curve
    fingerprint: str
    base: dict[str, str]


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    directory: Path
    steps: int
    best_step: int
    metric: str
    best: float | None
    before: float | None
    waited_share: float = 0.0  # of the time in the loop, spent waiting for data
    merged: Path | None = None
    reused: bool = False
    left_out: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "directory": str(self.directory), "merged": str(self.merged) if self.merged else None}


class TrainedJson(TypedDict):
    """`Trained.as_dict`, as `chorus train --json` prints it."""

    directory: str
    steps: int
    best_step: int
    metric: str
    best: float | None
    before: float | None
    waited_share: float
    merged: str | None
    reused: bool
    left_out: dict[str, int]
