"""The commands that make an experiment's numbers again, one system at a time."""

from __future__ import annotations

import shlex
from pathlib import Path

from chorus.experiment.config import Experiment
from chorus.experiment.steps import Outcome, curves_of
from chorus.experiment.sweep import reference
from chorus.experiment.trainings import JOINT, base_of
from chorus.report.html import Command
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import folder_of

FLAGS = {"window_s": "--window"}


def commands_of(made: Experiment, outcome: Outcome) -> list[Command]:
    """A command for each system of the table, of the first seed."""
    seed = made.seeds[0]
    found = [Command("base", [_evaluate(made, f"base={base_of(made)}")])]
    for name in [*made.domains, *([JOINT] if made.joint else [])]:
        logs = made.output_dir / "runs" / f"seed-{seed}" / f"{name}.yaml"
        found.append(
            Command(
                name,
                [f"chorus train {shlex.quote(str(logs))}", _evaluate(made, f"{name}={reference(made, name, seed)}")],
            )
        )
    for name in outcome.chosen:
        recipe = made.output_dir / "recipes" / f"seed-{seed}" / f"{name}.yml"
        found.append(
            Command(name, [_evaluate(made, f"{name}={recipe}"), f"chorus merge {shlex.quote(str(recipe))} -o merged"])
        )
    for points in curves_of(made, outcome.chosen).values():
        for setting in points:
            recipe = made.output_dir / "recipes" / f"seed-{seed}" / f"{folder_of(setting.label)}.yml"
            found.append(Command(setting.label, [_evaluate(made, f"{folder_of(setting.label)}={recipe}")]))
    return found


def _evaluate(made: Experiment, system: str) -> str:
    parts = ["chorus", "evaluate", system, "--data", str(made.output_dir / "test.csv"), "--split", "all"]
    plain = Decoding()
    for key, value in made.heard_by.model_dump().items():
        if value != getattr(plain, key):
            flag = FLAGS.get(key, "--" + key.replace("_", "-"))
            values = value if isinstance(value, tuple) else (value,)
            parts += [flag] if value is True else [part for one in values for part in (flag, str(one))]
    parts += ["--normaliser", made.normaliser]
    for condition in made.conditions:
        parts += ["--condition", condition] if condition != CLEAN else []
    return shlex.join([*parts, "-o", str(Path("evaluations"))])
