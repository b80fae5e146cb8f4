"""What a comparison of systems holds: cells, a line a system, and the differences between them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from chorus.evaluate.bootstrap import Interval
from chorus.evaluate.mapsswe import Matched
from chorus.plain import JsonMap, JsonObject

Test = Literal["exact MAPSSWE", "exact McNemar", "approximate randomisation"]
Group = Literal["in-domain", "out-of-domain", "other-language"]
LEVELS = (0.05, 0.01, 0.001)
FULL = 100.0  # percent: who errs more has nothing left to lose
GROUPS: tuple[Group, ...] = ("in-domain", "out-of-domain", "other-language")


@dataclass(frozen=True)
class Cell:
    """A domain: its group and what is in it."""

    name: str
    group: Group
    utterances: int
    unit: str


@dataclass(frozen=True)
class Difference:
    """A system's average over a group's domains less a reference's; p with Holm's correction over the table's systems.

    `test` says whose p: MAPSSWE's where edits are counted, McNemar's where rows are right or wrong (of both `matched`
    tells more), else that of approximate randomisation. `p_alone` is the same without the correction.
    """

    reference: str
    group: str
    points: float
    low: float
    high: float
    p_bootstrap: float
    test: Test
    matched: Matched | None
    p_alone: float
    p: float

    @property
    def stars(self) -> str:
        """One for each of p below .05, .01, .001, where the interval has no zero in it either."""
        return "*" * sum(self.p < limit for limit in LEVELS) if self.low > 0 or self.high < 0 else ""


@dataclass
class Line:
    """One system. Rates in percent; `recovery` by domain: 1 where a merge is as good as the specialist."""

    label: str
    role: str
    home: str  # the domain of a specialist
    parameters: dict[str, object]
    rates: dict[str, float]
    intervals: dict[str, Interval]
    averages: dict[str, float] = field(default_factory=dict)  # by group, and "all": macro
    average_intervals: dict[str, Interval] = field(default_factory=dict)
    forgetting: float | None = None  # points lost outside the in-domain cells against the base
    recovery: dict[str, float] = field(default_factory=dict)
    overfits: bool = False  # a specialist that gains at home and loses elsewhere in the mean
    differences: list[Difference] = field(default_factory=list)

    @property
    def recovery_mean(self) -> float | None:
        return float(np.mean(list(self.recovery.values()))) if self.recovery else None

    @property
    def recovery_worst(self) -> float | None:
        return min(self.recovery.values()) if self.recovery else None


@dataclass
class Comparison:
    """Everything that a table of systems tells."""

    cells: list[Cell]
    lines: list[Line]
    base: str
    joint: str
    condition: str
    normaliser: str
    by: str  # what the intervals resample
    clusters: int
    notes: list[str] = field(default_factory=list)
    metric: str = "error_rate"  # what the rates are: the first metric of the task
    title: str = "error rate"
    best: float = 0.0  # of the metric: 0 where less is better, 100 where more is

    @property
    def groups(self) -> list[Group]:
        """Those that have cells, in order."""
        return [g for g in GROUPS if any(c.group == g for c in self.cells)]

    @property
    def averaged(self) -> list[str]:
        """What averages are over: each group that has cells, and all cells where there are several groups."""
        return [*self.groups, *(["all"] if len(self.groups) > 1 else [])]

    @property
    def tests(self) -> list[Test]:
        """Those that differences were tested by."""
        return sorted({one.test for line in self.lines for one in line.differences})

    @property
    def sign(self) -> int:
        """What turns a difference into points lost."""
        return 1 if self.best == 0 else -1

    def lost(self, line: Line, to: Line, cell: str) -> float:
        """Points that a system loses to another in a cell; error rates above 100 % count as 100."""
        return self.sign * (min(line.rates[cell], FULL) - min(to.rates[cell], FULL))

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        found = asdict(self)
        for line, told in zip(self.lines, found["lines"], strict=True):
            told |= {"recovery_mean": line.recovery_mean, "recovery_worst": line.recovery_worst}
        return found


def comparison_from(values: JsonMap) -> Comparison:
    """The comparison of its plain values, read from JSON: where a number must be, null is what was not defined."""
    cells, lines = [Cell(**cell) for cell in values["cells"]], [_line_from(line) for line in values["lines"]]
    return Comparison(**{**values, "cells": cells, "lines": lines})


def _line_from(told: JsonMap) -> Line:
    known = {k: v for k, v in told.items() if k not in ("recovery_mean", "recovery_worst")}
    known |= {key: _numbers(told[key]) for key in ("rates", "averages", "recovery")}
    for key in ("intervals", "average_intervals"):
        known[key] = {name: Interval(**_numbers(one)) for name, one in told[key].items()}
    known["differences"] = [_difference_from(one) for one in told["differences"]]
    return Line(**known)


def _difference_from(told: JsonMap) -> Difference:
    # taken before the numbers: no test is null there as well, and must not become NaN
    test = told["matched"]
    return Difference(**{**_numbers(told), "matched": test and Matched(**_numbers(test))})


def _numbers(found: JsonMap) -> JsonObject:
    return {k: math.nan if v is None else v for k, v in found.items()}
