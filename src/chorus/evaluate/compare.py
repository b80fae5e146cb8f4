"""Systems side by side on the same recordings: averages, forgetting, recovery, overfitting, tests between them.

A cell is one value of a column (a domain). In-domain cells are those that a specialist was trained on; other-language
cells are spoken in languages that no in-domain cell has; the rest is out of domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

from chorus.errors import DataError, UsageError, nearest
from chorus.evaluate.bootstrap import Interval, paired_bootstrap
from chorus.evaluate.mapsswe import Matched, holm, mapsswe, matched
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import arrays, by_column, clustered, error_rate, interval_of, macro, unit_of
from chorus.tasks.scored import Scored

Group = Literal["in-domain", "out-of-domain", "other-language"]
GROUPS: tuple[Group, ...] = ("in-domain", "out-of-domain", "other-language")
ORDER = ("base", "specialist", "joint", "", "merge")
SMALL = 1e-8  # a specialist that changed less has nothing to recover
SHOWN = 3


@dataclass(frozen=True)
class Cell:
    """A domain: its group and what is in it."""

    name: str
    group: Group
    utterances: int
    unit: str


@dataclass(frozen=True)
class Difference:
    """A system less a reference over a group's utterances, pooled; p by MAPSSWE, Holm's over the table's systems."""

    reference: str
    group: str
    points: float
    low: float
    high: float
    p_bootstrap: float
    mapsswe: Matched
    p: float = 1.0

    @property
    def mark(self) -> str:
        """Stars for p below .05, .01, .001."""
        return "*" * sum(self.p < limit for limit in (0.05, 0.01, 0.001))


@dataclass
class Line:
    """One system. Rates in percent; `recovery` by domain: 1 where a merge hears as well as the specialist."""

    label: str
    role: str
    home: str  # the domain of a specialist
    parameters: dict[str, Any]
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

    @property
    def groups(self) -> list[Group]:
        """Those that have cells, in order."""
        return [g for g in GROUPS if any(c.group == g for c in self.cells)]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = asdict(self)
        for line, told in zip(self.lines, found["lines"], strict=True):
            told |= {"recovery_mean": line.recovery_mean, "recovery_worst": line.recovery_worst}
        return found


def compare(
    evaluations: Sequence[Evaluation],
    *,
    column: str = "domain",
    condition: str | None = None,
    base: str | None = None,
    joint: str | None = None,
    specialists: Mapping[str, str] | None = None,
    groups: Mapping[str, Group] | None = None,
    common: bool = False,
    normaliser: str | None = None,
    tests: bool = True,
) -> Comparison:
    """Compare evaluations of the same recordings under one condition.

    Roles come from the evaluations (a training or merge says what it is); `base`, `joint` and `specialists` ({label:
    domain}) say otherwise. `groups` puts cells into groups. Results over different utterances are refused, the
    difference named; `common` compares what all have. `tests=False` leaves out MAPSSWE, for tables of many systems.
    """
    roles = _roles(evaluations, base, joint, specialists or {}, column)
    names = {one.normaliser for one in evaluations}
    if len(names) > 1 and normaliser is None:
        raise DataError(f"results under different normalisers: {', '.join(sorted(names))}", "give --normaliser NAME")
    chosen = condition or evaluations[0].summary["conditions"][0]
    rows, notes = _aligned(evaluations, chosen, normaliser, common=common)
    cells = _cells(rows[0], roles, column, groups or {})
    lines = [_line(one, roles[one.label], own, cells, column) for one, own in zip(evaluations, rows, strict=True)]
    base_name = next((label for label, (role, _) in roles.items() if role == "base"), "")
    joint_name = next((label for label, (role, _) in roles.items() if role == "joint"), "")
    clusters, by = clustered(rows[0])
    made = Comparison(
        cells, lines, base_name, joint_name, chosen, normaliser or evaluations[0].normaliser, by,
        len(np.unique(clusters)), notes,
    )  # fmt: skip
    _relate(made)
    if tests:
        _test(made, dict(zip([e.label for e in evaluations], rows, strict=True)), column)
    made.lines.sort(key=lambda line: ORDER.index(line.role))
    return made


def _roles(
    evaluations: Sequence[Evaluation], base: str | None, joint: str | None, specialists: Mapping[str, str], column: str
) -> dict[str, tuple[str, str]]:
    """label -> (role, domain of a specialist)."""
    labels = [one.label for one in evaluations]
    twice = {label for label in labels if labels.count(label) > 1}
    if twice:
        raise DataError(f"two results are called {sorted(twice)[0]}", "evaluate one again under NAME=MODEL")
    for label in filter(None, (base, joint, *specialists)):
        if label not in labels:
            raise UsageError(f'no result is called "{label}"{nearest(label, labels)}')
    found = {}
    values = {str(row.get(column, "")) for row in evaluations[0].rows}
    for one in evaluations:
        system = one.summary["system"]
        found[one.label] = (str(system["role"]), _home(system["home"], column, values))
    found |= {label: ("specialist", domain) for label, domain in specialists.items()}
    if joint:
        found[joint] = ("joint", "")
    if base:
        found[base] = ("base", "")
    elif not any(role == "base" for role, _ in found.values()):
        plain = [label for label, (role, _) in found.items() if not role]
        if len(plain) == 1:
            found[plain[0]] = ("base", "")
    return found


def _home(named: Mapping[str, Any], column: str, values: set[str]) -> str:
    """The cell that a specialist was trained on: by the column, else by the one value that is a cell's name."""
    listed = {k: v[0] if isinstance(v, list) and v else v for k, v in named.items()}
    if column in listed:
        return str(listed[column])
    known = [str(v) for v in listed.values() if str(v) in values]
    return known[0] if len(known) == 1 else ""


def _aligned(
    evaluations: Sequence[Evaluation], condition: str, normaliser: str | None, *, common: bool
) -> tuple[list[list[Scored]], list[str]]:
    """Each system's rows in the same order of the same utterances."""
    from chorus.tasks.scored import score_texts

    tables: list[dict[str, Scored]] = []
    for one in evaluations:
        if condition not in one.summary["conditions"]:
            raise DataError(f"{one.label} was not heard under {condition}", "evaluate it with the same --condition")
        again = normaliser is not None and normaliser != one.normaliser
        scored = score_texts(one.rows, normaliser or "", one.summary.get("forced_unit")) if again else one.scored
        tables.append({row.name: row for row in scored if row.condition == condition})
    first, notes = evaluations[0].label, []
    shared = set.intersection(*(set(t) for t in tables))
    for one, table in zip(evaluations, tables, strict=True):
        told = _difference(first, tables[0], one.label, table)
        if told and not common:
            raise DataError(told, "evaluate both on the same recordings, or compare what they share: --common")
        if told:
            notes.append(told)
    if not shared:
        raise DataError("the results share no utterance", "evaluate on the same recordings")
    order = [name for name in tables[0] if name in shared]
    order = [n for n in order if len({table[n].raw_reference for table in tables}) == 1] if common else order
    return [[table[name] for name in order] for table in tables], notes


def _difference(a: str, first: Mapping[str, Scored], b: str, second: Mapping[str, Scored]) -> str:
    """What two results were not asked alike; empty where they were."""
    for one, own, other, theirs in ((a, first, b, second), (b, second, a, first)):
        missing = [name for name in own if name not in theirs]
        if missing:
            more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
            return f"different recordings: {other} lacks {', '.join(missing[:SHOWN])}{more}, which {one} has"
    changed = [n for n in first if first[n].raw_reference != second[n].raw_reference]
    if changed:
        return f"different references: {changed[0]} and {len(changed) - 1} more differ between {a} and {b}"
    return ""


def _cells(
    rows: Sequence[Scored], roles: Mapping[str, tuple[str, str]], column: str, given: Mapping[str, Group]
) -> list[Cell]:
    parts = by_column(rows, column)
    homes = {home for role, home in roles.values() if role == "specialist" and home}
    for name in (*given, *homes):
        if name not in parts:
            raise DataError(f'no utterance has {column} "{name}"{nearest(name, parts)}', "check --by and the groups")
    inside = {n for n in parts if given.get(n, "in-domain" if n in homes or not homes else "") == "in-domain"}
    languages = {row.language for name in inside for row in parts[name]}
    cells = []
    for name, part in parts.items():
        foreign = bool(inside) and not {row.language for row in part} & languages
        group: Group = given.get(name) or (
            "in-domain" if name in inside else "other-language" if foreign else "out-of-domain"
        )
        cells.append(Cell(name, group, len(part), unit_of(part)))
    return sorted(cells, key=lambda cell: GROUPS.index(cell.group))


def _line(one: Evaluation, role: tuple[str, str], rows: Sequence[Scored], cells: Sequence[Cell], column: str) -> Line:
    parts = by_column(rows, column)
    line = Line(
        one.label, role[0], role[1], dict(one.summary["system"]["parameters"]),
        {c.name: error_rate(parts[c.name]) for c in cells}, {c.name: interval_of(parts[c.name]) for c in cells},
    )  # fmt: skip
    for group in (*GROUPS, "all"):
        chosen = {c.name: parts[c.name] for c in cells if group in (c.group, "all")}
        if chosen:
            line.averages[group], line.average_intervals[group] = macro(chosen)
    return line


def _relate(made: Comparison) -> None:
    """Forgetting, recovery and overfitting, which need a base and specialists."""
    base = next((line for line in made.lines if line.label == made.base), None)
    if base is None:
        made.notes.append("no result is the base: --base LABEL gives forgetting and recovery")
        return
    outside = [c.name for c in made.cells if c.group != "in-domain"]
    gains = {
        line.home: line.rates[line.home] - base.rates[line.home]
        for line in made.lines
        if line.role == "specialist" and line.home in base.rates
    }
    for line in made.lines:
        if line is base:
            continue
        if outside:
            line.forgetting = float(np.mean([line.rates[c] - base.rates[c] for c in outside]))
        line.recovery = {
            home: (line.rates[home] - base.rates[home]) / gain for home, gain in gains.items() if abs(gain) > SMALL
        }
        if line.role == "specialist" and line.home in gains:
            away = [line.rates[c.name] - base.rates[c.name] for c in made.cells if c.name != line.home]
            line.overfits = gains[line.home] < 0 and bool(away) and float(np.mean(away)) > 0
    worse = [home for home, gain in gains.items() if gain > 0]
    if worse:
        made.notes.append(f"the specialist of {', '.join(worse)} hears its own domain worse than the base")


def _test(made: Comparison, rows: Mapping[str, Sequence[Scored]], column: str) -> None:
    """Every system against the base and against the joint fine-tune, group by group."""
    for reference in filter(None, (made.base, made.joint)):
        others = [line for line in made.lines if line.label != reference]
        for group in made.groups:
            names = {c.name for c in made.cells if c.group == group}
            found = [_tested(rows[line.label], rows[reference], names, column, reference, group) for line in others]
            adjusted = holm([one.mapsswe.p for one in found])
            for line, one, p in zip(others, found, adjusted, strict=True):
                line.differences.append(Difference(**{**vars(one), "p": p}))


def _tested(
    a: Sequence[Scored], b: Sequence[Scored], names: set[str], column: str, reference: str, group: str
) -> Difference:
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if getattr(x, column) in names]
    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    clusters, _ = clustered(first)
    errors_a, lengths = arrays(first)
    errors_b, _ = arrays(second)
    low, high, p = paired_bootstrap(errors_a, errors_b, lengths, clusters)
    return Difference(reference, group, error_rate(first) - error_rate(second), low, high, p, _matched(pairs))


def _matched(pairs: Sequence[tuple[Scored, Scored]]) -> Matched:
    """MAPSSWE; of several seeds an utterance's errors are summed over them, and each utterance is one segment."""
    if len({x.utterance for x, _ in pairs}) == len(pairs):
        return mapsswe((x.alignment, y.alignment) for x, y in pairs)
    sums: dict[str, list[int]] = {}
    for x, y in pairs:
        both = sums.setdefault(x.utterance, [0, 0])
        both[0] += x.counts.errors
        both[1] += y.counts.errors
    return matched([a - b for a, b in sums.values() if a or b])
