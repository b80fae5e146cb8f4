"""What an evaluation must keep to be shipped: bounds on its metrics, and on what it loses against another."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from chorus.errors import DataError, UsageError
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import FULL
from chorus.evaluate.facts import SystemFacts
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import counts_edits, metric_of, value_of
from chorus.evaluate.summary import main_rows
from chorus.transcribe.conditions import CLEAN


@dataclass(frozen=True)
class Check:
    """One condition that must hold."""

    what: str
    value: float
    limit: float
    ok: bool
    bound: Literal["at most", "at least"] = "at most"

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.what}: {self.value:z.2f} ({self.bound} {self.limit:z.2f})"


def gate(
    result: Evaluation,
    *,
    against: Evaluation | None = None,
    max_wer: float | None = None,
    max_cer: float | None = None,
    bounds: Mapping[str, float] | None = None,
    max_regression: float | None = None,
    max_domain_regression: float | None = None,
    metric: str | None = None,
    max_failed: int = 0,
    significant: bool = False,
) -> list[Check]:
    """Every check, held or not. Rates in percent, regressions in points over `against`.

    `bounds` are of the task's metrics by name: the least where more is better, the most where less is. WER and CER are
    of tasks whose answers are texts; `UsageError` names what a task has instead.

    A regression is of the task's first metric, or of `metric`, in the unweighted mean over domains; with `significant`
    it counts only where test and interval of the difference agree that it is one (p < .05).
    """
    if not result.rows:
        raise DataError(f"{result.label}: no rows, of which nothing can be said", "evaluate again with --overwrite")
    every = result.summary["all"]
    checks = [Check("failed decodes", every["failed"], max_failed, every["failed"] <= max_failed)]
    for name, value, limit in (("WER", every["wer"], max_wer), ("CER", every["cer"], max_cer)):
        if limit is not None:
            checks.append(_bounded(result, name, value, limit))
    checks += [_metric_bounded(result, name, limit) for name, limit in (bounds or {}).items()]
    if against is None:
        return checks
    against = against if against.label != result.label else _called(against, f"{against.label} (against)")
    condition = CLEAN if CLEAN in result.summary["conditions"] else result.summary["conditions"][0]
    # refused where the recordings differ: a lower rate on easier ones is no pass
    comparison = compare([against, result], base=against.label, condition=condition, metric=metric)
    line, other = (next(x for x in comparison.lines if x.label == e.label) for e in (result, against))
    if max_regression is not None:
        # of all cells, as `chorus compare` averages them
        found = next(d for d in line.differences if d.group == comparison.averaged[-1])
        # + 0.0: what is nought has no sign, in JSON too
        points = comparison.sign * found.points + 0.0
        # a NaN holds no bound
        held = points <= max_regression or (significant and points > 0 and not found.stars)
        over = f" of the mean of {len(comparison.cells)} domains" if len(comparison.cells) > 1 else ""
        checks.append(
            Check(
                f"regression of {comparison.title} against {against.label}, points{over}", points, max_regression, held
            )
        )
    if max_domain_regression is not None:
        # not forgiven by `significant`, whose tests are of averages and not of one domain
        worse = {c.name: comparison.sign * (line.rates[c.name] - other.rates[c.name]) for c in comparison.cells}
        name = max((n for n in worse if not math.isnan(worse[n])), key=lambda n: worse[n], default="")
        points = worse.get(name, math.nan) + 0.0
        told = f"regression of {comparison.title} in the worst domain ({name}), points"
        checks.append(Check(told, points, max_domain_regression, points <= max_domain_regression))
    return checks


def _called(one: Evaluation, label: str) -> Evaluation:
    """Under another label: two versions of a model mostly have one name."""
    system: SystemFacts = {**one.summary["system"], "label": label}
    return Evaluation(one.directory, {**one.summary, "system": system}, one.rows, one.scored)


def _metric_bounded(result: Evaluation, name: str, limit: float) -> Check:
    metric = metric_of(result.task, name)
    if metric.best == FULL and not (limit == 0 or 1 <= limit <= FULL):  # 0.9 of what is told as 90 would pass anything
        raise UsageError(f"--bound {name}={limit:g}: {metric.title} is told in percent, from 0 to 100", f"{name}=90")
    # as the tables tell it: of the clean recordings, where there are any
    value = value_of(main_rows(result.scored, result.summary["conditions"]), metric)
    if math.isnan(value):
        raise DataError(
            f"{metric.title} is not defined: nothing in these results tells it",
            "bound another metric; likelihoods, as constrained accuracy and EER need them, not every runtime tells",
        )
    # what is best tells which way is better, as no metric says it otherwise
    if metric.best == 0:
        return Check(metric.title, value, limit, value <= limit)
    return Check(metric.title, value, limit, value >= limit, "at least")


def _bounded(result: Evaluation, name: str, value: float | None, limit: float) -> Check:
    task = result.task
    if not counts_edits(task):
        # edits are counted there too, of texts that were recognised as labels: such a rate would say nothing
        told = ", ".join(metric.name for metric in task.metrics)
        raise UsageError(
            f"task {task.name} has no {name}: its answers are labels, or right or wrong",
            f"--bound {task.metrics[0].name}=PERCENT; it has {told}",
        )
    if value is None:
        raise DataError(f"{name} is not defined: the references are empty", "gate on recordings with words in them")
    return Check(name, value, limit, value <= limit)


def as_dict(checks: list[Check]) -> dict[str, object]:
    """For JSON."""
    return {"ok": all(c.ok for c in checks), "checks": [vars(c) for c in checks]}
