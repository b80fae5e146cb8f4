"""What an evaluation must keep to be shipped: a bound on its rates, and on what it loses against another."""

from __future__ import annotations

import math
from dataclasses import dataclass

from chorus.errors import DataError
from chorus.evaluate.compare import compare
from chorus.evaluate.facts import SystemFacts
from chorus.evaluate.results import Evaluation
from chorus.transcribe.conditions import CLEAN


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

    A regression is of the unweighted mean over domains; with `significant` it counts only where test and interval of
    the difference agree that it is one (p < .05).
    """
    if not result.rows:
        raise DataError(f"{result.label}: no rows, of which nothing can be said", "evaluate again with --overwrite")
    every = result.summary["all"]
    checks = [Check("failed decodes", every["failed"], max_failed, every["failed"] <= max_failed)]
    for name, value, limit in (("WER", every["wer"], max_wer), ("CER", every["cer"], max_cer)):
        if limit is not None:
            checks.append(_bounded(name, value, limit))
    if against is None:
        return checks
    against = against if against.label != result.label else _called(against, f"{against.label} (against)")
    condition = CLEAN if CLEAN in result.summary["conditions"] else result.summary["conditions"][0]
    # refused where the recordings differ: a lower rate on easier ones is no pass
    comparison = compare([against, result], base=against.label, condition=condition)
    line, other = (next(x for x in comparison.lines if x.label == e.label) for e in (result, against))
    if max_regression is not None:
        # of all cells, as `chorus compare` averages them
        found = next(d for d in line.differences if d.group == comparison.averaged[-1])
        points = comparison.sign * found.points
        # a NaN holds no bound
        held = points <= max_regression or (significant and points > 0 and not found.stars)
        over = f" of the mean of {len(comparison.cells)} domains" if len(comparison.cells) > 1 else ""
        checks.append(Check(f"regression against {against.label}, points{over}", points, max_regression, held))
    if max_domain_regression is not None:
        # not forgiven by `significant`, whose tests are of averages and not of one domain
        worse = {c.name: comparison.sign * (line.rates[c.name] - other.rates[c.name]) for c in comparison.cells}
        name = max((n for n in worse if not math.isnan(worse[n])), key=lambda n: worse[n], default="")
        points = worse.get(name, math.nan)
        checks.append(Check(f"worst domain ({name}), points", points, max_domain_regression,
                            points <= max_domain_regression))  # fmt: skip
    return checks


def _called(one: Evaluation, label: str) -> Evaluation:
    """Under another label: two versions of a model mostly have one name."""
    system: SystemFacts = {**one.summary["system"], "label": label}
    return Evaluation(one.directory, {**one.summary, "system": system}, one.rows, one.scored)


def _bounded(name: str, value: float | None, limit: float) -> Check:
    if value is None:
        raise DataError(f"{name} is not defined: the references are empty", "gate on recordings with words in them")
    return Check(name, value, limit, value <= limit)


def as_dict(checks: list[Check]) -> dict[str, object]:
    """For JSON."""
    return {"ok": all(c.ok for c in checks), "checks": [vars(c) for c in checks]}
