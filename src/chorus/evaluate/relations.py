"""What systems are to the base and the specialists: forgetting, recovery, overfitting.

Rates above 100 % count as 100 here: who writes more words than were said has nothing left to lose, and who then writes
none has gained nothing. A specialist whose gain may be chance has nothing to recover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chorus.evaluate.bootstrap import PairedInterval, paired_bootstrap
from chorus.evaluate.comparison import FULL, Comparison, Line
from chorus.evaluate.scores import answered, by_column
from chorus.tasks.protocol import Metric, Task
from chorus.tasks.scored import Scored

if TYPE_CHECKING:
    from chorus.tasks.scored import Floats

Rows = Mapping[str, Sequence[Scored]]  # of each system, by its label


@dataclass(frozen=True)
class Capped:
    """A metric of which what is above 100 is 100."""

    metric: Metric

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def title(self) -> str:
        return self.metric.title

    @property
    def best(self) -> float:
        return self.metric.best

    def signature(self) -> str:
        return self.metric.signature()

    def statistics(self, rows: Sequence[Scored]) -> Floats:
        return self.metric.statistics(rows)

    def values(self, sums: Floats) -> Floats:
        return np.minimum(self.metric.values(sums), FULL)


@dataclass(frozen=True)
class Gain:
    """Points that a specialist gains at home, and their interval."""

    points: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.points:.1f} points [{self.low:.1f}, {self.high:.1f}]"


def relate(comparison: Comparison, rows: Rows, column: str, task: Task, metric: Metric) -> None:
    """Put forgetting, recovery and overfitting into a comparison's lines, and into its notes what has none, and why."""
    base = next((line for line in comparison.lines if line.label == comparison.base), None)
    if base is None:
        comparison.notes.append("no result is the base: --base LABEL gives forgetting and recovery")
        return
    gains = _gains(comparison, base, rows, column, task, Capped(metric))
    outside = [c.name for c in comparison.cells if c.group != "in-domain"]
    for line in comparison.lines:
        if line is base:
            continue
        lost = {c.name: comparison.lost(line, base, c.name) for c in comparison.cells}
        if outside:
            line.forgetting = float(np.mean([lost[name] for name in outside]))
        line.recovery = {home: -lost[home] / gain.points for home, gain in gains.items() if gain.low > 0}
        if line.role == "specialist" and line.home in lost:
            away = [points for name, points in lost.items() if name != line.home]
            # the mean: one domain that is lost a little is no overfitting yet
            line.overfits = lost[line.home] < 0 and bool(away) and float(np.mean(away)) > 0
    for home, gain in gains.items():
        if not gain.low > 0:  # a NaN too: one utterance has no interval
            comparison.notes.append(f"no recovery in {home}: {_why(gain)}")
    # of metrics where more is better 100 is the most, but for rounding
    if comparison.best == 0 and any(rate > FULL for line in comparison.lines for rate in line.rates.values()):
        comparison.notes.append("rates above 100 % count as 100 in forgetting and recovery")


def _gains(
    comparison: Comparison, base: Line, rows: Rows, column: str, task: Task, metric: Metric
) -> dict[str, Gain]:  # fmt: skip
    """By domain what its specialist gains there; the largest gain where a domain has several."""
    found = dict[str, Gain]()
    before = by_column(rows[base.label], column)
    for line in comparison.lines:
        if line.role != "specialist" or line.home not in before:
            continue
        first, second = before[line.home], by_column(rows[line.label], column)[line.home]
        pair = answered(first, second, task, metric)
        gain = _gain(comparison, -comparison.lost(line, base, line.home), paired_bootstrap([pair], metric))
        if line.home not in found or gain.points > found[line.home].points:
            found[line.home] = gain
    return found


def _gain(comparison: Comparison, points: float, less: PairedInterval) -> Gain:
    """The interval of the base less the specialist, the right way round."""
    ends = (less.low, less.high) if comparison.sign > 0 else (-less.high, -less.low)
    return Gain(points, *ends)


def _why(gain: Gain) -> str:
    if gain.points < 0:
        return f"the specialist is worse there than the base, by {-gain.points:.1f} points"
    return (
        f"the specialist's gain there, {gain}, may be chance" if gain.points else "the specialist gains nothing there"
    )
