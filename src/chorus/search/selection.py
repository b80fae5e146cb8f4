"""Which setting of each method is taken: decided by the task's metric on dev, and told as a document."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from chorus._version import __version__
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import why_all_failed
from chorus.evaluate.scores import by_column, known, value_of
from chorus.search.grids import Setting
from chorus.tasks.protocol import Metric

RULE = "the best unweighted mean over domains of the metric on dev, averaged over seeds; of equals the first"

Grids = Mapping[str, Sequence[Setting]]  # the settings of each method
Rates = Mapping[tuple[str, int], float]  # (label, seed) -> the metric on dev


@dataclass(frozen=True)
class Chosen:
    """A method's setting and what it reaches on dev."""

    setting: Setting
    dev: float


class ChosenFacts(TypedDict):
    label: str
    method: str
    parameters: Mapping[str, object]
    dev: float | None


class SettingFacts(TypedDict):
    parameters: Mapping[str, object]
    dev: dict[str, float | None]  # by seed; null where it is not defined


class SelectionFacts(TypedDict):
    """The document: the rule, what every setting reaches on dev, what was taken, and which method is the best."""

    chorus: str
    rule: str
    metric: str
    over: str
    normaliser: str
    dev_set: str  # its fingerprint
    best: str
    chosen: dict[str, ChosenFacts]
    settings: dict[str, list[SettingFacts]]
    models: dict[str, dict[str, float | None]]


def macro_rate(evaluation: Evaluation, domains: Sequence[str] = ()) -> float:
    """The unweighted mean of the task's metric over these domains; over all where none is named.

    NaN where every decode failed: whoever is silent everywhere has no rate to be chosen by.
    """
    if why_all_failed(evaluation):
        return math.nan
    metric, parts = evaluation.task.metrics[0], by_column(evaluation.scored, "domain")
    return float(np.mean([value_of(parts[name], metric) for name in domains or parts if name in parts]))


def short_of(value: float, best: float | None) -> float:
    """How far a metric is from its best value, None where it has none and more is better; NaN is farthest.

    >>> short_of(12.5, best=0), short_of(30.0, best=100), short_of(130.0, best=None), short_of(math.nan, best=0)
    (12.5, 70.0, -130.0, inf)
    """
    if math.isnan(value):
        return math.inf
    return -value if best is None else abs(best - value)


@dataclass(frozen=True)
class Criterion:
    """What settings are chosen by: a number, its best value (see `short_of`), and the rule in words."""

    name: str
    title: str
    best: float | None
    rule: str


def by_metric(metric: Metric) -> Criterion:
    """The usual one: a task's own metric."""
    return Criterion(metric.name, metric.title, metric.best, RULE)


def choose(grids: Grids, rates: Rates, seeds: Sequence[int], *, best: float | None = 0.0) -> dict[str, Chosen]:
    """The best setting of each method; `best` as in `short_of`."""
    found = {}
    for name, settings in grids.items():
        means = [float(np.mean([rates[s.label, seed] for seed in seeds])) for s in settings]
        first = min(range(len(means)), key=lambda i: short_of(means[i], best))
        found[name] = Chosen(settings[first], means[first])
    return found


def best_of(chosen: Mapping[str, Chosen], *, best: float | None = 0.0) -> str:
    """The best method; the first of equals."""
    return min(chosen, key=lambda name: short_of(chosen[name].dev, best))


def selection_facts(
    grids: Grids, chosen: Mapping[str, Chosen], rates: Rates, seeds: Sequence[int], *, by: Criterion, over: str,
    normaliser: str, dev_set: str,
) -> SelectionFacts:  # fmt: skip
    """What was chosen and why, for JSON."""
    merges = {s.label for settings in grids.values() for s in settings}
    models = dict.fromkeys(label for label, _ in rates if label not in merges)

    def by_seed(label: str) -> dict[str, float | None]:
        return {str(seed): known(rates[label, seed]) for seed in seeds if (label, seed) in rates}

    return {
        "chorus": __version__,
        "rule": by.rule,
        "metric": by.name,
        "over": over,
        "normaliser": normaliser,
        "dev_set": dev_set,
        "best": best_of(chosen, best=by.best),
        "chosen": {
            name: {"label": one.setting.label, "method": one.setting.method, "parameters": one.setting.parameters,
                   "dev": known(one.dev)}
            for name, one in chosen.items()
        },
        "settings": {
            name: [{"parameters": s.parameters, "dev": by_seed(s.label)} for s in settings]
            for name, settings in grids.items()
        },
        "models": {label: by_seed(label) for label in models},
    }  # fmt: skip
