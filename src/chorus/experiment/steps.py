"""The steps of an experiment, counted, and what they end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chorus.evaluate.results import Evaluation
from chorus.experiment.places import BASE, JOINT, REPORT
from chorus.experiment.schema import Experiment
from chorus.experiment.trainings import base_job, jobs_of
from chorus.search.grids import Setting, grid_of, varied
from chorus.search.selection import Chosen

BySeed = dict[int, list[Evaluation]]


@dataclass
class Outcome:
    """What an experiment made. `test` maps task and seed to evaluations, base first; `curves` task, method and seed."""

    directory: Path
    best: str
    chosen: dict[str, Chosen]
    test: dict[str, BySeed] = field(default_factory=dict)
    curves: dict[str, dict[str, BySeed]] = field(default_factory=dict)

    @property
    def report(self) -> Path:
        return self.directory / REPORT


@dataclass(frozen=True)
class Curve:
    """One parameter of a method varied, the others as chosen."""

    parameter: str
    settings: list[Setting]


def grids_of(experiment: Experiment) -> dict[str, list[Setting]]:
    """The settings of every method, and of each calibrated merge the one that it has."""
    grids = {name: grid_of(name, values) for name, values in experiment.methods.items()}
    return grids | {name: [Setting(name, "task_arithmetic", {})] for name in experiment.calibrate}


def curves_of(experiment: Experiment, chosen: Mapping[str, Chosen] | None = None) -> dict[str, Curve]:
    """Every curve; before the selection, from the first setting of the method's grid."""
    found = {}
    for name, values in experiment.curves.items():
        # for counting alone: how many points there are does not depend on where a curve is laid
        setting = chosen[name].setting if chosen else grid_of(name, experiment.methods[name])[0]
        # one, as the checks have made sure of
        ((parameter, points),) = values.items()
        found[name] = Curve(parameter, varied(setting, parameter, points))
    return found


def systems_of(experiment: Experiment) -> list[str]:
    """The models that are evaluated beside merges."""
    return [BASE, *experiment.domains, *([JOINT] if experiment.joint else [])]


def counts(experiment: Experiment) -> dict[str, int]:
    """How many steps of each kind."""
    seeds, own = len(experiment.seeds), len(systems_of(experiment))
    # each system is evaluated once a task
    dev, test = (seeds * len(tasks) for tasks in (experiment.chosen_tasks, experiment.tasks))
    grids = grids_of(experiment)
    grid = sum(map(len, grids.values()))
    curves = sum(len(curve.settings) for curve in curves_of(experiment).values())
    return {
        "train": len(jobs_of(experiment)) + (base_job(experiment) is not None),
        "calibrate": seeds * len(experiment.calibrate),
        "dev": dev * (own + grid),
        "test": test * (own + len(grids) + curves),
        "ranks": own - 1 + len(grids),
        "overfitting": int(experiment.overfitting is not None),
        "report": 1,
    }
