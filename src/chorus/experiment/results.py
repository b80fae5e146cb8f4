"""results.json: everything that tables, plots and the report are drawn from, computed once, read again as it was."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, PlainSerializer, ValidationError

from chorus.analyse.interference import analyse_interference
from chorus.analyse.interference_facts import Interference, interference_from
from chorus.analyse.overfitting import OverfittingAnalysis, overfitting_from
from chorus.analyse.ranks import Ranks
from chorus.checkpoints.sidecar import write_json
from chorus.errors import DataError, MisfitError
from chorus.evaluate.bootstrap import Interval
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import Comparison, Group, comparison_from
from chorus.evaluate.results import Evaluation
from chorus.evaluate.tables import plain
from chorus.experiment.chosen import criterion_of
from chorus.experiment.commands import commands_of
from chorus.experiment.places import BASE, JOINT, RESULTS
from chorus.experiment.pooled import pooled
from chorus.experiment.rows import groups_of
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import BySeed, Outcome, curves_of, grids_of
from chorus.files import present, read_json
from chorus.identity import fingerprint
from chorus.report.html import Command
from chorus.transcribe.decoding import Decoding

DIGEST = "digest"
MAX_BYTES = 500_000_000  # ranks of every matrix of every system
AGAIN = "run the experiment again: what is finished is found, and only the report is made"

Rate = Annotated[  # JSON has no NaN: a rate of nothing is null there
    float,
    BeforeValidator(lambda value: math.nan if value is None else value),
    PlainSerializer(lambda value: value if math.isfinite(value) else None, return_type=float | None),
]


class _Plain(BaseModel):
    # an older or newer file is refused, not read in part
    model_config = ConfigDict(extra="forbid")


class Estimate(_Plain):
    """A rate in percent and its 95 % interval."""

    value: Rate
    low: Rate
    high: Rate


class OverSeeds(_Plain):
    """An average of each seed, their mean, and their standard deviation where there are several."""

    each: dict[int, Rate]
    mean: Rate
    deviation: Rate | None


class ChosenSetting(_Plain):
    """What was taken of a method, out of how many settings."""

    name: str
    label: str
    parameters: dict[str, object]
    of: int
    dev: Rate


class CurvePoint(_Plain):
    """A setting and its averages by group."""

    label: str
    value: object
    averages: dict[str, Estimate]


class CurveResult(_Plain):
    """A method over one of its parameters."""

    parameter: str
    points: list[CurvePoint]


class RankResult(_Plain):
    """The ranks of a delta to the base, matrix by matrix, and their medians; `share` is of the full rank."""

    role: str
    matrices: list[Ranks]
    share: float
    effective: float
    stable: float
    norm: float


class TaskResult(_Plain):
    """What was measured of a task."""

    metric: str  # as tables call it
    comparison: dict[str, object]  # as `chorus compare --format json` prints it
    by_seed: dict[str, dict[str, OverSeeds]]  # of each system, by group
    by_condition: dict[str, dict[str, Estimate]]  # of each condition, by system: in-domain averages
    curves: dict[str, CurveResult]

    @property
    def compared(self) -> Comparison:
        return comparison_from(self.comparison)


class Results(_Plain):
    """A finished experiment."""

    version: Literal[2] = 2
    name: str
    best: str
    chosen_by: str  # what settings were chosen by, as tables call it
    seeds: list[int]
    conditions: list[str]
    tasks: dict[str, TaskResult]
    overfitting: dict[str, object] | None  # as `chorus analyse overfitting --json` prints it
    interference: dict[str, object]  # as `chorus analyse interference --json` prints it; recovery is in it
    selection: list[ChosenSetting]
    effective_ranks: dict[str, RankResult]
    commands: list[Command]
    facts: dict[str, str]  # how it was made
    source: str  # the experiment's file, in YAML

    @property
    def grids(self) -> OverfittingAnalysis | None:
        return None if self.overfitting is None else overfitting_from(self.overfitting)

    @property
    def gains(self) -> Interference:
        return interference_from(self.interference)


def write_results(results: Results, directory: Path) -> None:
    """Write results.json, with a digest of the rest of it."""
    document = results.model_dump(mode="json")
    write_json(directory / RESULTS, {**document, DIGEST: fingerprint(results=document)})


def read_results(directory: Path) -> Results:
    """Read results.json; `DataError` where there is none, one of another version, or one that was changed since."""
    path = directory / RESULTS
    if not present(path):
        raise MisfitError(f"{path}: not there", "run the experiment to its end first: without --report")
    document = read_json(path, limit=MAX_BYTES, raises=DataError, what="experiment's results")
    digest = document.pop(DIGEST, None)
    try:
        found = Results.model_validate(document)
    except ValidationError as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path}: not what this version writes ({reason})", AGAIN) from None
    # a number that was changed would stand in tables and plots like any other
    if digest != fingerprint(results=document):
        raise DataError(f"{path}: changed since it was written", AGAIN)
    return found


def collect(
    experiment: Experiment, outcome: Outcome, ranks: Mapping[str, Sequence[Ranks]],
    overfitting: OverfittingAnalysis | None = None,
) -> Results:  # fmt: skip
    """Everything that a finished run found."""
    every = {task: pooled(test) for task, test in outcome.test.items()}
    return Results(
        name=experiment.name,
        best=outcome.best,
        chosen_by=criterion_of(experiment).title,
        seeds=experiment.seeds,
        conditions=experiment.conditions,
        tasks={task: _task_result(experiment, outcome, task, found) for task, found in every.items()},
        interference=analyse_interference(
            [one for found in every.values() for one in found], condition=experiment.conditions[0], base=BASE
        ).as_dict(),
        overfitting=overfitting.as_dict() if overfitting else None,
        selection=_selection(experiment, outcome),
        effective_ranks={label: _rank_result(experiment, label, found) for label, found in ranks.items()},
        commands=commands_of(experiment, outcome.chosen),
        facts=_facts(experiment, every),
        source=yaml.safe_dump(
            # as a person would write it: the file's own keys, and nothing that is a default
            experiment.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=False
        ),
    )  # fmt: skip


def _task_result(experiment: Experiment, outcome: Outcome, task: str, every: Sequence[Evaluation]) -> TaskResult:
    groups = groups_of(experiment, task)
    return TaskResult(
        metric=every[0].task.metrics[0].title,
        comparison=plain(_compared(experiment, every, groups, experiment.conditions[0], tests=True)),
        by_seed=_by_seed(experiment, outcome.test[task], groups),
        by_condition=_by_condition(experiment, every, groups),
        curves=_curves(experiment, outcome, task, groups),
    )


def _compared(
    experiment: Experiment, every: Sequence[Evaluation], groups: Mapping[str, Group], condition: str, *, tests: bool
) -> Comparison:
    return compare(
        every, condition=condition, base=BASE, joint=JOINT if experiment.joint else None,
        specialists={name: name if name in groups else "" for name in experiment.domains}, groups=groups, tests=tests,
    )  # fmt: skip


def _by_seed(experiment: Experiment, test: BySeed, groups: Mapping[str, Group]) -> dict[str, dict[str, OverSeeds]]:
    """How far seeds move each system's averages."""
    condition = experiment.conditions[0]
    compared = {seed: _compared(experiment, one, groups, condition, tests=False) for seed, one in test.items()}
    # every seed has the same systems in the same order, by role
    first = next(iter(compared.values()))
    return {
        line.label: {
            group: _over_seeds({seed: one.lines[i].averages[group] for seed, one in compared.items()})
            for group in first.groups
        }
        for i, line in enumerate(first.lines)
    }


def _over_seeds(each: dict[int, float]) -> OverSeeds:
    values = list(each.values())
    # of a sample: the seeds stand for all that could have been drawn
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return OverSeeds(each=each, mean=float(np.mean(values)), deviation=deviation)


def _by_condition(
    experiment: Experiment, every: Sequence[Evaluation], groups: Mapping[str, Group]
) -> dict[str, dict[str, Estimate]]:
    found = {}
    for condition in experiment.conditions:
        compared = _compared(experiment, every, groups, condition, tests=False)
        group = compared.groups[0]  # of a task of test sets alone there is no in-domain
        found[condition] = {
            line.label: _estimate(line.averages[group], line.average_intervals[group]) for line in compared.lines
        }
    return found


def _estimate(value: float, interval: Interval) -> Estimate:
    return Estimate(value=value, low=interval.low, high=interval.high)


def _selection(experiment: Experiment, outcome: Outcome) -> list[ChosenSetting]:
    sizes = {name: len(settings) for name, settings in grids_of(experiment).items()}
    return [
        ChosenSetting(name=name, label=one.setting.label, of=sizes[name], dev=one.dev,
                      parameters=dict(experiment.calibrate.get(name, one.setting.parameters)))
        for name, one in outcome.chosen.items()
    ]  # fmt: skip


def _curves(experiment: Experiment, outcome: Outcome, task: str, groups: Mapping[str, Group]) -> dict[str, CurveResult]:
    """The averages at every point of every curve, and their intervals."""
    found = {}
    for name, told in curves_of(experiment, outcome.chosen).items():
        # without roles: a curve is told by its averages, and is not tested against anything
        every = pooled(outcome.curves[task][name])
        lines = {line.label: line for line in compare(
            every, condition=experiment.conditions[0], groups=groups, tests=False
        ).lines}  # fmt: skip
        points = []
        for setting in told.settings:
            line = lines[setting.label]
            averages = {g: _estimate(v, line.average_intervals[g]) for g, v in line.averages.items()}
            value = setting.parameters[told.parameter]
            points.append(CurvePoint(label=setting.label, value=value, averages=averages))
        found[name] = CurveResult(parameter=told.parameter, points=points)
    return found


def _rank_result(experiment: Experiment, label: str, found: Sequence[Ranks]) -> RankResult:
    role = "joint" if label == JOINT else "specialist" if label in experiment.domains else "merge"
    median = {key: float(np.median([getattr(r, key) for r in found])) for key in ("effective", "stable", "norm")}
    share = float(np.median([r.effective / r.full for r in found]))
    return RankResult(role=role, matrices=list(found), share=share, **median)


def _facts(experiment: Experiment, every: Mapping[str, Sequence[Evaluation]]) -> dict[str, str]:
    firsts = {task: found[0] for task, found in every.items()}
    first = next(iter(firsts.values()))
    told = first.summary
    # in one order, whether the evaluation was just made or read again
    settings = [(k, told["decoding"].get(k)) for k in Decoding.model_fields if k != "task" or len(firsts) == 1]
    decoding = ", ".join(f"{k} {v}" for k, v in settings if v not in ("", None))
    sizes = [
        (f"{task}: " if len(firsts) > 1 else "")
        + f"{len({row.utterance for row in one.scored})} utterances, {one.summary['test']['hours']:.2f} h"
        for task, one in firsts.items()
    ]
    return {
        "test": "; ".join(sizes),
        "normaliser": experiment.normaliser,
        "decoding": f"{told['backend']}, {decoding}",
        "seeds": ", ".join(map(str, experiment.seeds)),
        "selection": "selection.json: decided on dev before a test recording was opened",
        "versions": ", ".join(f"{k} {v}" for k, v in told["versions"].items()),
    }
