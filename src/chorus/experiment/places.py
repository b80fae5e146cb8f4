"""Where an experiment's models are, and what recipes and commands call them.

OUTPUT/
  models/          base (if trained here), seed-N/DOMAIN, seed-N/joint
  calibrated/      seed-N/NAME: the weights that were learnt, as recipes and adapters
  dev/ test/       evaluations: seed-N/SYSTEM; of several tasks seed-N/TASK/SYSTEM
  selection.json   what was chosen on dev, written before a test recording is opened
  recipes/         the chosen merges, as `chorus merge` takes them
  overfitting/     the evaluations of specialists at other ranks and weights
  merged/          those of them that are kept as models
  ranks/           the effective ranks of each delta to the base
  results.json     all that tables, plots and the report are drawn from
  tables/ plots/   the results
  report.html      all of it in one page
"""

from __future__ import annotations

from pathlib import Path

import yaml

from chorus.calibrate.result import RECIPE as CALIBRATED
from chorus.experiment.schema import Experiment
from chorus.search.grids import Setting
from chorus.search.recipes import Recipe, template_of

JOINT, BASE = "joint", "base"
SELECTION, RESULTS, REPORT = "selection.json", "results.json", "report.html"


def base_of(experiment: Experiment) -> str:
    """The model that specialists start from."""
    return str(experiment.output_dir / "models" / BASE) if experiment.base.train is not None else experiment.base.model


def held_out_path(experiment: Experiment, task: str) -> Path:
    """Where the test rows are written, of several tasks each by itself."""
    return experiment.output_dir / (f"test-{task}.csv" if len(experiment.tasks) > 1 else "test.csv")


def model_dir(experiment: Experiment, name: str, seed: int) -> Path:
    """Where a specialist (by its domain) or the joint model is."""
    return experiment.output_dir / "models" / f"seed-{seed}" / name


def reference_of(experiment: Experiment, name: str, seed: int) -> str:
    """A model as `chorus evaluate` and recipes name it: base, joint, or a domain's; an adapter stands on its base."""
    if name == BASE:
        return base_of(experiment)
    directory = model_dir(experiment, name, seed)
    # by what is there, not by the settings: the recipe must name what it will find
    adapter = (directory / "adapter_config.json").exists()
    return f"{base_of(experiment)}+{directory}" if adapter else str(directory)


def plain_template(experiment: Experiment, seed: int) -> Recipe:
    """What all merges of a seed's specialists have in common."""
    return template_of(base_of(experiment), [reference_of(experiment, name, seed) for name in experiment.domains])


def calibration_dir(experiment: Experiment, seed: int, name: str) -> Path:
    """Where a calibration is written."""
    return experiment.output_dir / "calibrated" / f"seed-{seed}" / name


def template(experiment: Experiment, seed: int, setting: Setting) -> Recipe:
    """The recipe that a setting is laid over: the specialists, or those with the weights that were calibrated."""
    if setting.name not in experiment.calibrate:
        return plain_template(experiment, seed)
    found: Recipe = yaml.safe_load(
        (calibration_dir(experiment, seed, setting.name) / CALIBRATED).read_text(encoding="utf-8")
    )
    return found


def recipe_path(experiment: Experiment, seed: int, name: str) -> Path:
    """Where the recipe of a chosen merge, or of a curve's point, is written."""
    return experiment.output_dir / "recipes" / f"seed-{seed}" / f"{name}.yml"
