"""What an experiment chooses by: of one task its metric, of several how much of the specialists' gains is recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus.evaluate.results import Evaluation
from chorus.experiment.places import BASE
from chorus.experiment.rows import groups_of
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import systems_of
from chorus.identity import fingerprint
from chorus.search import recovery
from chorus.search.selection import Criterion, by_metric, macro_rate
from chorus.transcribe.test_sets import TestSet


def criterion_of(experiment: Experiment) -> Criterion:
    """What its settings are chosen by."""
    first, *others = experiment.chosen_tasks.values()
    if others:
        return Criterion(recovery.NAME, recovery.TITLE, None, recovery.RULE)
    return by_metric(first.metrics[0])


@dataclass(frozen=True)
class DevRates:
    """The number of each system and setting of a seed, and the domains that it is meant over."""

    rates: dict[str, float]
    counted: list[str]


def dev_rates(experiment: Experiment, found: Mapping[str, Sequence[Evaluation]]) -> DevRates:
    """By the evaluations of each system and setting, one a task."""
    if len(experiment.chosen_tasks) > 1:
        gains = recovery.gains_of([one for label in systems_of(experiment) for one in found[label]], BASE)
        # a domain's name stands once, whatever its task
        return DevRates({label: gains.recovered(own) for label, own in found.items()}, [d for _, d in gains.gains])
    domains = list(groups_of(experiment)) if experiment.selection.over == "all" else list(experiment.domains)
    return DevRates({label: macro_rate(one, domains) for label, (one,) in found.items()}, domains)


def fingerprint_of(sets: Mapping[str, TestSet]) -> str:
    """What was measured on."""
    own = {task: one.fingerprint for task, one in sets.items()}
    return next(iter(own.values())) if len(own) == 1 else fingerprint(tasks=own)
