"""The commands that make an experiment's numbers again, one system at a time."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from chorus.experiment.places import BASE, recipe_path, reference_of
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
        evaluate = _evaluate(experiment, f"{name}={reference_of(experiment, name, seed)}")
        train = f"chorus train {shlex.quote(str(logs_dir(experiment, name, seed).with_suffix('.yaml')))}"
        found.append(Command(name, [evaluate] if name == BASE else [train, evaluate]))
    for name in chosen:
        recipe = recipe_path(experiment, seed, name)
        evaluate = _evaluate(experiment, f"{name}={recipe}")
        merged = shlex.join(["chorus", "merge", str(recipe), "-o", str(Path("merged") / folder_of(name))])
        found.append(Command(name, [evaluate, merged]))
    for curve in curves_of(experiment, chosen).values():
        for setting in curve.settings:
            name = folder_of(setting.label)
            recipe = recipe_path(experiment, seed, name)
            found.append(Command(setting.label, [_evaluate(experiment, f"{name}={recipe}")]))
    return found


def _evaluate(experiment: Experiment, system: str) -> str:
    # test.csv holds the test rows alone, whatever their own manifests call them: hence all of it
    parts = ["chorus", "evaluate", system, "--data", str(experiment.output_dir / "test.csv"), "--split", "all"]
    plain = Decoding()
    for key, value in experiment.decoding.model_dump().items():
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
    return shlex.join([*parts, "-o", str(place)])  # a system's name may hold spaces, brackets and commas
