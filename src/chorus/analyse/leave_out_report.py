"""The table, picture and page of leave one out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chorus.analyse.interference_report import MARK, told
from chorus.analyse.leave_out import LeaveOneOut
from chorus.analyse.page import AnalysisReport
from chorus.report.grids import squares
from chorus.report.html import Picture
from chorus.tables import Table


def leave_out_report(found: LeaveOneOut, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    facts = [
        ("recipe", found.recipe), ("method", found.method), ("models", ", ".join(found.models)),
        ("metrics", ", ".join(dict.fromkeys(row.metric for row in found.rows))),
        ("rows", ", ".join(f"{row.name} ({row.utterances})" for row in found.rows)),
        ("intervals", "paired bootstrap over speakers, or over utterances where there are few"),
    ]  # fmt: skip
    return AnalysisReport(
        "leave-one-out", f"{found.recipe} without each of its models", [*_lead(found), *found.notes],
        [left_out_table(found)], found.as_dict(), lambda place: _draw(found, place), facts, command,
    )  # fmt: skip


def _lead(found: LeaveOneOut) -> list[str]:
    lines = []
    for model in found.models:
        pays = [row.name for row in found.rows if (one := found.effects[model][row.name]) and one.surely < 0]
        gains = [row.name for row in found.rows if (one := found.effects[model][row.name]) and one.surely > 0]
        said = [f"{', '.join(pays)} would lose"] if pays else []
        said += [f"{', '.join(gains)} would gain"] if gains else []
        lines.append(f"Without {model} {' and '.join(said) or 'nothing changes'}, beyond chance.")
    return lines


def left_out_table(found: LeaveOneOut) -> Table:
    """A row a row of the test and their mean, a column a model that is left out."""
    rows = [
        [row.name, "-" if row.value is None else f"{row.value:.1f}",
         *(told(found.effects[model][row.name]) for model in found.models)]
        for row in found.rows
    ]  # fmt: skip
    # of one row the mean is itself
    if len(rows) > 1:
        rows.append(["mean", "", *(told(found.means[model]) for model in found.models)])
    notes = [
        "Points of the merge without the model against the merge of all, more is better, with 95 % intervals; below 0 "
        f"is what the model was good for. {MARK}: no zero in the interval.",
        *found.notes,
    ]
    columns = ["row", found.recipe, *(f"without {model}" for model in found.models)]
    return Table("Leave one out", columns, rows, notes)


def _draw(found: LeaveOneOut, place: Path) -> list[Picture]:
    effects = [[found.effects[model][row.name] for model in found.models] for row in found.rows]
    squares(
        [[one.points if one else None for one in row] for row in effects], [row.name for row in found.rows],
        [f"without {model}" for model in found.models], place / "left-out", what="points against the merge of all",
        marks=[[MARK if one and one.surely else "" for one in row] for row in effects], form="{:+z.1f}",
    )  # fmt: skip
    text = f"Red: what the model was good for; blue: what it cost. {MARK}: no chance."
    return [Picture("Leave one out", text, place / "left-out.svg")]
