"""What an evaluation must keep to be shipped: a bound on its rates, and on what it loses against another."""

from __future__ import annotations

from dataclasses import dataclass

from chorus.errors import DataError
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import Comparison, Line
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import value_of
from chorus.evaluate.summary import main_rows


@dataclass(frozen=True)
class Check:
    """One condition that must hold."""

    what: str
    value: float
    limit: float
    ok: bool

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'} {self.what}: {self.value:.2f} (at most {self.limit:.2f})"


def gate(
    result: Evaluation,
    *,
    against: Evaluation | None = None,
    max_wer: float | None = None,
    max_cer: float | None = None,
    max_regression: float | None = None,
    max_domain_regression: float | None = None,
    max_failed: int = 0,
    significant: bool = False,
) -> list[Check]:
    """Every check, held or not. Rates in percent, regressions in points over `against`.

    With `significant` a regression counts only where the paired bootstrap's interval lies above zero.
    """
    every = result.summary["all"]
    checks = [Check("failed decodes", every["failed"], max_failed, every["failed"] <= max_failed)]
    for name, value, limit in (("WER", every["wer"], max_wer), ("CER", every["cer"], max_cer)):
        if limit is not None:
            checks.append(_bounded(name, value, limit))
    if against is None:
        return checks
    # refused where the recordings differ: a lower rate on easier ones is no pass
    comparison = compare([against, result], base=against.label)
    line, other = (next(x for x in comparison.lines if x.label == e.label) for e in (result, against))
    if max_regression is not None:
        points = comparison.sign * (_pooled(result) - _pooled(against))
        held = points <= max_regression or (significant and not _surely_worse(line, comparison))
        checks.append(Check(f"regression against {against.label}, points", points, max_regression, held))
    if max_domain_regression is not None:
        worse = {c.name: comparison.sign * (line.rates[c.name] - other.rates[c.name]) for c in comparison.cells}
        # not forgiven by `significant`, whose tests are of groups of domains and not of one
        name = max(worse, key=lambda n: worse[n])
        held = worse[name] <= max_domain_regression
        checks.append(Check(f"worst domain ({name}), points", worse[name], max_domain_regression, held))
    return checks


def _bounded(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        raise DataError(f"{name} is not defined: the references are empty")
    return Check(name, value, limit, value <= limit)


def _pooled(one: Evaluation) -> float:
    """The first metric of its task, over the rows that stand for the system."""
    return value_of(main_rows(one.scored, one.summary["conditions"]), one.task.metrics[0])


def _surely_worse(line: Line, comparison: Comparison) -> bool:
    return any(d.low > 0 if comparison.best == 0 else d.high < 0 for d in line.differences)


def as_dict(checks: list[Check]) -> dict[str, object]:
    """For JSON."""
    return {"ok": all(c.ok for c in checks), "checks": [vars(c) for c in checks]}
