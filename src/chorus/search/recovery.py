"""What merges are chosen by where domains are of several tasks: how much of the specialists' gains they recover.

Rates of unlike metrics have no mean; recoveries have. In a cell (a domain of a task) a merge recovers 0 where it is as
good as the base, 100 where it is as good as the specialist that is at home there. Cells in which that gains no more
than its interval are left out; where none is left, the mean of the metrics, turned so that more is better, stands in
its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from chorus.analyse.interference import Gained, analyse_interference
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import why_all_failed
from chorus.evaluate.scores import by_column, value_of

NAME, TITLE = "recovery", "recovery, percent"
RULE = (
    "the highest mean over the domains whose specialist surely gains of what a merge recovers of that gain on dev, "
    "averaged over seeds; of equals the first"
)
Cell = tuple[str, str]  # (task, domain)


@dataclass(frozen=True)
class Gains:
    """By cell what the base has and what its specialist gains, of one seed."""

    base: dict[Cell, float]
    gains: dict[Cell, float]

    def recovered(self, system: Sequence[Evaluation]) -> float:
        """Of the gains in percent what a system's evaluations, one a task, recover; NaN where one failed as a whole."""
        if any(why_all_failed(one) for one in system):
            return math.nan
        values = dict(_values(system))
        if not self.gains:
            return float(np.mean([values[cell] for cell in self.base]))
        return float(np.mean([100 * (values[cell] - self.base[cell]) / gain for cell, gain in self.gains.items()]))


def gains_of(evaluations: Sequence[Evaluation], base: str) -> Gains:
    """The gains of specialists, whose roles say where they are at home, over the base."""
    found = analyse_interference(evaluations, base=base)
    before = dict(_values([one for one in evaluations if one.label == base]))
    return Gains(before, {(row.task, row.domain): row.gain.points for row in found.rows if row.sure and row.gain})


def _values(system: Sequence[Evaluation]) -> Iterator[tuple[Cell, float]]:
    for one in system:
        metric = Gained(one.task.metrics[0])
        for domain, rows in by_column(one.scored, "domain").items():
            yield (one.task.name, domain), value_of(rows, metric)
