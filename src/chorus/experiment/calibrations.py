"""The calibrated merges of an experiment: for each seed weights by part of the network, learnt on the domains' rows.

What is learnt on are the train rows of the domains, what is chosen on their dev rows: no test recording is opened.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from chorus.calibrate.run import calibrate
from chorus.calibrate.settings import Calibration
from chorus.checkpoints.sidecar import write_json
from chorus.data.choices import TASK, with_choices
from chorus.data.manifest import Row, write_manifest
from chorus.experiment.places import calibration_dir, model_dir, plain_template
from chorus.experiment.rows import learnt_rows, rows_of
from chorus.experiment.schema import Experiment, Settings
from chorus.files import read_json
from chorus.identity import file_hash, fingerprint
from chorus.search.recipes import Recipe

Note = Callable[[str], None]
OURS = ("task", "by", "language", "seed", "device", "own")  # settings of a calibration that an experiment makes itself
PARTS = ("train", "dev")


def settings_of(experiment: Experiment, given: Settings, seed: int) -> Calibration:
    """A whole calibration's settings: those of the file, and what the experiment decides."""
    decoding = experiment.decoding
    windows = {"window_s": list(decoding.window_s)} if decoding.window_s else {}
    decided = {
        "task": decoding.task, "by": "domain", "language": experiment.data.language, "seed": seed,
        "device": experiment.device,
    }  # fmt: skip
    return Calibration.model_validate({**windows, "max_new_tokens": decoding.max_new_tokens, **given, **decided})


def run_calibrations(experiment: Experiment, note: Note, ended: Callable[[str], None]) -> None:
    """Calibrate what is not calibrated yet; `ended` is called with each name."""
    if not experiment.calibrate:
        return
    manifests = [_write_rows(experiment, part) for part in PARTS]
    for seed in experiment.seeds:
        for name, given in experiment.calibrate.items():
            place, recipe = calibration_dir(experiment, seed, name), _start(experiment, seed)
            told = partial(_told, note, name)
            _run(experiment, settings_of(experiment, given, seed), place, manifests, recipe, told)
            ended(name)


def _told(note: Note, name: str, text: str) -> None:
    note(f"{name}: {text}")


def _start(experiment: Experiment, seed: int) -> Recipe:
    """The mean of the specialists, from which weights are learnt."""
    equal = {"weight": 1.0 / len(experiment.domains)}
    return {**plain_template(experiment, seed), "merge_method": "task_arithmetic", "parameters": equal,
            "out_dtype": "float32"}  # fmt: skip


def _run(
    experiment: Experiment, settings: Calibration, place: Path, manifests: list[Path], recipe: Recipe, note: Note
) -> None:
    """One calibration; a finished one of the same models, rows and settings is found again, a killed one goes on."""
    models = sorted(
        path for name in experiment.domains
        for path in model_dir(experiment, name, settings.seed).glob("*.safetensors")
    )  # fmt: skip
    key = fingerprint(
        settings=settings.model_dump(mode="json"), recipe=recipe, files=[file_hash(p) for p in (*manifests, *models)]
    )
    known = place.with_name(f"{place.name}.json")
    same = known.exists() and read_json(known).get("key") == key
    if same and (place / "recipe.yml").exists():
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    write_json(known, {"key": key})
    train, dev = manifests
    calibrate(recipe, [train], [dev], place, settings, restart=not same, overwrite=True, note=note)


def _write_rows(experiment: Experiment, part: str) -> Path:
    """The domains' rows of a part in one manifest, each with its domain, its task and its choices."""
    rows: list[Row] = []
    for name, task in experiment.chosen_tasks.items():
        mine = [
            row for domain, told in experiment.domains.items() if experiment.task_of(told) == name
            for row in rows_of(experiment, domain, told, part)
        ]  # fmt: skip
        for row in with_choices(mine, task, learnt_rows(experiment, name)):
            rows.append(replace(row, split=part, extra={**row.extra, TASK: name}))
    path = experiment.output_dir / "calibrated" / f"{part}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_manifest(rows, path)
    return path
