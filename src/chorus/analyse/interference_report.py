"""The tables, plots and page of an interference matrix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chorus.analyse.interference_facts import Effect, Interference, InterferenceRow, Summed
from chorus.analyse.page import AnalysisReport
from chorus.report.grids import Scattered, scatter, squares
from chorus.report.html import Picture
from chorus.tables import Table

SMALL = 5  # pairs, below which a correlation says nothing
UNSURE = "†"
MARK = "*"


def tables_of(found: Interference) -> list[Table]:
    """The matrix in points and in shares, what goes out, what comes in, what other systems recover."""
    recovery = recovery_table(found)
    more = [one for one in (recovery, unseen_table(found), correlation_table(found)) if one is not None]
    return [_points(found), _shares(found), _outgoing(found), _incoming(found), *more]


def metrics_of(found: Interference) -> str:
    """What the points are of."""
    return ", ".join(dict.fromkeys(row.metric for row in found.rows))


def row_name(row: InterferenceRow) -> str:
    """With a dagger where nothing is shared."""
    return row.name if row.sure else f"{row.name} {UNSURE}"


def _homes(found: Interference) -> set[tuple[int, int]]:
    """(row, column) of the cells in which a specialist is at home."""
    homes = {one.specialist: one.homes for one in found.outgoing}
    return {
        (i, j) for i, row in enumerate(found.rows) for j, label in enumerate(found.specialists)
        if row.name in homes[label]
    }  # fmt: skip


def _points(found: Interference) -> Table:
    rows = [
        [
            row_name(row),
            "-" if row.base is None else f"{row.base:.1f}",
            *(told(found.effect(label, row.name)) for label in found.specialists),
        ]
        for row in found.rows
    ]
    notes = [
        f"Points of {metrics_of(found)} against {found.base}, turned so that more is better, with 95 % intervals; "
        f"{MARK}: no zero in it. Bold: at home.",
        *found.notes,
    ]
    best = {(i, j + 2) for i, j in _homes(found)}
    return Table("Gains (columns: specialists)", ["row", found.base, *found.specialists], rows, notes, best)


def told(effect: Effect | None) -> str:
    """`+3.2 [1.0, 5.4]*`."""
    if effect is None:
        return "-"
    interval = "" if effect.low is None or effect.high is None else f" [{effect.low:+z.1f}, {effect.high:+z.1f}]"
    return f"{effect.points:+z.1f}{interval}{MARK if effect.surely else ''}"


def _shares(found: Interference) -> Table:
    rows = [
        [row_name(row), *(_number(_share(found, label, row.name)) for label in found.specialists)] for row in found.rows
    ]
    notes = ["1: as much as the row's own specialist."]
    if any(not row.sure for row in found.rows):
        notes.append(f"{UNSURE}: no specialist surely gains there, so nothing is shared.")
    best = {(i, j + 1) for i, j in _homes(found)}
    return Table("Gains, as shares of the own specialist's", ["row", *found.specialists], rows, notes, best)


def _share(found: Interference, label: str, row: str) -> float | None:
    effect = found.effect(label, row)
    return effect.share if effect else None


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:+z.{digits}f}"


COLUMNS = ("elsewhere, mean", "worst", "share, mean", "share, worst", "disruption", "gains", "losses")


def _summed(one: Summed) -> list[str]:
    worst = "-" if one.worst_points is None else f"{one.worst_points:+z.1f} ({one.worst})"
    share = "-" if one.share_worst is None else f"{one.share_worst:+z.2f} ({one.share_worst_in})"
    return [
        told(one.mean), worst, _number(one.share_mean), share,
        "-" if one.disruption is None else f"{one.disruption:.2f}",
        f"{one.gains} ({one.gains_surely}{MARK})", f"{one.losses} ({one.losses_surely}{MARK})",
    ]  # fmt: skip


def _outgoing(found: Interference) -> Table:
    rows = []
    for one in found.outgoing:
        # a star stands for the same as beside a gain
        verdict = f"yes{MARK}" if one.surely else "yes" if one.overfits else "no"
        rows.append([one.specialist, ", ".join(one.homes) or "-", told(one.own), *_summed(one.others), verdict])
    notes = [
        "Overfits: gains at home and loses elsewhere in the mean; with a star where neither may be chance.",
        f"Shares are over rows without {UNSURE} alone. Disruption: the mean of max(0, -share).",
    ]
    return Table("What goes out", ["specialist", "home", "at home", *COLUMNS, "overfits"], rows, notes)


def _incoming(found: Interference) -> Table:
    columns = ["row", *(("from others, mean", *COLUMNS[1:]))]
    rows = [[row_name(row), *_summed(found.incoming[row.name])] for row in found.rows]
    return Table("What comes in", columns, rows, ["Of the specialists that are not at home in the row."])


def recovery_table(found: Interference) -> Table | None:
    """What systems that are no specialists recover; None where there are none, or nothing to recover."""
    if not any(one.recovery for one in found.others):
        return None
    rows = []
    for one in found.others:
        worst = "-" if one.worst is None else f"{one.worst:+z.2f} ({one.worst_in})"
        cells = [_number(one.recovery.get(row.name)) for row in found.rows]
        rows.append([one.system, one.role or "-", *cells, _number(one.mean), worst, _number(one.ratio_of_sums)])
    columns = ["system", "role", *map(row_name, found.rows), "mean", "worst", "ratio of sums"]
    note = f"1: as good as the row's own specialist, 0: as the base. Rows with {UNSURE} are left out."
    return Table("What others recover of the specialists' gains", columns, rows, [note])


def unseen_table(found: Interference) -> Table | None:
    """What every system does in rows where no specialist is at home; None where there are none."""
    if found.unseen is None:
        return None
    every = {**found.effects, **{one.system: one.effects for one in found.others}}
    rows = [[name, *(told(own.get(name)) for own in every.values())] for name in found.unseen.rows]
    # of one row the mean is itself
    if len(rows) > 1:
        rows.append(["mean", *(told(found.unseen.means.get(label)) for label in every)])
    note = f"Points against {found.base}: nobody was trained there, so that nothing is recovered."
    return Table("Unseen: where no specialist is at home", ["row", *every], rows, [note])


def correlation_table(found: Interference) -> Table | None:
    """Whether geometry foretold gains; None where no weights were given."""
    if not found.correlations:
        return None
    numbers = {"cosine": "cosine, against the share gained in the other's rows",
               "projection": "projection of a merge, against its recovery"}  # fmt: skip
    rows = [
        [numbers[one.kind], one.where, str(one.n), _number(one.pearson), _number(one.spearman)]
        for one in found.correlations
    ]
    notes = ["Both ways of a pair have one cosine, and are no independent samples."]
    # a line through three points is nearly always steep
    if any(one.n < SMALL for one in found.correlations):
        notes.append(f"Of fewer than {SMALL} pairs a correlation says nothing.")
    return Table("Weights against gains", ["numbers", "part", "n", "Pearson", "Spearman"], rows, notes)


def draw(found: Interference, place: Path) -> list[Picture]:
    """All plots below `place`."""
    rows, columns, homes = [row_name(row) for row in found.rows], found.specialists, sorted(_homes(found))
    effects = [[found.effect(label, row.name) for label in columns] for row in found.rows]
    marks = [[MARK if one and one.surely else "" for one in row] for row in effects]
    squares(
        [[one.points if one else None for one in row] for row in effects], rows, columns, place / "points",
        what="points gained against the base", marks=marks, form="{:+z.1f}", framed=homes,
    )  # fmt: skip
    text = f"Points of {metrics_of(found)}, more is better; framed: at home; {MARK}: no chance. Grey: not measured."
    pictures = [Picture("Interference", text, place / "points.svg")]
    if any(row.sure for row in found.rows):
        shares = [[one.share if one else None for one in row] for row in effects]
        squares(shares, rows, columns, place / "shares", what="share of the own gain", form="{:+z.2f}", framed=homes,
                limit=1.0)  # fmt: skip
        text = f"1: as much as the row's own specialist, below 0: what is lost. {UNSURE}: nothing that could be shared."
        pictures.append(Picture("Interference, of the own specialist's gain", text, place / "shares.svg"))
    # whoever has no home, or nothing but a home, has no place in this plane
    points = [
        Scattered(one.specialist, (one.own.points, one.own.low, one.own.high),
                  (one.others.mean.points, one.others.mean.low, one.others.mean.high))
        for one in found.outgoing if one.own is not None and one.others.mean is not None
    ]  # fmt: skip
    if points:
        scatter(points, place / "overfitting", x="points gained at home", y="points gained elsewhere, mean")
        text = "Right of zero and below it a specialist overfits: it gains at home and loses elsewhere. Whiskers: 95 %."
        pictures.append(Picture("Task overfitting", text, place / "overfitting.svg"))
    return pictures


def interference_report(found: Interference, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    facts = [
        ("base", found.base), ("specialists", ", ".join(found.specialists)), ("condition", found.condition),
        ("metrics", metrics_of(found)), ("rows", ", ".join(f"{r.name} ({r.utterances})" for r in found.rows)),
        ("intervals", "paired bootstrap over speakers, or over utterances where there are few"),
    ]  # fmt: skip
    return AnalysisReport(
        "interference", f"Interference of {', '.join(found.specialists)}", _lead(found), tables_of(found),
        found.as_dict(), lambda place: draw(found, place), facts, command,
    )  # fmt: skip


def _lead(found: Interference) -> list[str]:
    surely, perhaps = (
        [one.specialist for one in found.outgoing if one.overfits and one.surely is s] for s in (True, False)
    )
    told_of = []
    if surely:
        told_of.append(f"Overfit to their task, beyond chance: {', '.join(surely)}.")
    if perhaps:
        told_of.append(f"Gain at home and lose elsewhere, which may be chance: {', '.join(perhaps)}.")
    if not told_of:
        told_of.append("No specialist gains at home and loses elsewhere in the mean.")
    for one in found.others:
        if one.mean is not None:
            told_of.append(
                f"{one.system} recovers {one.mean:z.2f} of the specialists' gains in the mean, {one.worst:z.2f} at the "
                f"worst ({one.worst_in})."
            )
    return told_of + found.notes
