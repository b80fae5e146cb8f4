"""The fine-tunes of an experiment, for each seed: a specialist for each domain, one joint model; a base before them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock

from chorus.checkpoints.sidecar import write_json
from chorus.experiment.places import BASE, JOINT, base_of, model_dir
from chorus.experiment.rows import dev_sources, manifest_of, source_of
from chorus.experiment.schema import DomainRows, Experiment, Settings
from chorus.files import read_json
from chorus.identity import file_hash, fingerprint
from chorus.runtime import cores
from chorus.train.campaign import run_jobs
from chorus.train.config import TrainConfig
from chorus.train.jobs import Job
from chorus.train.layers import as_yaml, lay_over, load_train_config

Note = Callable[[str], None]
DONE = "trainings.json"  # what was trained from what, so that a finished training is not even looked at again


def train_config(settings: Mapping[str, object], *, base: str, **decided: object) -> TrainConfig:
    """A whole training configuration: an experiment's settings, and what the experiment decides itself."""
    own: dict[str, object] = {"model": {}, "data": {}, **settings}
    for key, value in {"model": {"base": base}, **decided}.items():
        under = own.get(key)
        if key in ("model", "data"):
            # what is no map is told by the configuration itself
            own[key] = {**under, **value} if isinstance(under, Mapping) and isinstance(value, Mapping) else under
        else:
            own[key] = value
    return load_train_config(own)


def base_job(experiment: Experiment) -> Job | None:
    """The training of the base itself."""
    told = experiment.base
    if told.train is None:
        return None
    manifests = told.manifest or manifest_of(experiment, DomainRows())
    sources = [
        {**source_of(experiment, BASE, DomainRows(where=told.where, manifest=one)), "domain": ""}
        for one in ([manifests] if isinstance(manifests, str) else manifests)
    ]
    settings = _of_task(lay_over(experiment.train, told.train), experiment.decoding.task)
    config = train_config(
        settings, base=told.model, seed=experiment.seeds[0], device=experiment.device,
        output=base_of(experiment), logs=str(experiment.output_dir / "runs" / BASE),
        data={"train": sources, "dev": [{**s, "split": "dev"} for s in sources]},
    )  # fmt: skip
    return Job(BASE, config)


def jobs_of(experiment: Experiment) -> list[Job]:
    """The specialists and the joint model of every seed."""
    jobs = []
    for seed in experiment.seeds:
        for name, domain in experiment.domains.items():
            over = _of_task(domain.train, experiment.task_of(domain)) if domain.task else domain.train
            jobs.append(_job(experiment, name, {name: domain}, seed, over))
            ranks = experiment.overfitting.trained if experiment.overfitting and seed == experiment.seeds[0] else []
            for rank in ranks:
                wide = lay_over(over, {"adapter": {"rank": rank}})
                jobs.append(_job(experiment, f"{name}@{rank}", {name: domain}, seed, wide))
        if experiment.joint:
            # the sources of domains that name a task name it too
            jobs.append(_job(experiment, JOINT, experiment.domains, seed, experiment.joint_settings))
    return jobs


def _job(
    experiment: Experiment, name: str, domains: Mapping[str, DomainRows], seed: int, over: Mapping[str, object]
) -> Job:
    settings = _of_task(lay_over(experiment.train, over), experiment.decoding.task)
    config = train_config(
        settings, base=base_of(experiment), seed=seed, device=experiment.device,
        output=str(model_dir(experiment, name, seed)), logs=str(logs_dir(experiment, name, seed)),
        data={
            "train": [source_of(experiment, n, d) for n, d in domains.items()],
            "dev": dev_sources(experiment, domains),
        },
    )  # fmt: skip
    return Job(name if len(experiment.seeds) == 1 else f"{name}, seed {seed}", config)


def _of_task(settings: Mapping[str, object], task: str) -> Settings:
    """The settings with a task, where they have none."""
    return {"task": task, **settings}


def logs_dir(experiment: Experiment, name: str, seed: int) -> Path:
    """Where a training's logs are; its configuration is the file of the same name beside it."""
    return experiment.output_dir / "runs" / f"seed-{seed}" / name


def parallel(experiment: Experiment) -> int | None:
    """Trainings at once: as asked for, else as `chorus train` decides on GPUs, else one for each two cores."""
    if experiment.parallel:
        return experiment.parallel
    import torch

    return None if torch.cuda.is_available() else max(1, cores() // 2)


def run_trainings(experiment: Experiment, jobs: Sequence[Job], note: Note, ended: Callable[[], None]) -> int:
    """Train what is not trained yet; returns how many that were. `ended` is called for each that is there."""
    place = experiment.output_dir / DONE
    known = read_json(place) if place.exists() else {}
    fingerprints = {job.config.output_dir: _fingerprint(job) for job in jobs}
    # trainings end in threads of their own, side by side
    left, lock = [], Lock()
    for job in jobs:
        output = job.config.output_dir
        # a training's directory appears whole: with a chorus.json in it, it is finished
        if known.get(output) == fingerprints[output] and (Path(output) / "chorus.json").exists():
            ended()
            continue
        if output in known:  # of other settings: this experiment's own, so that it may go
            shutil.rmtree(output, ignore_errors=True)
        left.append(job)

    def keep(job: Job) -> None:
        with lock:
            # after each, not at the end: a kill loses the trainings that are running, and no other
            known[job.config.output_dir] = fingerprints[job.config.output_dir]
            write_json(place, known)
        ended()

    if left:
        experiment.output_dir.mkdir(parents=True, exist_ok=True)
        run_jobs(left, parallel=parallel(experiment), note=note, ended=keep)
    return len(left)


def _fingerprint(job: Job) -> str:
    """What a training depends on, as far as can be seen without reading audio."""
    # hours of audio are not hashed at every start: a recording that is replaced under its name goes unnoticed
    sources = [*job.config.data.train, *(job.config.data.dev or [])]
    manifests = sorted({Path(s.manifest) for s in sources if s.manifest})
    base = Path(job.config.model.base)
    weights = sorted(base.glob("*.safetensors")) if base.is_dir() else []
    return fingerprint(config=as_yaml(job.config), files=[file_hash(p) for p in [*manifests, *weights]])
