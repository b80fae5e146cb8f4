"""The steps of an experiment, counted, and what they end in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chorus.evaluate.results import Evaluation
from chorus.experiment.config import Experiment, Setting, grid_of
from chorus.experiment.select import Chosen
from chorus.experiment.trainings import JOINT, base_job, jobs_of


@dataclass
class Outcome:
    """What an experiment made. `test` maps a seed to its evaluations, base first."""

    directory: Path
    report: Path
    best: str
    chosen: dict[str, Chosen]
    test: dict[int, list[Evaluation]] = field(default_factory=dict)
    curves: dict[str, dict[int, list[Evaluation]]] = field(default_factory=dict)


def settings_of(made: Experiment) -> dict[str, list[Setting]]:
    """The grid of every method."""
    return {name: grid_of(name, values) for name, values in made.methods.items()}


def curves_of(made: Experiment, chosen: Mapping[str, Chosen] | None = None) -> dict[str, list[Setting]]:
    """The settings of every curve: one parameter varied, the others as chosen."""
    found = {}
    for name, values in made.curves.items():
        others = chosen[name].setting.parameters if chosen else {}
        method = str(made.methods[name].get("method", name))
        base = bool(made.methods[name].get("base", False))
        (parameter, points), *_ = values.items()
        found[name] = [Setting(name, method, {**others, parameter: v}, with_base=base) for v in points]
    return found


def systems_of(made: Experiment) -> list[str]:
    """The models that are heard beside merges."""
    return ["base", *made.domains, *([JOINT] if made.joint else [])]


def counts(made: Experiment) -> dict[str, int]:
    """How many steps of each kind."""
    seeds, own = len(made.seeds), len(systems_of(made))
    grid = sum(map(len, settings_of(made).values()))
    curves = sum(map(len, curves_of(made).values()))
    return {
        "train": len(jobs_of(made)) + (base_job(made) is not None),
        "dev": seeds * (own + grid),
        "test": seeds * (own + len(made.methods) + curves),
        "report": 1,
    }
