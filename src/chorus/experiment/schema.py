"""What an experiment is told: base, domains, training, methods with grids, tests, and how speech is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, ConfigDict, Field, field_validator, model_validator

from chorus.settings import Strict
from chorus.tasks.normalise import NormaliserName
from chorus.tasks.protocol import Task
from chorus.tasks.registry import TASKS, TaskName
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import PRESETS, Decoding, decoding

Settings = dict[str, object]


class DomainRows(Strict):
    """Rows of one domain: of the experiment's manifest or of its own; other manifests for dev and test if there are."""

    task: TaskName = ""  # else the decoding's
    manifest: str | None = None
    where: Settings = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    audio_dir: str | None = None
    language: str = ""
    dev: str | None = None
    test: str | None = None
    split: str | None = None  # of a test set: which rows; else test
    train: Settings = Field(default_factory=dict)  # of this domain's specialist, laid over the experiment's


class Division(Strict):
    """Another division into train, dev and test than the manifest's, by whole groups (see `chorus data split`)."""

    dev: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    by: str = "speaker"
    stratify: str = ""
    seed: int = 0


class Recordings(Strict):
    """Where rows come from, unless a domain says otherwise."""

    manifest: str | None = None
    synth: str | None = None  # a recipe of `chorus data synth`
    split: Division | None = None
    by: str = "domain"  # the column that domains given as a list are values of
    columns: dict[str, str] = Field(default_factory=dict)
    audio_dir: str | None = None
    language: str = ""

    @model_validator(mode="after")
    def _one(self) -> Recordings:
        if self.manifest and self.synth:
            raise ValueError("either manifest or synth")
        if self.split and not self.manifest:
            raise ValueError("split divides a manifest, and none is named")
        return self


class Base(Strict):
    """The base; with `train` it is first fine-tuned itself, on rows that are no domain's."""

    model: str
    train: Settings | None = None
    where: Settings = Field(default_factory=dict)
    manifest: list[str] | str | None = None


class SelectionRule(Strict):
    """How a setting is chosen: by the best unweighted mean of the task's metric over these cells on dev, and seeds."""

    over: Literal["in-domain", "all"] = "in-domain"


class OverfittingAxes(Strict):
    """At which ranks and merge weights each specialist is measured at home and elsewhere, beside its own rank at 1."""

    ranks: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)  # that its difference is cut to
    weights: list[float] = Field(default_factory=lambda: [0.5, 1.0, 1.5], min_length=1)
    trained: list[Annotated[int, Field(ge=1)]] = Field(default_factory=list)  # that further adapters are trained with


class Tests(Strict):
    """What is transcribed beside the domains' own test rows."""

    # the file says out-of-domain, as tables do; Python's names cannot
    model_config = ConfigDict(populate_by_name=True)

    out_of_domain: dict[str, DomainRows] = Field(default_factory=dict, alias="out-of-domain")
    other_language: dict[str, DomainRows] = Field(default_factory=dict, alias="other-language")


class Experiment(Strict):
    """A whole experiment file."""

    version: Literal[1] = 1
    name: str = "experiment"
    output: str = ""  # else experiments/<name>
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    device: str = "auto"
    parallel: int | None = Field(default=None, ge=1)
    base: Base
    data: Recordings = Field(default_factory=Recordings)
    # one domain has one specialist, and nothing to merge it with
    domains: dict[str, DomainRows] = Field(min_length=2)
    train: Settings = Field(default_factory=dict)
    joint: Settings | bool = True
    methods: dict[str, Settings] = Field(min_length=1)
    calibrate: dict[str, Settings] = Field(default_factory=dict)  # calibrated merges by name, and how they are made
    selection: SelectionRule = Field(default_factory=SelectionRule)
    curves: dict[str, dict[str, list[object]]] = Field(default_factory=dict)
    overfitting: OverfittingAxes | None = None
    tests: Tests = Field(default_factory=Tests)
    preset: str = "default"
    # under another name than the file's: `decoding` is the property, preset and settings in one
    decoding_settings: Settings = Field(default_factory=dict, alias="decoding")
    normaliser: NormaliserName = Field(default="marks", validation_alias=AliasChoices("normaliser", "normalizer"))
    conditions: list[str] = Field(default_factory=lambda: [CLEAN], min_length=1)
    keep: Literal["none", "best", "all"] = "best"

    @field_validator("preset")
    @classmethod
    def _a_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"one of {', '.join(PRESETS)}")
        return value

    @property
    def output_dir(self) -> Path:
        return Path(self.output or f"experiments/{self.name}")

    @property
    def decoding(self) -> Decoding:
        return decoding(self.preset, self.decoding_settings)

    def decoding_of(self, task: str) -> Decoding:
        """How a task's rows are decoded."""
        return self.decoding.model_copy(update={"task": task})

    def task_of(self, domain: DomainRows) -> str:
        """The name of a domain's task."""
        return domain.task or self.decoding.task

    @property
    def tasks(self) -> dict[str, Task]:
        """The tasks of all cells, by name, in the file's order."""
        every = [*self.domains.values(), *self.tests.out_of_domain.values(), *self.tests.other_language.values()]
        return {name: TASKS.get(name) for name in map(self.task_of, every)}

    @property
    def chosen_tasks(self) -> dict[str, Task]:
        """Those of them that settings are chosen on: a task of the test sets alone may stay unseen."""
        if self.selection.over == "all":
            return self.tasks
        return {name: TASKS.get(name) for name in map(self.task_of, self.domains.values())}

    @property
    def joint_settings(self) -> Settings:
        """What is laid over `train` for the joint model."""
        return self.joint if isinstance(self.joint, dict) else {}
