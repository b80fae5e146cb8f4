"""A comparison as rows of texts: rates by domain, averages, and differences with their marks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from chorus.evaluate.bootstrap import Interval
from chorus.evaluate.comparison import Comparison, Difference, Line
from chorus.plain import JsonObject
from chorus.tables import Table
from chorus.tasks.scored import ERROR_RATE

NAMES = {"in-domain": "in-domain", "out-of-domain": "out-of-domain", "other-language": "other languages", "all": "all"}


def rates_table(comparison: Comparison, *, domains: bool = True) -> Table:
    """A line a system, a column a domain and a group's average."""
    groups = comparison.averaged
    cells = [c.name for c in comparison.cells] if domains else []
    kinds = {"words": "", "characters": " (CER)", "mixed": " (mixed)"}
    marks = {c.name: kinds[c.unit] for c in comparison.cells}
    # a dash, and a note that says why, where no specialist has gained anything to recover
    many = bool(comparison.base) and any(line.role == "specialist" and line.home for line in comparison.lines)
    outside = any(line.forgetting is not None for line in comparison.lines)
    columns = ["system", *(f"{name}{marks[name]}" for name in cells), *(f"{NAMES[g]} average" for g in groups)]
    columns += ["recovery mean", "worst"] if many else []
    columns += ["forgetting"] if outside else []
    rows = []
    for line in comparison.lines:
        row = [_named(line), *(_rate(line.rates[c], line.intervals[c]) for c in cells)]
        row += [_rate(line.averages[g], line.average_intervals[g]) + _stars(line, comparison, g) for g in groups]
        row += [_share(line.recovery_mean), _share(line.recovery_worst)] if many else []
        row += ["-" if line.forgetting is None else f"{line.forgetting:+z.2f}"] if outside else []
        rows.append(row)
    best = set()
    for j in range(1, 1 + len(cells) + len(groups)):
        values = [_value(line, j - 1, cells, groups) for line in comparison.lines]
        choose = min if comparison.best == 0 else max
        # min() of a NaN is whatever stands first
        leading = choose((v for v in values if not math.isnan(v)), default=math.nan)
        best |= {(i, j) for i, v in enumerate(values) if v == leading}
    title = f"{_counted(comparison)} [95 % interval], {comparison.condition}"
    return Table(title, columns, rows, notes_of(comparison), best)


def _counted(comparison: Comparison) -> str:
    """What the rates are: an error rate by what is counted, else the task's metric."""
    if comparison.metric != ERROR_RATE.name:
        return comparison.title
    units = {c.unit for c in comparison.cells}
    kind = "Error rate" if len(units) > 1 else "WER" if units == {"words"} else "CER"
    return f"{kind}, percent, normaliser {comparison.normaliser}"


def _value(line: Line, index: int, cells: Sequence[str], groups: Sequence[str]) -> float:
    if index < len(cells):
        return line.rates[cells[index]]
    return line.averages[groups[index - len(cells)]]


def _named(line: Line) -> str:
    home = f" ({line.home})" if line.home and line.home not in line.label else ""
    return f"{line.label}{home}{' †' if line.overfits else ''}"


def _rate(value: float, interval: Interval) -> str:
    if math.isnan(value):
        return "-"
    inside = "" if math.isnan(interval.low) else f" [{interval.low:.1f}, {interval.high:.1f}]"
    return f"{value:.2f}{inside}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:z.2f}"


def _stars(line: Line, comparison: Comparison, group: str) -> str:
    """Of the test against the joint fine-tune, else against the base."""
    # the joint fine-tune is what a merge must stand up to; to beat the base is expected
    against = comparison.joint or comparison.base
    found = next((d.stars for d in line.differences if d.reference == against and d.group == group), "")
    return f" {found}" if found else ""


def notes_of(comparison: Comparison) -> list[str]:
    """What the table's reader must know."""
    notes = []
    if comparison.by == "utterance":
        notes.append(
            "Intervals resample utterances, as there are fewer than 20 speakers: they tell how sure the rates are for "
            "these speakers, not for others."
        )
    else:
        notes.append(f"Intervals resample {comparison.clusters} speakers.")
    if any(line.differences for line in comparison.lines):
        against = comparison.joint or comparison.base
        notes.append(
            f"*, **, ***: the average differs from {against}'s, {' or '.join(comparison.tests)} with Holm's "
            "correction, p < .05, .01, .001, and no zero in the interval of the difference."
        )
    if any(line.recovery for line in comparison.lines):
        notes.append("Recovery: (system - base) / (specialist - base), over domains where the specialist surely gains.")
    if any(line.forgetting is not None for line in comparison.lines):
        notes.append("Forgetting: points lost to the base outside the in-domain columns, in the mean.")
    if any(line.overfits for line in comparison.lines):
        notes.append("†: gains at home, and loses elsewhere in the mean.")
    return [*notes, *(f"{note}." for note in comparison.notes)]


def differences_table(comparison: Comparison) -> Table | None:
    """Every test: points, bootstrap interval, p values; None where there was no reference to test against."""
    rows = []
    for line in comparison.lines:
        for d in line.differences:
            rows.append([
                line.label, d.reference, NAMES[d.group], f"{d.points:+z.2f}", _inside(d),
                d.test, *_matched(d), p_text(d.p_alone), f"{p_text(d.p)} {d.stars}".strip(), p_text(d.p_bootstrap),
            ])  # fmt: skip
    if not rows:
        return None
    # what is paired: stretches of errors, or rows that are right or wrong
    paired = "segments" if comparison.metric == ERROR_RATE.name else "rows"
    columns = ["system", "less", "over", "points", "95 %", "test", paired, "differ", "z", "p", "p (Holm)",
               "p (bootstrap)"]  # fmt: skip
    fewer = "fewer errors than" if comparison.best == 0 else "worse than"
    notes = [
        f"Of the averages over domains. Negative points: {fewer} the reference. p by the test that is named; Holm's "
        "over the systems of a reference; stars where the interval has no zero in it either."
    ]
    return Table(f"Differences between systems, {comparison.title}", columns, rows, notes)


def _inside(difference: Difference) -> str:
    low, high = difference.low, difference.high
    return "-" if math.isnan(low) else f"[{low:+z.1f}, {high:+z.1f}]"


def _matched(difference: Difference) -> list[str]:
    found = difference.matched
    return ["-"] * 3 if found is None else [f"{found.segments}", f"{found.differing}", f"{found.z:.2f}"]


def p_text(value: float) -> str:
    """A p value, which is never 0.

    >>> p_text(0.125), p_text(1e-9)
    ('0.125', '< .001')
    """
    return "-" if math.isnan(value) else "< .001" if value < 0.001 else f"{value:.3f}"


def plain(comparison: Comparison) -> JsonObject:
    """The comparison for JSON, without NaN."""

    def clean(value: object) -> object:
        if isinstance(value, dict):
            return {k: clean(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [clean(v) for v in value]
        # json would write NaN, which no other reader takes
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return {key: clean(value) for key, value in comparison.as_dict().items()}
