"""The tables, pictures and page of task overfitting over rank and merge weight."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from chorus.analyse.interference_report import MARK, UNSURE, row_name, told
from chorus.analyse.overfitting import GridPoint, OverfittingAnalysis
from chorus.analyse.page import AnalysisReport
from chorus.plain import exact
from chorus.report.grids import Marked, squares, traces
from chorus.report.html import Picture
from chorus.tables import Table
from chorus.transcribe.systems import folder_of

KEPT = 0.9  # of the gain at home: what a trade keeps, for the line on top


def overfitting_report(found: OverfittingAnalysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    tables = [one for model in found.models for one in (grid_table(found, model), rows_table(found, model))]
    homes = (f"{model} ({', '.join(rows)})" for model, rows in found.homes.items())
    facts = [
        ("base", found.base), ("models, and where they are at home", ", ".join(homes)),
        ("metrics", ", ".join(dict.fromkeys(row.metric for row in found.rows))),
        ("rows", ", ".join(f"{row.name} ({row.utterances})" for row in found.rows)),
        ("intervals", "paired bootstrap over speakers, or over utterances where there are few"),
    ]  # fmt: skip
    return AnalysisReport(
        "overfitting", f"Task overfitting of {', '.join(found.models)} over rank and weight",
        [*(line for model in found.models for line in lead_of(found.of(model))), *found.notes], tables,
        found.as_dict(), lambda place: draw(found, place), facts, command,
    )  # fmt: skip


def lead_of(points: Sequence[GridPoint]) -> list[str]:
    """What a model's grid says, in sentences."""
    model = points[0].model
    over = [one for one in points if one.outgoing.overfits]
    surely = sum(one.outgoing.surely for one in over)
    told_surely = f", at {surely} of them beyond chance" if over else ""
    lines = [
        f"{model} gains at home and loses elsewhere at {len(over)} of {len(points)} points of the grid{told_surely}."
    ]
    # a point is recommended for what it keeps, and not for doing nothing
    kept = [one for one in points if one.inside is not None and one.inside >= KEPT and _elsewhere(one) is not None]
    if kept:
        best = max(kept, key=lambda one: (_elsewhere(one) or 0.0, one.inside or 0.0))
        lines.append(
            f"Of the points that keep {KEPT:g} of its gain at home, {_where(best)} costs least elsewhere "
            f"({told(best.outgoing.others.mean)} points in the mean); found on these very rows, not on others."
        )
    return lines


def _elsewhere(one: GridPoint) -> float | None:
    mean = one.outgoing.others.mean
    return None if mean is None else mean.points


def _where(one: GridPoint) -> str:
    return f"{'the whole' if one.rank is None else f'rank {one.called}'} at {exact(one.weight)}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:+z.2f}"


def grid_table(found: OverfittingAnalysis, model: str) -> Table:
    """A row a point: what it keeps at home, what it costs elsewhere."""
    rows = []
    for one in found.of(model):
        others = one.outgoing.others
        worst = "-" if others.share_worst is None else f"{others.share_worst:+z.2f} ({others.share_worst_in})"
        verdict = f"yes{MARK}" if one.outgoing.surely else "yes" if one.outgoing.overfits else "no"
        rows.append([
            one.called, exact(one.weight), f"{100 * one.energy:.1f}", told(one.outgoing.own), _number(one.inside),
            told(others.mean), _number(others.share_mean), worst, verdict,
        ])  # fmt: skip
    columns = [
        "rank", "weight", "energy %", "at home", "in-task D", "elsewhere, mean", "off-task D, mean",
        "off-task D, worst", "overfits",
    ]  # fmt: skip
    notes = [
        "Points against the base with 95 % intervals, more is better; D: as a share of what the row's own model gains. "
        f"{MARK}: no zero in the interval. D is of rows whose own model surely gains.",
        "Energy: of the squared norm of the model's matrices, how much the rank keeps.",
        *(found.notes if model == found.models[0] else []),
    ]
    return Table(f"{model}: at home in {', '.join(found.homes[model])}", columns, rows, notes)


def rows_table(found: OverfittingAnalysis, model: str) -> Table:
    """A row a point, a column a row of the test: points against the base."""
    names = [row_name(row) for row in found.rows]
    rows = [
        [one.called, exact(one.weight), *(told(one.effects[row.name]) for row in found.rows)] for one in found.of(model)
    ]
    home = found.homes[model]
    best = {(i, j + 2) for i in range(len(rows)) for j, row in enumerate(found.rows) if row.name in home}
    notes = ["Bold: at home."]
    if any(not row.sure for row in found.rows):
        notes.append(f"{UNSURE}: no model that is at home there surely gains, so that there is no D.")
    return Table(f"{model}: points by row", ["rank", "weight", *names], rows, notes, best)


Measured = Callable[[GridPoint], float | None]


def draw(found: OverfittingAnalysis, place: Path) -> list[Picture]:
    """All plots below `place`."""
    pictures = []
    for model in found.models:
        points, stem = found.of(model), place / folder_of(model)
        drawn: list[tuple[str, str, str, Measured]] = [
            ("inside", "in-task recovery", f"1: all that {model} gains at home by itself.", lambda one: one.inside),
            ("outside", "off-task recovery, mean", "Below 0: what the rank and weight cost the other rows.",
             lambda one: one.outgoing.others.share_mean),
            ("worst", "off-task recovery, worst row", "The row that pays most.",
             lambda one: one.outgoing.others.share_worst),
        ]  # fmt: skip
        if len(found.rows) - len(found.homes[model]) < 2:
            del drawn[-1]  # of one row the worst is the mean
        shares = [one for one in drawn if any(one[3](point) is not None for point in points)]
        if len(shares) < len(drawn):
            # where nobody surely gains there is no share, and points must do
            shares += [
                ("inside-points", "points gained at home", "Against the base.", _at_home),
                ("outside-points", "points gained elsewhere, mean", "Against the base.", _elsewhere),
            ]
        for name, what, text, measure in shares:
            # recoveries all on one scale, so that two models' squares can be compared
            limit = None if name.endswith("points") else 1.0
            _squares(points, stem.with_name(f"{stem.name}-{name}"), what, measure, limit)
            pictures.append(Picture(f"{model}: {what}", text, place / f"{stem.name}-{name}.svg"))
        lines = _lines(points)
        if lines:
            traces(lines, stem.with_name(f"{stem.name}-trade"), x="points gained at home", y="points elsewhere, mean")
            text = (
                "A line a rank, a dot a weight. Right and up is better; right of zero and "
                "below it the model overfits its task."
            )
            pictures.append(Picture(f"{model}: at home against elsewhere", text, place / f"{stem.name}-trade.svg"))
    return pictures


def _at_home(one: GridPoint) -> float | None:
    return None if one.outgoing.own is None else one.outgoing.own.points


def _squares(points: Sequence[GridPoint], stem: Path, what: str, measure: Measured, limit: float | None) -> None:
    ranks = list(dict.fromkeys(one.called for one in points))
    weights = sorted({one.weight for one in points})
    by = {(one.called, one.weight): measure(one) for one in points}
    squares(
        [[by.get((rank, weight)) for weight in weights] for rank in ranks],
        [f"rank {rank}" if rank != "whole" else rank for rank in ranks], [f"× {exact(weight)}" for weight in weights],
        stem, what=what, form="{:+z.2f}", limit=limit,
    )  # fmt: skip


def _lines(points: Sequence[GridPoint]) -> dict[str, list[Marked]]:
    found: dict[str, list[Marked]] = {}
    for one in points:
        x, y = _at_home(one), _elsewhere(one)
        if x is not None and y is not None:
            found.setdefault(one.called, []).append(Marked(x, y, exact(one.weight)))
    return found
