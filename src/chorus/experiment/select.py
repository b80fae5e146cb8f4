"""Which setting of each method is taken: decided on dev, written down, before a test recording is opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chorus._version import __version__
from chorus.checkpoints.sidecar import write_json
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import by_column, value_of
from chorus.experiment.config import Experiment, Setting

SELECTION = "selection.json"
RULE = "the lowest unweighted mean over domains of the dev error rate, averaged over seeds; of equals the first"


@dataclass(frozen=True)
class Chosen:
    """A method's setting and its dev error rate."""

    setting: Setting
    dev: float


def macro_rate(evaluation: Evaluation, domains: Sequence[str]) -> float:
    """The unweighted mean of the domains' error rates."""
    parts = by_column(evaluation.scored, "domain")
    return float(np.mean([value_of(parts[name]) for name in domains if name in parts]))


def select(
    made: Experiment, settings: Mapping[str, Sequence[Setting]], rates: Mapping[tuple[str, int], float]
) -> dict[str, Chosen]:
    """The best setting of each method, by `rates` {(label, seed): dev error rate}."""
    found = {}
    for name, points in settings.items():
        means = [float(np.mean([rates[p.label, seed] for seed in made.seeds])) for p in points]
        best = int(np.argmin(means))  # the first of equals
        found[name] = Chosen(points[best], means[best])
    return found


def write_selection(
    place: Path, made: Experiment, settings: Mapping[str, Sequence[Setting]], chosen: Mapping[str, Chosen],
    rates: Mapping[tuple[str, int], float], dev_mark: str,
) -> Path:  # fmt: skip
    """selection.json: the rule, every setting's dev rates, what was taken, and which method is the best."""
    best = min(chosen, key=lambda name: chosen[name].dev)
    value: dict[str, Any] = {
        "chorus": __version__,
        "rule": RULE,
        "over": made.selection.over,
        "normaliser": made.normaliser,
        "dev": dev_mark,
        "best": best,
        "chosen": {
            name: {"label": one.setting.label, "method": one.setting.method, "parameters": one.setting.parameters,
                   "dev_value_of": one.dev}
            for name, one in chosen.items()
        },
        "settings": {
            name: [{"parameters": p.parameters, "dev_value_of": {str(s): rates[p.label, s] for s in made.seeds}}
                   for p in points]
            for name, points in settings.items()
        },
        "models": {
            label: {str(s): rates[label, s] for s in made.seeds if (label, s) in rates}
            for label in dict.fromkeys(label for label, _ in rates)
            if not any(label == p.label for points in settings.values() for p in points)
        },
    }  # fmt: skip
    write_json(place / SELECTION, value)
    return place / SELECTION
