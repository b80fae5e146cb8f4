"""Systems side by side on the same recordings: averages, forgetting, recovery, overfitting, tests between them.

A cell is one value of a column (a domain). In-domain cells are those that a system, or what was merged into it, was
trained on (the base excepted); other-language cells are spoken in languages that no in-domain cell has; the rest is out
of domain.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence, Set

import numpy as np

from chorus.errors import MisfitError, nearest
from chorus.evaluate.comparison import GROUPS, Cell, Comparison, Group, Line
from chorus.evaluate.differences import add_differences
from chorus.evaluate.relations import relate
from chorus.evaluate.results import Evaluation
from chorus.evaluate.roles import SystemRole, learnt_cells, roles_of
from chorus.evaluate.scores import by_column, interval_of, macro, metric_of, unit_of, value_of
from chorus.evaluate.shared_rows import shared_rows
from chorus.models.languages import language_code
from chorus.tasks.protocol import Metric, Task
from chorus.tasks.scored import Scored

ORDER = ("base", "specialist", "joint", "", "merge")


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
    metric: str | None = None,
    tests: bool = True,
) -> Comparison:
    """Compare evaluations of the same recordings under one condition, by the first metric of their task or another.

    Roles come from the evaluations (a training or merge says what it is); `base`, `joint` and `specialists` ({label:
    domain}) say otherwise. `groups` puts cells into groups. Results over different utterances are refused, the
    difference named; `common` compares what all have. `tests=False` leaves out all tests, for tables of many systems.
    """
    roles = roles_of(evaluations, column, base=base, joint=joint, specialists=specialists)
    task = _one_task(evaluations)
    by_metric = metric_of(task, metric) if metric else task.metrics[0]
    # rates under two normalisers are rates of two texts
    names = {one.normaliser for one in evaluations}
    if len(names) > 1 and normaliser is None:
        raise MisfitError(f"results under different normalisers: {', '.join(sorted(names))}", "give --normaliser NAME")
    chosen = condition or evaluations[0].summary["conditions"][0]
    rows, notes = shared_rows(evaluations, chosen, normaliser, common=common)
    parts = by_column(rows[0], column)
    cells = _cells(parts, _learnt(evaluations, roles, column, parts), column, groups or {})
    lines = [
        _line(one, roles[one.label], own, cells, column, by_metric) for one, own in zip(evaluations, rows, strict=True)
    ]
    clusters, by = task.clusters(rows[0])
    notes += _lone(lines[0], by)
    comparison = Comparison(
        cells, lines, _named(roles, "base"), _named(roles, "joint"), chosen, normaliser or evaluations[0].normaliser,
        by, len(np.unique(clusters)), notes, by_metric.name, by_metric.title, by_metric.best,
    )  # fmt: skip
    by_label = dict(zip([e.label for e in evaluations], rows, strict=True))
    relate(comparison, by_label, column, task, by_metric)
    if tests:
        add_differences(comparison, by_label, column, task, by_metric)
    # a stable sort: within a role systems stand as they were named
    comparison.lines.sort(key=lambda line: ORDER.index(line.role))
    return comparison


def _one_task(evaluations: Sequence[Evaluation]) -> Task:
    tasks = {one.task.name: one.task for one in evaluations}
    if len(tasks) > 1:
        raise MisfitError(f"results of different tasks: {', '.join(sorted(tasks))}", "compare those of one task")
    return evaluations[0].task


def _named(roles: Mapping[str, SystemRole], name: str) -> str:
    """The first system of a role; empty where there is none."""
    return next((label for label, role in roles.items() if role.name == name), "")


def _learnt(
    evaluations: Sequence[Evaluation], roles: Mapping[str, SystemRole], column: str, parts: Collection[str]
) -> set[str]:
    """The cells that some system learnt from, as specialists' homes and the provenance of all but the base tell."""
    found = {role.home for role in roles.values() if role.name == "specialist" and role.home}
    # a base may have been trained as well: it is what the others began with, and what they may forget
    for one in evaluations:
        if roles[one.label].name != "base":
            found |= learnt_cells(one.summary["system"]["trained_on"], column, parts)
    return found


def _cells(
    parts: Mapping[str, Sequence[Scored]], learnt: Set[str], column: str, given: Mapping[str, Group]
) -> list[Cell]:
    for name in (*given, *learnt):
        if name not in parts:
            raise MisfitError(f'no utterance has {column} "{name}"{nearest(name, parts)}', "check --by and the groups")
    # where nobody says what it was trained on every cell is what merging is for, unless --in-domain and the like do
    inside = {n for n in parts if given.get(n, "in-domain" if n in learnt or not learnt else "") == "in-domain"}
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


def _lone(line: Line, by: str) -> list[str]:
    """A note on the cells of which nothing can be resampled: an average over them has no interval either."""
    names = [name for name, interval in line.intervals.items() if interval.clusters < 2]
    return [f"{', '.join(names)}: of one {by}, so without an interval, as is what it is averaged into"] if names else []


def _line(
    one: Evaluation, role: SystemRole, rows: Sequence[Scored], cells: Sequence[Cell], column: str, metric: Metric
) -> Line:  # fmt: skip
    parts, task = by_column(rows, column), one.task
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
