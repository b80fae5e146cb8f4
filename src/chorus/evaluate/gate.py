"""What an evaluation must keep to be shipped: a bound on its rates, and on what it loses against another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chorus.errors import DataError
from chorus.evaluate.compare import compare
from chorus.evaluate.results import Evaluation


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
    for name, limit in (("wer", max_wer), ("cer", max_cer)):
        if limit is not None:
            checks.append(_bounded(name.upper(), every[name], limit))
    if against is None:
        return checks
    made = compare([against, result], base=against.label)
    line, other = (next(x for x in made.lines if x.label == e.label) for e in (result, against))
    if max_regression is not None:
        points = every["error_rate"] - against.summary["all"]["error_rate"]
        held = points <= max_regression or (significant and not _surely_worse(line.differences))
        checks.append(Check(f"regression against {against.label}, points", points, max_regression, held))
    if max_domain_regression is not None:
        worse = {c.name: line.rates[c.name] - other.rates[c.name] for c in made.cells}
        name = max(worse, key=lambda n: worse[n])
        held = worse[name] <= max_domain_regression
        checks.append(Check(f"worst domain ({name}), points", worse[name], max_domain_regression, held))
    return checks


def _bounded(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        raise DataError(f"{name} is not defined: the references are empty")
    return Check(name, value, limit, value <= limit)


def _surely_worse(differences: Any) -> bool:
    return any(d.low > 0 for d in differences)


def as_dict(checks: list[Check]) -> Mapping[str, Any]:
    """For JSON."""
    return {"ok": all(c.ok for c in checks), "checks": [vars(c) for c in checks]}
