"""What an experiment would do: steps, hours of audio to learn and to hear, models, bytes."""

from __future__ import annotations

from chorus.data.manifest import select
from chorus.errors import ChorusError
from chorus.experiment.config import Experiment, Part, train_config, training
from chorus.experiment.rows import groups_of, read_part, rows_of
from chorus.experiment.steps import counts, curves_of, settings_of, systems_of
from chorus.experiment.trainings import JOINT, base_of
from chorus.train.config import TrainConfig
from chorus.transcribe.conditions import CLEAN


def describe(made: Experiment) -> list[str]:
    """Lines for people; what is not there yet is said so."""
    steps = counts(made)
    settings = settings_of(made)
    lines = [f"{made.name}: base {base_of(made)}, {len(made.domains)} domains, seeds {', '.join(map(str, made.seeds))}"]
    lines += [f"output: {made.output_dir}", ""]
    lines.append(f"train   {steps['train']} models: " + _trainings(made))
    grid = ", ".join(f"{name} {len(points)}" for name, points in settings.items())
    lines.append(
        f"dev     {steps['dev']} systems heard ({_hours(made, 'dev')} each): {len(systems_of(made))} models and "
        f"{sum(map(len, settings.values()))} settings for each seed ({grid})"
    )
    lines.append(f"select  {len(settings)} settings, by the {made.selection.over} dev error rates -> selection.json")
    curves = sum(map(len, curves_of(made).values()))
    heard = (
        f"{len(made.conditions)} conditions: {', '.join(made.conditions)}" if made.conditions != [CLEAN] else "clean"
    )
    lines.append(
        f"test    {steps['test']} systems heard ({_hours(made, 'test')} each; {heard}): models, one setting a method"
        + (f", {curves} points of curves" if curves else "")
    )
    groups = groups_of(made)
    for group in dict.fromkeys(groups.values()):
        lines.append(f"        {group}: {', '.join(n for n, g in groups.items() if g == group)}")
    lines.append(f"report  {made.output_dir}/report.html")
    lines.append(f"write   {_disk(made)}")
    return lines


def _trainings(made: Experiment) -> str:
    told = []
    if made.base.train is not None:
        told.append("the base")
    config = _config(made, {})
    told.append(f"{len(made.domains)} specialists ({_epochs(config)}, {_learnt(made)})")
    if made.joint:
        joint = _config(made, made.joint if isinstance(made.joint, dict) else {})
        told.append(f"1 {JOINT} ({_epochs(joint)})")
    return ", ".join(told) + (f", for each of {len(made.seeds)} seeds" if len(made.seeds) > 1 else "")


def _config(made: Experiment, over: dict[str, object]) -> TrainConfig:
    return train_config(training(made, made.train, over), model={"base": made.base.model}, data={"train": "x"})


def _epochs(config: TrainConfig) -> str:
    amount = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs:g} epochs"
    batch = config.train.batch_size * config.train.accumulation
    return f"{amount}, lr {config.learning_rate:g}, batch {batch}, {config.adapter.type if config.adapter else 'full'}"


def _learnt(made: Experiment) -> str:
    """Hours of training audio, as far as the manifests are there and tell."""
    hours, missing = 0.0, []
    for name, part in made.domains.items():
        try:
            hours += _hours_of(made, part)
        except ChorusError:
            missing.append(name)
    if missing:
        return f"manifests not there yet: {', '.join(missing)}"
    return f"{hours:.2f} h in all"


def _hours_of(made: Experiment, part: Part) -> float:
    rows = select(read_part(made, part), part.where)
    return sum(r.length_s or 0.0 for r in rows if r.split in ("train", "")) / 3600


def _hours(made: Experiment, split: str) -> str:
    parts = dict(made.domains)
    if split == "test":
        parts |= {**made.tests.out_of_domain, **made.tests.other_language}
    try:
        rows = [r for name, part in parts.items() for r in rows_of(made, name, part, split)]
    except ChorusError:
        return "manifests not there yet"
    return f"{len(rows)} utterances, {sum(r.length_s or 0.0 for r in rows) / 3600:.2f} h"


def _disk(made: Experiment) -> str:
    """Bytes of the models that will be kept, where the base is a directory."""
    from pathlib import Path

    base = Path(made.base.model)
    kept = {"none": 0, "best": 1, "all": len(made.methods)}[made.keep]
    models = counts(made)["train"] + kept
    if not base.is_dir():
        return f"{models} models"
    size = sum(p.stat().st_size for p in base.glob("*.safetensors"))
    return f"{models} models, up to {2 * size * models / 1e9:.2f} GB in float32, and checkpoints while training"
