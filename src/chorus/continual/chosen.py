"""The share of the earlier merge that does best on dev: each is merged in memory and decodes the sets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from chorus.continual.sets import MeasuredSet, Measuring
from chorus.continual.stage import Recipe
from chorus.errors import ChorusError
from chorus.evaluate.run import why_all_failed
from chorus.evaluate.scores import known, value_of
from chorus.plain import exact
from chorus.search.grids import Setting
from chorus.search.selection import short_of
from chorus.search.trials import Trials
from chorus.transcribe.systems import folder_of

Tried = dict[str, dict[str, float | None]]  # share -> dev set -> figure


def choose_share(
    recipes: Mapping[float, Recipe], sets: Mapping[str, MeasuredSet], place: Path, measuring: Measuring, rule: str,
    ended: Callable[[str], None],
) -> tuple[float, Tried]:  # fmt: skip
    """The best share by the first metric of each set's task, and what each reaches; of equals the first.

    What falls short of the best value is meant over the sets, or taken where it is most (`minimum`).
    """
    short: dict[float, list[float]] = {share: [] for share in recipes}
    tried: Tried = {exact(share): {} for share in recipes}
    # sets outside, shares inside: the model is loaded once a set, and only its weights are replaced
    for name, one in sets.items():
        with Trials(
            one.test, place / folder_of(name), decoding=one.decoding, normaliser=measuring.normaliser,
            device=measuring.device, ended=partial(_told, ended, name),
        ) as trials:  # fmt: skip
            reasons = []
            for share, recipe in recipes.items():
                setting = Setting(str(recipe["merge_method"]), str(recipe["merge_method"]), {})
                found = trials.merge(recipe, setting, label=f"share {exact(share)}")
                reasons.append(why_all_failed(found))
                metric = found.task.metrics[0]
                # whoever is silent everywhere has no rate to be chosen by
                value = math.nan if reasons[-1] else value_of(found.scored, metric)
                short[share].append(short_of(value, metric.best))
                tried[exact(share)][name] = known(value)
        if all(reasons):
            raise ChorusError(f"{name}: every decode of every share failed: {reasons[0]}", f"see {place}")
    # `min` takes the first of equals, in the order in which they were given
    return min(short, key=lambda share: _by(rule, short[share])), tried


def _told(ended: Callable[[str], None], name: str, label: str) -> None:
    ended(f"{name}: {label}")


def _by(rule: str, values: Sequence[float]) -> float:
    return max(values) if rule == "minimum" else sum(values) / len(values)
