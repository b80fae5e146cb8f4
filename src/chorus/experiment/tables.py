"""The tables of an experiment, from its results."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chorus.analyse.interference_report import recovery_table
from chorus.analyse.interference_report import tables_of as interference_tables
from chorus.analyse.overfitting_report import grid_table, rows_table
from chorus.checkpoints.writer import write_text
from chorus.evaluate.tables import NAMES, differences_table, rates_table
from chorus.experiment.results import CurveResult, Estimate, Results, TaskResult
from chorus.tables import Format, Table

SUFFIXES: dict[str, Format] = {".md": "markdown", ".csv": "csv", ".tex": "latex"}
WORDS = 4  # of a title that make a file's name


def tables_of(results: Results) -> list[Table]:
    """All of them: recovery over tasks where there are several, the rates first else."""
    several, gains = len(results.tasks) > 1, results.gains
    recovered = recovery_table(gains)
    found: list[Table] = []
    for name, task in results.tasks.items():
        # a table's title makes its file's name: of several tasks each has its task in it
        found += [replace(t, title=f"{name}: {t.title}") if several else t for t in _of_task(results, task)]
    if several:
        # what others recover is the last of them
        found = [*([recovered] if recovered else []), *interference_tables(gains)[:4], *found]
    elif recovered:
        found.insert(1, recovered)
    if grids := results.grids:
        tables = [table for model in grids.models for table in (grid_table(grids, model), rows_table(grids, model))]
        found += [replace(table, title=f"Over rank and weight, {table.title}") for table in tables]
    return [*found, selection_table(results), ranks_table(results)]


def first_tables(results: Results) -> list[Table]:
    """What is shown on the screen: the rates; of several tasks what is recovered, and the rates of each."""
    rates = [
        replace(table, title=f"{name}: {table.title}") if len(results.tasks) > 1 else table
        for name, task in results.tasks.items() for table in [rates_table(task.compared)]
    ]  # fmt: skip
    recovered = recovery_table(results.gains) if len(results.tasks) > 1 else None
    return [*([recovered] if recovered else []), *rates]


def _of_task(results: Results, task: TaskResult) -> list[Table]:
    compared = task.compared
    differences = differences_table(compared)
    return [
        rates_table(compared),
        *([conditions_table(results.conditions, task)] if len(results.conditions) > 1 else []),
        seeds_table(results.seeds, task),
        *(curve_table(name, curve) for name, curve in task.curves.items()),
        *([differences] if differences else []),
    ]


def write_tables(tables: Sequence[Table], place: Path) -> None:
    """Each as Markdown, CSV and LaTeX, numbered; an earlier run's go."""
    place.mkdir(parents=True, exist_ok=True)
    for suffix in SUFFIXES:
        # numbers move when a table is added: the old files would stand beside the new under other names
        for old in place.glob(f"[0-9][0-9]-*{suffix}"):
            old.unlink()
    for number, one in enumerate(tables, 1):
        words = "".join(c if c.isalnum() else " " for c in one.title.lower()).split()[:WORDS]
        for suffix, form in SUFFIXES.items():
            write_text(place / f"{number:02d}-{'-'.join(words)}{suffix}", one.render(form))


def conditions_table(conditions: Sequence[str], task: TaskResult) -> Table:
    """Each system's in-domain average under each condition."""
    first = task.by_condition[conditions[0]]
    rows = [[label, *(_cell(task.by_condition[c][label]) for c in conditions)] for label in first]
    return Table("In-domain average under conditions", ["system", *conditions], rows)


def _cell(estimate: Estimate) -> str:
    if math.isnan(estimate.value):
        return "-"
    return f"{estimate.value:.2f} [{estimate.low:.1f}, {estimate.high:.1f}]"


def seeds_table(seeds: Sequence[int], task: TaskResult) -> Table:
    """How far seeds move each system's averages."""
    kinds = next(iter(task.by_seed.values()))
    first = next(iter(kinds))
    rows = []
    for label, groups in task.by_seed.items():
        cells = [
            f"{one.mean:.2f}" + (f" ± {one.deviation:.2f}" if one.deviation is not None else "")
            for one in groups.values()
        ]
        rows.append([label, *cells, *(f"{value:.2f}" for value in groups[first].each.values())])
    columns = ["system", *(f"{NAMES[g]} average" for g in kinds), *(f"{first}, seed {s}" for s in seeds)]
    return Table("Each seed by itself", columns, rows, ["Mean ± standard deviation over seeds."])


def selection_table(results: Results) -> Table:
    """What was chosen of each method, and out of how many settings."""
    rows = [
        [one.name, ", ".join(f"{k} {v}" for k, v in one.parameters.items()) or "no parameters", str(one.of),
         f"{one.dev:.2f}"]
        for one in results.selection
    ]  # fmt: skip
    best = {(i, 3) for i, one in enumerate(results.selection) if one.name == results.best}
    notes = ["The setting with the best mean over the domains' dev rows and all seeds; of equals the first."]
    columns = ["method", "setting", "of", f"{results.chosen_by} on dev"]
    return Table("What was chosen on dev", columns, rows, notes, best)


def curve_table(name: str, curve: CurveResult) -> Table:
    """A method's averages at each value of one parameter."""
    title = f"{name} over {curve.parameter}"
    kinds = list(curve.points[0].averages)
    rows = [[point.label, *(_cell(point.averages[g]) for g in kinds)] for point in curve.points]
    note = "On test, after the selection; nothing is chosen by it."
    return Table(title, [title, *(f"{NAMES[g]} average" for g in kinds)], rows, [note])


def ranks_table(results: Results) -> Table:
    """How many directions each delta to the base uses."""
    rows = [
        [label, f"{one.share * 100:.1f} %", *(f"{v:.3g}" for v in (one.effective, one.stable, one.norm))]
        for label, one in results.effective_ranks.items()
    ]
    columns = ["delta of", "effective rank of full", "effective rank", "stable rank", "Frobenius norm"]
    notes = [
        "Medians over the matrices that subspace methods decompose. Effective rank: exp of the entropy of s / sum s."
    ]
    return Table("Ranks of the deltas to the base", columns, rows, notes)
