"""The fine-tunes of an experiment, for each seed: a specialist for each domain, one joint model; a base before them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

from chorus.checkpoints.model import read_json
from chorus.checkpoints.sidecar import write_json
from chorus.experiment.config import Experiment, Part, train_config, training
from chorus.experiment.rows import dev_sources, manifest_of, source_of
from chorus.identity import file_hash, fingerprint
from chorus.runtime import cores
from chorus.train.campaign import Job, run_jobs
from chorus.train.layers import as_yaml

Note = Callable[[str], None]
JOINT, BASE = "joint", "base"
DONE = "trainings.json"  # what was trained from what, so that a finished training is not even looked at again


def base_of(made: Experiment) -> str:
    """The model that specialists start from."""
    return str(made.output_dir / "models" / BASE) if made.base.train is not None else made.base.model


def model_dir(made: Experiment, name: str, seed: int) -> Path:
    """Where a specialist (by its domain) or the joint model is."""
    return made.output_dir / "models" / f"seed-{seed}" / name


def base_job(made: Experiment) -> Job | None:
    """The training of the base itself."""
    if made.base.train is None:
        return None
    manifests = made.base.manifest or manifest_of(made, Part())
    part = Part(where=made.base.where)
    sources = [
        {**source_of(made, BASE, part.model_copy(update={"manifest": one})), "domain": ""}
        for one in ([manifests] if isinstance(manifests, str) else manifests)
    ]
    settings = training(made, made.train, made.base.train)
    config = train_config(
        settings, model={"base": made.base.model}, seed=made.seeds[0], device=made.device,
        output=base_of(made), logs=str(made.output_dir / "runs" / BASE),
        data={**settings.get("data", {}), "train": sources, "dev": [{**s, "split": "dev"} for s in sources]},
    )  # fmt: skip
    return Job(BASE, config)


def jobs_of(made: Experiment) -> list[Job]:
    """The specialists and the joint model of every seed."""
    jobs = []
    for seed in made.seeds:
        for name, part in made.domains.items():
            jobs.append(_job(made, name, {name: part}, seed, part.train))
        if made.joint:
            more = made.joint if isinstance(made.joint, dict) else {}
            jobs.append(_job(made, JOINT, made.domains, seed, more))
    return jobs


def _job(made: Experiment, name: str, parts: Mapping[str, Part], seed: int, over: Mapping[str, Any]) -> Job:
    settings = training(made, made.train, over)
    config = train_config(
        settings, model={"base": base_of(made)}, seed=seed, device=made.device,
        output=str(model_dir(made, name, seed)), logs=str(made.output_dir / "runs" / f"seed-{seed}" / name),
        data={
            **settings.get("data", {}), "train": [source_of(made, n, p) for n, p in parts.items()],
            "dev": dev_sources(made, parts),
        },
    )  # fmt: skip
    return Job(name if len(made.seeds) == 1 else f"{name}, seed {seed}", config)


def parallel(made: Experiment) -> int | None:
    """Trainings at once: as asked for, else as `chorus train` decides on GPUs, else one for each two cores."""
    if made.parallel:
        return made.parallel
    import torch

    return None if torch.cuda.is_available() else max(1, cores() // 2)


def run_trainings(made: Experiment, jobs: Sequence[Job], note: Note, ended: Callable[[], None]) -> int:
    """Train what is not trained yet; returns how many that were. `ended` is called for each that is there."""
    place = made.output_dir / DONE
    known = read_json(place) if place.exists() else {}
    marks = {job.config.output_dir: _mark(job) for job in jobs}
    left, lock = [], Lock()
    for job in jobs:
        output = Path(job.config.output_dir)
        if known.get(str(output)) == marks[str(output)] and (output / "chorus.json").exists():
            ended()
            continue
        if str(output) in known:  # of other settings: this experiment's own, so that it may go
            shutil.rmtree(output, ignore_errors=True)
        left.append(job)

    def keep(job: Job) -> None:
        with lock:
            known[job.config.output_dir] = marks[job.config.output_dir]
            write_json(place, known)
        ended()

    if left:
        made.output_dir.mkdir(parents=True, exist_ok=True)
        run_jobs(left, parallel=parallel(made), note=note, ended=keep)
    return len(left)


def _mark(job: Job) -> str:
    """What a training depends on, as far as can be seen without reading audio."""
    sources = [*job.config.data.train, *(job.config.data.dev or [])]
    manifests = sorted({Path(s.manifest) for s in sources if s.manifest})
    base = Path(job.config.model.base)
    weights = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    return fingerprint(config=as_yaml(job.config), files=[file_hash(p) for p in [*manifests, *weights]])
