"""The commands that make an experiment's numbers again, one system at a time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from chorus.experiment.places import BASE, held_out_path, recipe_path, reference_of
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import curves_of, systems_of
from chorus.experiment.trainings import logs_dir
from chorus.report.html import Command
from chorus.search.selection import Chosen
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import folder_of

FLAGS = {"window_s": "--window"}


def commands_of(experiment: Experiment, chosen: Mapping[str, Chosen]) -> list[Command]:
    """A command for each system of the table, of the first seed."""
    seed = experiment.seeds[0]
    found = []
    for name in systems_of(experiment):
        evaluate = _evaluations(experiment, f"{name}={reference_of(experiment, name, seed)}")
        train = f"chorus train {shlex.quote(str(logs_dir(experiment, name, seed).with_suffix('.yaml')))}"
        found.append(Command(name, evaluate if name == BASE else [train, *evaluate]))
    for name in chosen:
        recipe = recipe_path(experiment, seed, name)
        evaluate = _evaluations(experiment, f"{name}={recipe}")
        merged = shlex.join(["chorus", "merge", str(recipe), "-o", str(Path("merged") / folder_of(name))])
        found.append(Command(name, [*evaluate, merged]))
    for curve in curves_of(experiment, chosen).values():
        for setting in curve.settings:
            name = folder_of(setting.label)
            recipe = recipe_path(experiment, seed, name)
            found.append(Command(setting.label, _evaluations(experiment, f"{name}={recipe}")))
    return found


def _evaluations(experiment: Experiment, system: str) -> list[str]:
    """An evaluation of each task."""
    return [_evaluate(experiment, system, task) for task in experiment.tasks]


def _evaluate(experiment: Experiment, system: str, task: str) -> str:
    # test.csv holds the test rows alone, whatever their own manifests call them: hence all of it
    parts = ["chorus", "evaluate", system, "--data", str(held_out_path(experiment, task)), "--split", "all"]
    plain = Decoding()
    for key, value in experiment.decoding_of(task).model_dump().items():
        # only what differs from the defaults: a command that can be read
        if value != getattr(plain, key):
            flag = FLAGS.get(key, "--" + key.replace("_", "-"))
            values = value if isinstance(value, tuple) else (value,)
            parts += [flag] if value is True else [part for one in values for part in (flag, str(one))]
    parts += ["--normaliser", experiment.normaliser]
    for condition in experiment.conditions:
        parts += ["--condition", condition] if condition != CLEAN else []
    # a folder of the experiment's own: in the usual one others' results may lie under the same names
    place = Path("evaluations") / folder_of(experiment.name)
    place = place / task if len(experiment.tasks) > 1 else place
    return shlex.join([*parts, "-o", str(place)])  # a system's name may hold spaces, brackets and commas
