"""Systems side by side on the same recordings: averages, forgetting, recovery, overfitting, tests between them.

A cell is one value of a column (a domain). In-domain cells are those that a specialist was trained on; other-language
cells are spoken in languages that no in-domain cell has; the rest is out of domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from chorus.errors import DataError, nearest
from chorus.evaluate.comparison import GROUPS, Cell, Comparison, Group, Line
from chorus.evaluate.differences import add_differences
from chorus.evaluate.results import Evaluation
from chorus.evaluate.roles import SystemRole, roles_of
from chorus.evaluate.scores import by_column, interval_of, macro, unit_of, value_of
from chorus.evaluate.shared_rows import shared_rows
from chorus.models.languages import language_code
from chorus.tasks.protocol import Task
from chorus.tasks.scored import Scored

ORDER = ("base", "specialist", "joint", "", "merge")
SMALL = 1e-8  # a specialist that changed less has nothing to recover


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
    """Compare evaluations of the same recordings under one condition, by the first metric of their task.

    Roles come from the evaluations (a training or merge says what it is); `base`, `joint` and `specialists` ({label:
    domain}) say otherwise. `groups` puts cells into groups. Results over different utterances are refused, the
    difference named; `common` compares what all have. `tests=False` leaves out MAPSSWE, for tables of many systems.
    """
    roles = roles_of(evaluations, column, base=base, joint=joint, specialists=specialists)
    task = _one_task(evaluations)
    # rates under two normalisers are rates of two texts
    names = {one.normaliser for one in evaluations}
    if len(names) > 1 and normaliser is None:
        raise DataError(f"results under different normalisers: {', '.join(sorted(names))}", "give --normaliser NAME")
    chosen = condition or evaluations[0].summary["conditions"][0]
    rows, notes = shared_rows(evaluations, chosen, normaliser, common=common)
    cells = _cells(rows[0], roles, column, groups or {})
    lines = [_line(one, roles[one.label], own, cells, column) for one, own in zip(evaluations, rows, strict=True)]
    clusters, by = task.clusters(rows[0])
    metric = task.metrics[0]
    comparison = Comparison(
        cells, lines, _named(roles, "base"), _named(roles, "joint"), chosen, normaliser or evaluations[0].normaliser,
        by, len(np.unique(clusters)), notes, metric.name, metric.title, metric.best,
    )  # fmt: skip
    _relate(comparison)
    if tests:
        add_differences(comparison, dict(zip([e.label for e in evaluations], rows, strict=True)), column, task)
    # a stable sort: within a role systems stand as they were named
    comparison.lines.sort(key=lambda line: ORDER.index(line.role))
    return comparison


def _one_task(evaluations: Sequence[Evaluation]) -> Task:
    tasks = {one.task.name: one.task for one in evaluations}
    if len(tasks) > 1:
        raise DataError(f"results of different tasks: {', '.join(sorted(tasks))}", "compare those of one task")
    return evaluations[0].task


def _named(roles: Mapping[str, SystemRole], name: str) -> str:
    """The first system of a role; empty where there is none."""
    return next((label for label, role in roles.items() if role.name == name), "")


def _cells(
    rows: Sequence[Scored], roles: Mapping[str, SystemRole], column: str, given: Mapping[str, Group]
) -> list[Cell]:
    parts = by_column(rows, column)
    homes = {role.home for role in roles.values() if role.name == "specialist" and role.home}
    for name in (*given, *homes):
        if name not in parts:
            raise DataError(f'no utterance has {column} "{name}"{nearest(name, parts)}', "check --by and the groups")
    # without specialists every cell is what merging is for, unless --in-domain and the like say otherwise
    inside = {n for n in parts if given.get(n, "in-domain" if n in homes or not homes else "") == "in-domain"}
    languages = {language_code(row.language) for name in inside for row in parts[name]}
    cells = []
    for name, part in parts.items():
        # by language, not by name: pt-BR and pt are no other languages
        foreign = bool(inside) and not {language_code(row.language) for row in part} & languages
        group: Group = given.get(name) or (
            "in-domain" if name in inside else "other-language" if foreign else "out-of-domain"
        )
        cells.append(Cell(name, group, len(part), unit_of(part)))
    return sorted(cells, key=lambda cell: GROUPS.index(cell.group))


def _line(one: Evaluation, role: SystemRole, rows: Sequence[Scored], cells: Sequence[Cell], column: str) -> Line:
    parts, task, metric = by_column(rows, column), one.task, one.task.metrics[0]
    line = Line(
        one.label, role.name, role.home, dict(one.summary["system"]["parameters"]),
        {c.name: value_of(parts[c.name], metric) for c in cells},
        {c.name: interval_of(parts[c.name], task, metric) for c in cells},
    )  # fmt: skip
    for group in (*GROUPS, "all"):
        chosen = {c.name: parts[c.name] for c in cells if group in (c.group, "all")}
        if chosen:
            line.averages[group], line.average_intervals[group] = macro(chosen, task, metric)
    return line


def _relate(comparison: Comparison) -> None:
    """Forgetting, recovery and overfitting, which need a base and specialists."""
    base = next((line for line in comparison.lines if line.label == comparison.base), None)
    if base is None:
        comparison.notes.append("no result is the base: --base LABEL gives forgetting and recovery")
        return
    outside = [c.name for c in comparison.cells if c.group != "in-domain"]
    changes = {
        line.home: line.rates[line.home] - base.rates[line.home]
        for line in comparison.lines
        if line.role == "specialist" and line.home in base.rates
    }
    for line in comparison.lines:
        if line is base:
            continue
        lost = {c.name: comparison.sign * (line.rates[c.name] - base.rates[c.name]) for c in comparison.cells}
        if outside:
            line.forgetting = float(np.mean([lost[name] for name in outside]))
        line.recovery = {
            home: (line.rates[home] - base.rates[home]) / change
            for home, change in changes.items()
            # a share of nothing would be a number without a meaning, and of whatever size
            if abs(change) > SMALL
        }
        if line.role == "specialist" and line.home in changes:
            away = [points for name, points in lost.items() if name != line.home]
            # the mean: one domain that is lost a little is no overfitting yet
            line.overfits = lost[line.home] < 0 and bool(away) and float(np.mean(away)) > 0
    worse = [home for home, change in changes.items() if comparison.sign * change > 0]
    if worse:
        comparison.notes.append(f"the specialist of {', '.join(worse)} is worse in its own domain than the base")
