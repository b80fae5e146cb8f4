"""What a continual merge says of itself in `chorus.json`: the models in their order, their weights, their figures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import explained
from chorus.continual.settings import Way
from chorus.errors import CheckpointError
from chorus.files import read_json
from chorus.settings import Strict, explain

KEY = "continual"
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class FigureFacts(Strict):
    """What a model reaches on a test set, in percent, with its 95 % interval. `asked`: rows, decoding and counting."""

    metric: str
    title: str
    best: Number
    value: Number | None
    low: Number | None
    high: Number | None
    utterances: int
    asked: str

    def gain_on(self, other: FigureFacts) -> float | None:
        """Points by which this is better than another figure of the same rows; None where one is not defined."""
        if self.value is None or other.value is None or self.asked != other.asked:
            return None
        # where less is better, a gain is what the other has more
        return other.value - self.value if self.best == 0 else self.value - other.value


class MarkFacts(Strict):
    """Between what recovery on a test set is counted: the base, and the model that was made for it."""

    base: FigureFacts
    own: FigureFacts | None = None
    counts: bool = False  # whether the own model's gain on the base is more than chance


class StageFacts(Strict):
    """One model that was added, and what the merge reached then."""

    model: str
    identity: str
    method: Way
    state_weight: Number
    weight: Number
    protect: float | None = None
    scale: Positive | None = None  # opcm: what the sum was divided by
    norm: NotNegative | None = None  # opcm: of what the model adds to the base, over all tensors
    dev: dict[str, dict[str, float | None]] = Field(default_factory=dict)  # weight -> dev set -> figure
    chosen: str = ""  # the weight that was the best there
    form: Literal["adapter", "model"]
    energy: float | None = None
    figures: dict[str, FigureFacts] = Field(default_factory=dict)


class BaseFacts(Strict):
    """The base, and a hash of the beginning of each of its tensors."""

    name: str
    identity: str


class ContinualFacts(Strict):
    """All of it. `earlier` models went in before the first stage, as far as they are known by the names `of`."""

    format: Literal[1] = 1
    base: BaseFacts
    earlier: int = Field(default=0, ge=0)
    of: list[str] = Field(default_factory=list)
    stages: list[StageFacts] = Field(default_factory=list)
    marks: dict[str, MarkFacts] = Field(default_factory=dict)
    asked: str = ""  # what the last stage was made from, and how
    result: str = ""  # a hash of what was written

    @model_validator(mode="after")
    def _fits(self) -> ContinualFacts:
        # each is counted, and found by its name: a model that stands there twice has a share that is lost
        if len(set(self.names)) < len(self.names):
            raise ValueError("two models of one name")
        if len(self.of) not in (0, self.earlier):
            raise ValueError(f"of names {len(self.of)} models, and earlier counts {self.earlier}")
        return self

    @property
    def count(self) -> int:
        """How many models are in it."""
        return self.earlier + len(self.stages)

    @property
    def names(self) -> list[str]:
        """The models that are known by name, in their order."""
        return [*self.of, *(stage.model for stage in self.stages)]

    def shares(self) -> dict[str, float] | None:
        """What each model counts in the merge now; those before the first stage are counted together, under "".

        None where a model was projected: then no number tells it.
        """
        if any(stage.method == "opcm" for stage in self.stages):
            return None
        # of what went in before nothing is known but their number: they are one to us
        found = {"": 1.0} if self.earlier else {}
        for stage in self.stages:
            found = {name: share * stage.state_weight for name, share in found.items()}
            found[stage.model] = stage.weight
        return found


def read_facts(told: object, where: Path) -> ContinualFacts:
    """What a file says under `continual`; `CheckpointError` where it is not of the form."""
    try:
        return ContinualFacts.model_validate(told)
    except ValidationError as error:
        # one is enough: whoever changed the file by hand finds the others, a later version has hundreds
        problem = explain(error, ContinualFacts)[0]
        raise CheckpointError(
            f"{where / PROVENANCE}: {KEY}.{problem}",
            "the file was changed, or is of a later version: take the state as it was written",
        ) from None


def write_facts(directory: Path, facts: ContinualFacts) -> None:
    """Put them into a result's `chorus.json`, whole or not at all."""
    document: Mapping[str, object] = {**read_json(directory / PROVENANCE), KEY: plain(facts)}
    # a kill while this is written must not cost the provenance of hours of merging
    draft = directory / f".{PROVENANCE}.draft"
    write_json(draft, dict(document))
    with explained(draft):
        os.replace(draft, directory / PROVENANCE)


def plain(facts: ContinualFacts) -> dict[str, object]:
    """For JSON."""
    return facts.model_dump(mode="json")
