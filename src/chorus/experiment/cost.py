"""What an experiment would do: steps, hours of audio to learn and to transcribe, models, bytes."""

from __future__ import annotations

from pathlib import Path

from chorus.data.manifest import select
from chorus.errors import ChorusError
from chorus.experiment.chosen import criterion_of
from chorus.experiment.places import JOINT, REPORT, SELECTION, base_of
from chorus.experiment.rows import groups_of, read_rows, rows_of
from chorus.experiment.schema import DomainRows, Experiment
from chorus.experiment.steps import counts, curves_of, grids_of, systems_of
from chorus.experiment.trainings import train_config
from chorus.train.config import TrainConfig
from chorus.train.layers import lay_over
from chorus.transcribe.conditions import CLEAN


def describe(experiment: Experiment) -> list[str]:
    """Lines for people; what is not there yet is said so."""
    seeds = ", ".join(map(str, experiment.seeds))
    return [
        f"{experiment.name}: base {base_of(experiment)}, {len(experiment.domains)} domains, seeds {seeds}",
        f"output: {experiment.output_dir}",
        "",
        *_choosing(experiment),
        *_testing(experiment),
        f"report  {experiment.output_dir / REPORT}",
        f"write   {_disk(experiment)}",
    ]


def _choosing(experiment: Experiment) -> list[str]:
    """Trainings, what is transcribed on dev, and the selection."""
    metric = criterion_of(experiment).title
    steps, models, grids = counts(experiment), len(systems_of(experiment)), grids_of(experiment)
    calibrated = ", ".join(experiment.calibrate)
    told = ", ".join(f"{name} {len(settings)}" for name, settings in grids.items())
    return [
        f"train   {steps['train']} models: {_trainings(experiment)}",
        *([f"learn   {steps['calibrate']} calibrations: {calibrated}"] if calibrated else []),
        f"dev     {steps['dev']} evaluations ({_hours(experiment, 'dev')} each): {models} models and "
        f"{sum(map(len, grids.values()))} settings for each seed ({told})",
        f"select  {len(grids)} settings, by the {experiment.selection.over} dev {metric} -> {SELECTION}",
    ]


def _testing(experiment: Experiment) -> list[str]:
    """What is transcribed on test, and the cells of each group."""
    conditions = experiment.conditions
    under = f"{len(conditions)} conditions: {', '.join(conditions)}" if conditions != [CLEAN] else CLEAN
    points = sum(len(curve.settings) for curve in curves_of(experiment).values())
    line = (
        f"test    {counts(experiment)['test']} evaluations ({_hours(experiment, 'test')} each; {under}): models, "
        "one setting a method" + (f", {points} points of curves" if points else "")
    )
    groups, tasks = groups_of(experiment), experiment.tasks
    by_task = {name: task for task in tasks for name in groups_of(experiment, task)} if len(tasks) > 1 else {}
    return [line, *(
        f"        {group}: "
        + ", ".join(n + (f" ({by_task[n]})" if by_task.get(n, n) != n else "") for n, g in groups.items() if g == group)
        for group in dict.fromkeys(groups.values())
    )]  # fmt: skip


def _trainings(experiment: Experiment) -> str:
    told = []
    if experiment.base.train is not None:
        told.append("the base")
    config = _config(experiment, {})
    told.append(f"{len(experiment.domains)} specialists ({_epochs(config)}, {_learnt(experiment)})")
    if experiment.joint:
        joint = _config(experiment, experiment.joint_settings)
        told.append(f"1 {JOINT} ({_epochs(joint)})")
    return ", ".join(told) + (f", for each of {len(experiment.seeds)} seeds" if len(experiment.seeds) > 1 else "")


def _config(experiment: Experiment, over: dict[str, object]) -> TrainConfig:
    return train_config(lay_over(experiment.train, over), base=experiment.base.model, data={"train": "x"})


def _epochs(config: TrainConfig) -> str:
    amount = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs:g} epochs"
    batch = config.train.batch_size * config.train.accumulation
    return f"{amount}, lr {config.learning_rate:g}, batch {batch}, {config.adapter.type if config.adapter else 'full'}"


def _learnt(experiment: Experiment) -> str:
    """Hours of training audio, as far as the manifests are there and tell."""
    hours, missing = 0.0, []
    for name, domain in experiment.domains.items():
        try:
            hours += _hours_of(experiment, domain)
        # synthetic speech is spoken by the run itself: a plan before it cannot know its length
        except ChorusError:
            missing.append(name)
    if missing:
        return f"manifests not there yet: {', '.join(missing)}"
    return f"{hours:.2f} h in all"


def _hours_of(experiment: Experiment, domain: DomainRows) -> float:
    rows = select(read_rows(experiment, domain), domain.where)
    return sum(r.length_s or 0.0 for r in rows if r.split in ("train", "")) / 3600


def _hours(experiment: Experiment, split: str) -> str:
    domains = dict(experiment.domains)
    if split == "test":
        domains |= {**experiment.tests.out_of_domain, **experiment.tests.other_language}
    try:
        rows = [r for name, domain in domains.items() for r in rows_of(experiment, name, domain, split)]
    except ChorusError:
        return "manifests not there yet"
    return f"{len(rows)} utterances, {sum(r.length_s or 0.0 for r in rows) / 3600:.2f} h"


def _disk(experiment: Experiment) -> str:
    """Bytes of the models that will be kept, where the base is a directory."""
    base = Path(experiment.base.model)
    kept = {"none": 0, "best": 1, "all": len(grids_of(experiment))}[experiment.keep]
    # merges are transcribed from memory: of all settings only what `keep` names is written
    models = counts(experiment)["train"] + kept
    if not base.is_dir():
        return f"{models} models"
    size = sum(p.stat().st_size for p in base.glob("*.safetensors"))
    # twice: a base in 16 bits becomes float32; up to, since an adapter is far smaller
    return f"{models} models, up to {2 * size * models / 1e9:.2f} GB in float32, and checkpoints while training"
