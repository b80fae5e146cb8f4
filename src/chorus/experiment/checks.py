"""What is wrong with an experiment, found before anything runs: in grids, trainings, decoding, names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from chorus.analyse.overfitting import RankAndWeights
from chorus.calibrate.settings import Calibration
from chorus.errors import ChorusError, RecipeError, nearest
from chorus.experiment.calibrations import OURS as CALIBRATIONS_OURS
from chorus.experiment.places import BASE, JOINT
from chorus.experiment.schema import DomainRows, Experiment
from chorus.experiment.trainings import train_config
from chorus.search.grids import grid_problems
from chorus.settings import validated
from chorus.tasks.registry import task_or
from chorus.train.layers import lay_over
from chorus.transcribe.conditions import check_condition
from chorus.transcribe.decoding import decoding as read_decoding

OURS = ("seed", "output", "logs", "name", "version", "device")  # keys of a training that are set here
OUR_DATA = ("train", "dev", "test")  # and of its data


def problems_of(experiment: Experiment) -> list[str]:
    """Every problem, each with the key it lies at."""
    decoding = list(_of_decoding(experiment))
    return [
        *_of_methods(experiment), *_of_trainings(experiment), *_of_calibrations(experiment),
        *_of_overfitting(experiment), *decoding,
        # without a decoding there is no task
        *([] if decoding else _of_tasks(experiment)), *_of_domains(experiment),
    ]  # fmt: skip


def _of_methods(experiment: Experiment) -> Iterator[str]:
    """Unknown methods and parameters, and values out of range, in grids and curves."""
    for name, values in experiment.methods.items():
        yield from grid_problems(f"methods.{name}", name, values)
    for name, points in experiment.curves.items():
        if name not in experiment.methods:
            yield f"curves.{name}: not among the methods{nearest(name, experiment.methods)}"
        elif len(points) != 1:
            yield f"curves.{name}: one parameter with its values"
        else:
            method = experiment.methods[name].get("method", name)
            yield from grid_problems(f"curves.{name}", name, {"method": method, **points})


def _of_trainings(experiment: Experiment) -> Iterator[str]:
    """What trainings with these settings would be refused for."""
    given: list[tuple[str, Mapping[str, object]]] = [
        ("train", experiment.train), ("base.train", experiment.base.train or {}), ("joint", experiment.joint_settings),
        *((f"domains.{name}.train", domain.train) for name, domain in experiment.domains.items()),
    ]  # fmt: skip
    for where, settings in given:
        yield from (f"{where}.{key}: set by the experiment" for key in settings if key in OURS)
        data = settings.get("data")
        if isinstance(data, Mapping):
            yield from (f"{where}.data.{key}: set by the experiment" for key in data if key in OUR_DATA)
        # told above already: the rest is checked as if they were not there
        own = {k: v for k, v in settings.items() if k not in OURS}
        model = own.get("model")
        if isinstance(model, Mapping) and "base" in model:
            yield f"{where}.model.base: set by the experiment"
        try:
            # a manifest's name that is never opened: only the settings are looked at
            train_config(own, base=experiment.base.model, data={"train": "x"})
        except RecipeError as error:
            yield from (f"{where}.{problem}" for problem in error.problems)


def _of_calibrations(experiment: Experiment) -> Iterator[str]:
    """What calibrations with these settings would be refused for."""
    for name, given in experiment.calibrate.items():
        where = f"calibrate.{name}"
        yield from (f"{where}.{key}: set by the experiment" for key in given if key in CALIBRATIONS_OURS)
        own = {key: value for key, value in given.items() if key not in CALIBRATIONS_OURS}
        try:
            validated(Calibration, own, source="")
        except RecipeError as error:
            yield from (f"{where}.{problem}" for problem in error.problems)
        if name in experiment.methods:
            yield f"{where}: a method has this name"
        if not _makes_a_folder(name):
            yield f"{where}: names a folder; no / and no leading ."


def _of_overfitting(experiment: Experiment) -> Iterator[str]:
    """Ranks and weights that there are none of; ranks to train with where no adapters are trained."""
    asked = experiment.overfitting
    if asked is None:
        return
    try:
        RankAndWeights(asked.ranks, asked.weights)
    except ChorusError as error:
        yield f"overfitting: {error.message}"
    for name, domain in experiment.domains.items():
        if asked.trained and not lay_over(experiment.train, domain.train).get("adapter"):
            yield f"overfitting.trained: {name} is trained as a whole and has no rank: give train.adapter"
        for rank in asked.trained:
            if f"{name}@{rank}" in experiment.domains:
                yield f"overfitting.trained: a domain is called {name}@{rank}"


def _of_tasks(experiment: Experiment) -> Iterator[str]:
    """What is learnt as one task and measured as another."""
    asked = experiment.decoding.task
    given: list[tuple[str, Mapping[str, object], str]] = [
        ("train", experiment.train, asked), ("joint", experiment.joint_settings, asked),
        *((f"domains.{name}.train", one.train, experiment.task_of(one)) for name, one in experiment.domains.items()),
    ]  # fmt: skip
    for where, settings, task in given:
        told = settings.get("task")
        if isinstance(told, str) and told and task_or(told, told) != task:
            yield f"{where}.task: {told}, and its rows are measured as {task}: give decoding.task, or a domain's task"


def _of_decoding(experiment: Experiment) -> Iterator[str]:
    try:
        read_decoding(experiment.preset, experiment.decoding_settings)
    except ChorusError as error:
        yield error.message
    for condition in experiment.conditions:
        try:
            check_condition(condition)
        except ChorusError as error:
            yield f"conditions: {error.message}"


def _of_domains(experiment: Experiment) -> Iterator[str]:
    """Domains without rows, or whose names make no folder or stand twice."""
    shared = experiment.data.manifest or experiment.data.synth
    groups: list[tuple[str, Mapping[str, DomainRows]]] = [
        ("domains", experiment.domains), ("tests.out-of-domain", experiment.tests.out_of_domain),
        ("tests.other-language", experiment.tests.other_language),
    ]  # fmt: skip
    for group, domains in groups:
        for name, domain in domains.items():
            if not (domain.manifest or shared):
                yield f"{group}.{name}: no manifest, and data names none"
            if not _makes_a_folder(name):
                yield f"{group}.{name}: names a folder; no / and no leading ."
    taken = {BASE, JOINT, *experiment.methods, *experiment.calibrate}  # by systems of the same tables
    yield from (f"domains.{name}: is the name of a model" for name in experiment.domains if name in taken)
    names = [name for _, domains in groups for name in domains]
    # cells and folders are called by it, whichever group it is in
    yield from (f"{name}: a domain's name stands twice" for name in dict.fromkeys(names) if names.count(name) > 1)


def _makes_a_folder(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and not name.startswith(".")
