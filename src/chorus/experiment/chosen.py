"""What an experiment chooses by: of one task its metric, of several how much of the specialists' gains is recovered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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


def dev_rates(experiment: Experiment, found: Mapping[str, Sequence[Evaluation]]) -> dict[str, float]:
    """The number of each system and setting, of one seed, by its evaluations, one a task."""
    if len(experiment.chosen_tasks) > 1:
        singles = [one for label in systems_of(experiment) for one in found[label]]
        gains = recovery.gains_of(singles, BASE)
        return {label: gains.recovered(evaluations) for label, evaluations in found.items()}
    domains = list(groups_of(experiment)) if experiment.selection.over == "all" else list(experiment.domains)
    return {label: macro_rate(one, domains) for label, (one,) in found.items()}


def counted_cells(experiment: Experiment, found: Mapping[str, Sequence[Evaluation]]) -> list[str]:
    """The domains that the recovery of a seed is meant over; of one task none are left out."""
    if len(experiment.chosen_tasks) == 1:
        return list(experiment.domains)
    gains = recovery.gains_of([one for label in systems_of(experiment) for one in found[label]], BASE)
    return [domain for _, domain in gains.gains]


def fingerprint_of(sets: Mapping[str, TestSet]) -> str:
    """What was measured on."""
    own = {task: one.fingerprint for task, one in sets.items()}
    return next(iter(own.values())) if len(own) == 1 else fingerprint(tasks=own)
