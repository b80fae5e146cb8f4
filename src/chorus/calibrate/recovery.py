"""From what is measured on dev to one number by which the best weights are chosen.

    recovery of a task    r = (base - merged) / (base - own)      of losses or error rates, ratios of sums

0 is the base, 1 the model that was tuned for it. A task whose own model gains no more on the base than twice the
standard error of that gain (over batches, paired) has no recovery: its ratio would be noise. Where no task has one, the
rule is applied to what was measured itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus.calibrate.settings import Measure, Rule

Part = list[float]  # [sum, count] of one batch of dev
Figures = dict[str, list[Part]]  # by task
ERRORS = 2.0  # standard errors that a gain must be above


def value_of(parts: Sequence[Part]) -> float:
    """The ratio of sums.

    >>> value_of([[1.0, 2.0], [3.0, 2.0]])
    1.0
    """
    return sum(a for a, _ in parts) / max(1.0, sum(n for _, n in parts))


def unit_of(measure: Measure) -> float:
    """What a measure is told in: error rates in percent, the others as they are."""
    return 100.0 if measure in ("wer", "cer") else 1.0


def gain(base: Sequence[Part], own: Sequence[Part]) -> tuple[float, float]:
    """What a model gains on the base, and the standard error of it over the batches, paired (the ratio linearised)."""
    found = value_of(base) - value_of(own)
    total, count = sum(n for _, n in base), len(base)
    # of one batch, which is one row, no error can be told: the gain alone decides
    if count < 2 or not total:
        return found, 0.0 if count else math.inf
    left = [(a - b) - found * n for (a, n), (b, _) in zip(base, own, strict=True)]
    return found, math.sqrt(count / (count - 1) * sum(x * x for x in left)) / total


@dataclass(frozen=True)
class Marks:
    """Between what a task's recovery is counted: base and own model; which that is; whether it can be counted."""

    base: float
    own: float
    model: str
    counts: bool


def marks_of(
    base: Figures, singles: Mapping[str, Figures], own: Mapping[str, str], *, counted: bool = True
) -> dict[str, Marks]:  # fmt: skip
    """The marks of each task. `own` names a task's model; of others it is the best single one on dev.

    Unless `counted` none counts: of entropies, which say how sure a model is, nothing is recovered.
    """
    found = {}
    for task, parts in base.items():
        model = own.get(task) or min(singles, key=lambda name: value_of(singles[name][task]))
        better, error = gain(parts, singles[model][task])
        # a single model that is surer than another may be surely wrong
        counts = counted and better > ERRORS * error and better > 0
        found[task] = Marks(value_of(parts), value_of(singles[model][task]), model, counts)
    return found


def recoveries(figures: Figures, marks: Mapping[str, Marks]) -> dict[str, float]:
    """The recovery of every task that has one."""
    return {
        task: (mark.base - value_of(figures[task])) / (mark.base - mark.own)
        for task, mark in marks.items() if mark.counts
    }  # fmt: skip


def shares_of(marks: Mapping[str, Marks], *, balanced: bool) -> dict[str, float]:
    """What each task's loss counts in what is lowered, one in all: alike, or `balanced` by what there is to recover.

    Of losses L the mean recovery is a constant less the sum of L / (base - own): over the tasks that have a recovery.
    """
    parts = {task: 1 / (mark.base - mark.own) if mark.counts else 0.0 for task, mark in marks.items()}
    if not balanced or not any(parts.values()):
        parts = dict.fromkeys(marks, 1.0)
    return {task: part / sum(parts.values()) for task, part in parts.items()}


def score(figures: Figures, marks: Mapping[str, Marks], rule: Rule) -> float:
    """The rule's number, larger is better."""
    found = recoveries(figures, marks)
    return (
        of_recoveries(list(found.values()), rule) if found else of_values(list(map(value_of, figures.values())), rule)
    )


def of_recoveries(values: Sequence[float], rule: Rule) -> float:
    """Mean, minimum, geometric mean (no task below the base), or minus the root mean square of what lacks to 1.

    >>> [round(of_recoveries([1.2, 0.3], rule), 3) for rule in ("mean", "minimum", "geometric", "l2")]
    [0.75, 0.3, 0.6, -0.495]
    """
    if rule == "mean":
        return sum(values) / len(values)
    if rule == "minimum":
        return min(values)
    if rule == "geometric":
        # one task below the base, and no gain elsewhere makes up for it
        return math.exp(sum(map(math.log, values)) / len(values)) if min(values) > 0 else -math.inf
    # what is above 1 makes up for nothing
    return -math.sqrt(sum(max(0.0, 1 - r) ** 2 for r in values) / len(values))


def of_values(values: Sequence[float], rule: Rule) -> float:
    """The same of losses or error rates, of which less is better: what they lack to nothing."""
    if rule == "mean":
        return -sum(values) / len(values)
    if rule == "minimum":
        return -max(values)
    if rule == "geometric":
        return -math.exp(sum(math.log(max(v, 1e-12)) for v in values) / len(values))
    return -math.sqrt(sum(v * v for v in values) / len(values))
