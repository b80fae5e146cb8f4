"""What each specialist gains and loses on every task: the interference matrix, and what follows from it.

A row is a domain of a task, a column a specialist. Gains are against the base, in points, always positive where the
specialist is better: error rates are turned round, and what is above 100 counts as 100. A gain's share is that of the
gain which the row's own specialist has there; where that may be chance there is nothing to share, and the row is left
out of whatever is made of shares.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from chorus.analyse.interference_facts import (
    Effect,
    Interference,
    InterferenceRow,
    Outgoing,
    Recovered,
    Summed,
    Unseen,
)
from chorus.data.choices import TASK
from chorus.errors import MisfitError, UsageError, nearest
from chorus.evaluate.bootstrap import Answered, paired_bootstrap
from chorus.evaluate.comparison import FULL
from chorus.evaluate.relations import Capped
from chorus.evaluate.results import Evaluation
from chorus.evaluate.roles import SystemRole, roles_of
from chorus.evaluate.scores import answered, by_column, known, value_of
from chorus.evaluate.shared_rows import shared_rows
from chorus.tasks.protocol import Task
from chorus.tasks.scored import Scored

if TYPE_CHECKING:
    from chorus.tasks.scored import Floats


class Gained(Capped):
    """A metric, turned so that more is better, of which what is above 100 is 100."""

    @property
    def best(self) -> float:
        return 0.0

    def values(self, sums: Floats) -> Floats:
        found = super().values(sums)
        return -found if self.metric.best == 0 else found


@dataclass(frozen=True)
class MeasuredCell:
    """The rows of one domain of one task by system, which all answer the same utterances."""

    name: str
    domain: str
    task: Task
    rows: Mapping[str, Sequence[Scored]]
    roles: Mapping[str, SystemRole]
    base: str
    learnt: Mapping[str, str]  # label -> the task that a specialist was trained on, where a training says so

    @property
    def metric(self) -> Gained:
        return Gained(self.task.metrics[0])

    def pair(self, label: str) -> Answered:
        return answered(self.rows[label], self.rows[self.base], self.task, self.metric)

    def effect(self, label: str) -> Effect | None:
        """What a system gains here; None where it has no answers, or there is nothing to count."""
        # of several tasks a system may have been asked some
        if label not in self.rows:
            return None
        points = value_of(self.rows[label], self.metric) - value_of(self.rows[self.base], self.metric)
        if np.isnan(points):
            return None
        found = paired_bootstrap([self.pair(label)], self.metric)
        return Effect(points, known(found.low), known(found.high))


def analyse_interference(
    evaluations: Sequence[Evaluation],
    *,
    column: str = "domain",
    condition: str | None = None,
    base: str | None = None,
    specialists: Mapping[str, str] | None = None,
    normaliser: str | None = None,
    common: bool = False,
) -> Interference:
    """What each specialist gains and loses in every domain (or other `column`) of every task, against the base.

    Evaluations of one task must be of the same recordings (`common` takes what they share); of several tasks a system
    has one for each, under the same label. Roles come from the evaluations; `base` and `specialists` ({label: row})
    say otherwise. The rows are called by their domain, behind their task's name where there are several tasks.

    Raises `MisfitError` where results do not fit each other, `UsageError` for names that are not there.

    >>> import chorus
    >>> from chorus.evaluate.results import read_evaluation
    >>> found = chorus.analyse_interference([read_evaluation(p) for p in ("base", "radio", "phone")])  # doctest: +SKIP
    >>> found.effect("radio", "phone").points  # doctest: +SKIP
    -3.5
    """
    given = dict(specialists or {})
    labels = list(dict.fromkeys(one.label for one in evaluations))
    for label in filter(None, (base, *given)):
        if label not in labels:
            raise UsageError(f'no result is called "{label}"{nearest(label, labels)}')
    if not evaluations:
        raise UsageError("no evaluation to analyse", "name those of the base and of the specialists")
    # one condition for all tasks: noise on one and none on the other would be no comparison
    chosen = condition or evaluations[0].summary["conditions"][0]
    cells, notes = cells_of(evaluations, column, chosen, base, normaliser, common=common)
    homes = homes_of(cells, labels, given)
    if not homes:
        raise MisfitError(
            "no result is a specialist's", "name them and where they are at home: --specialist LABEL=ROW"
        )  # fmt: skip
    return _interference(cells, labels, homes, chosen, notes)


def cells_of(
    evaluations: Sequence[Evaluation], column: str, condition: str, base: str | None, normaliser: str | None, *,
    common: bool,
) -> tuple[list[MeasuredCell], list[str]]:  # fmt: skip
    """Every domain of every task."""
    tasks: dict[str, list[Evaluation]] = defaultdict(list)
    for one in evaluations:
        tasks[one.task.name].append(one)
    cells, notes = [], []
    for name, group in tasks.items():
        normalisers = {one.normaliser for one in group}
        if len(normalisers) > 1 and normaliser is None:
            told = ", ".join(sorted(normalisers))
            raise MisfitError(f"results under different normalisers: {told}", "give --normaliser NAME")
        # a task in which it was forgotten says so below, in its own words
        here = base if base in {one.label for one in group} else None
        roles = roles_of(group, column, base=here)
        origin = next((label for label, role in roles.items() if role.name == "base"), None)
        if origin is None:
            raise MisfitError(f"no result of {name} is the base's", "evaluate it as well, or name it: --base LABEL")
        rows, more = shared_rows(group, condition, normaliser, common=common)
        notes += more
        parts = {one.label: by_column(own, column) for one, own in zip(group, rows, strict=True)}
        learnt = {one.label: _learnt_task(one.summary["system"]["home"]) for one in group}
        for domain in parts[origin]:
            called = called_row(name, domain, several=len(tasks) > 1, alone=len(parts[origin]) == 1)
            by_label = {label: part[domain] for label, part in parts.items()}
            cells.append(MeasuredCell(called, domain, group[0].task, by_label, roles, origin, learnt))
    # gains over different beginnings are gains of nothing in common
    bases = list(dict.fromkeys(cell.base for cell in cells))
    if len(bases) > 1:
        raise MisfitError(f"the tasks have different bases: {', '.join(bases)}", "give the base one label everywhere")
    return cells, notes


def called_row(task: str, domain: str, *, several: bool, alone: bool) -> str:
    """What a domain's row is called; `several`: there are more tasks, `alone`: it is its task's only domain.

    >>> called_row("kws", "radio", several=True, alone=False), called_row("kws", "", several=False, alone=True)
    ('kws: radio', 'kws')
    """
    if not several:
        return domain or task
    return task if alone else f"{task}: {domain or '(none)'}"


def homes_of(cells: Sequence[MeasuredCell], labels: Sequence[str], given: Mapping[str, str]) -> dict[str, list[str]]:
    """The rows that each specialist is at home in, as the evaluations say, unless it is said otherwise."""
    names = [cell.name for cell in cells]
    for label, row in given.items():
        if row not in names:
            raise UsageError(f'no row is called "{row}"{nearest(row, names)}', f"{label} can be at home in a row alone")
    found: dict[str, list[str]] = {}
    for label in labels:
        roles = [(cell, cell.roles[label]) for cell in cells if label in cell.roles]
        # what is said by hand stands above what a training says of itself
        if label in given:
            found[label] = [given[label]]
        elif any(role.name == "specialist" for _, role in roles):
            found[label] = [c.name for c, role in roles if role.name == "specialist" and _at_home(c, label, role)]
    return found


def _learnt_task(home: Mapping[str, object]) -> str:
    """The task that a home names; empty where it names other columns' values, or several."""
    told = home.get(TASK, "")
    values = told if isinstance(told, list) else [told]
    return str(values[0]) if len(values) == 1 else ""


def _at_home(cell: MeasuredCell, label: str, role: SystemRole) -> bool:
    """Whether a specialist is at home in a row: in all rows of its task, where that is what it was trained on."""
    learnt = cell.learnt[label]
    return learnt == cell.task.name if learnt else role.home == cell.domain


def _interference(
    cells: Sequence[MeasuredCell],
    labels: Sequence[str],
    homes: Mapping[str, list[str]],
    condition: str,
    notes: list[str],
) -> Interference:
    rows, gains, shared = shares_of(cells, labels, homes)
    at_home = {(label, name) for label, names in homes.items() for name in names}
    columns = {label: shared[label] for label in homes}
    outgoing = [outgoing_of(label, homes[label], cells, effects) for label, effects in columns.items()]
    incoming = {
        row.name: summed({label: one[row.name] for label, one in columns.items() if (label, row.name) not in at_home})
        for row in rows
    }
    recovered = [_recovered(cells, label, shared[label], gains) for label in shared if label not in homes]
    return Interference(
        cells[0].base, rows, list(homes), columns, outgoing, incoming, recovered, condition,
        [*notes, *told_of(cells, rows), *_homeless(homes)], _unseen(cells, shared, homes),
    )  # fmt: skip


def _unseen(
    cells: Sequence[MeasuredCell], effects: Mapping[str, Mapping[str, Effect | None]], homes: Mapping[str, list[str]]
) -> Unseen | None:
    """What all systems do where nobody was trained; None where somebody was everywhere."""
    taught = {name for names in homes.values() for name in names}
    away = [cell for cell in cells if cell.name not in taught]
    if not away:
        return None
    means = {
        label: mean_effect(label, [cell for cell in away if own[cell.name] is not None], own)
        for label, own in effects.items()
    }
    return Unseen([cell.name for cell in away], means)


def shares_of(
    cells: Sequence[MeasuredCell], labels: Sequence[str], homes: Mapping[str, Sequence[str]]
) -> tuple[list[InterferenceRow], dict[str, float], dict[str, dict[str, Effect | None]]]:
    """(rows, what each row's own specialist surely gains, each system's effects by row with their shares of that)."""
    base = cells[0].base
    every = {label: {cell.name: cell.effect(label) for cell in cells} for label in labels if label != base}
    rows = [_row(cell, homes, every) for cell in cells]
    # the denominators: of rows whose specialist surely gains, for others are near zero
    gains = {row.name: row.gain.points for row in rows if row.sure and row.gain is not None}
    return rows, gains, {
        label: {name: _share(one, gains.get(name)) for name, one in own.items()} for label, own in every.items()
    }  # fmt: skip


def told_of(cells: Sequence[MeasuredCell], rows: Sequence[InterferenceRow]) -> list[str]:
    """What a reader of the numbers must know: rows without shares, rates beyond what is counted."""
    return [*(_why(row) for row in rows if not row.sure), *_capped(cells)]


def _row(
    cell: MeasuredCell, homes: Mapping[str, Sequence[str]], effects: Mapping[str, Mapping[str, Effect | None]]
) -> InterferenceRow:
    """A row with its own specialist: of several at home the one that gains most."""
    own = [(label, effects[label][cell.name]) for label, names in homes.items() if cell.name in names]
    # the largest, as in `chorus compare`: recovery is of the best that training alone reaches
    measured = [(label, effect) for label, effect in own if effect is not None]
    label, gain = max(measured, key=lambda one: one[1].points, default=("", None))
    metric, rows = cell.task.metrics[0], cell.rows[cell.base]
    return InterferenceRow(
        cell.name, cell.task.name, metric.title, metric.best, len(rows), known(value_of(rows, metric)), label, gain,
        cell.domain,
    )  # fmt: skip


def _share(effect: Effect | None, gain: float | None) -> Effect | None:
    if effect is None or gain is None:
        return effect
    return Effect(effect.points, effect.low, effect.high, effect.points / gain)


def mean_effect(label: str, cells: Sequence[MeasuredCell], effects: Mapping[str, Effect | None]) -> Effect | None:
    """The unweighted mean of a system's effects over rows, whose recordings are drawn independently."""
    points = [one.points for cell in cells if (one := effects[cell.name]) is not None]
    if not points:
        return None
    found = paired_bootstrap([cell.pair(label) for cell in cells], [cell.metric for cell in cells])
    return Effect(float(np.mean(points)), known(found.low), known(found.high))


def summed(effects: Mapping[str, Effect | None], mean: Effect | None = None) -> Summed:
    """What some effects come to; `mean` with its interval, where one was drawn."""
    # of equal ones the first by the order of rows, so that the same results always name the same
    there = {name: one for name, one in effects.items() if one is not None}
    shares = {name: one.share for name, one in there.items() if one.share is not None}
    worst = min(there, key=lambda name: there[name].points, default="")
    share_worst = min(shares, key=lambda name: shares[name], default="")
    values = list(shares.values())
    if mean is None and there:
        # of systems on the same recordings: what is drawn for one is drawn for all, and no interval is claimed
        mean = Effect(float(np.mean([one.points for one in there.values()])), None, None)
    every = list(there.values())
    return Summed(
        len(there), mean, worst, there[worst].points if worst else None, len(shares),
        float(np.mean(values)) if values else None, min(values, default=None), share_worst,
        float(np.mean([max(0.0, -value) for value in values])) if values else None,
        sum(one.points > 0 for one in every), sum(one.surely > 0 for one in every),
        sum(one.points < 0 for one in every), sum(one.surely < 0 for one in every),
    )  # fmt: skip


def outgoing_of(
    label: str, homes: Sequence[str], cells: Sequence[MeasuredCell], effects: Mapping[str, Effect | None]
) -> Outgoing:
    """What a system that is at home in some rows does there, and in all others."""
    # what was not measured is no zero
    there = [cell for cell in cells if effects[cell.name] is not None]
    away = [cell for cell in there if cell.name not in homes]
    others = summed({cell.name: effects[cell.name] for cell in away}, mean_effect(label, away, effects))
    own = mean_effect(label, [cell for cell in there if cell.name in homes], effects)
    mean = others.mean
    overfits = own is not None and mean is not None and own.points > 0 and mean.points < 0
    surely = own is not None and mean is not None and own.surely > 0 and mean.surely < 0
    return Outgoing(label, list(homes), own, others, overfits, surely)


def _recovered(
    cells: Sequence[MeasuredCell], label: str, effects: Mapping[str, Effect | None], gains: Mapping[str, float]
) -> Recovered:
    recovery = {name: one.share for name, one in effects.items() if one is not None and one.share is not None}
    # sums first: a task with little to gain then weighs little, which in a mean of ratios it does not
    whole = sum(gains[name] for name in recovery)
    points = sum(recovery[name] * gains[name] for name in recovery)
    worst = min(recovery, key=lambda name: recovery[name], default="")
    role = next((cell.roles[label].name for cell in cells if label in cell.roles), "")
    return Recovered(
        label, role, dict(effects), recovery, float(np.mean(list(recovery.values()))) if recovery else None,
        recovery[worst] if worst else None, worst, points / whole if whole else None,
    )  # fmt: skip


def _why(row: InterferenceRow) -> str:
    """Why a row is left out of shares."""
    left = f"{row.name} is left out of shares and recovery: "
    if row.gain is None:
        return f"{left}no specialist is at home there"
    one = row.gain
    if one.points < 0:
        return f"{left}{row.own} is worse there than the base, by {-one.points:.1f} points"
    interval = "no interval" if one.low is None or one.high is None else f"{one.low:z.1f} to {one.high:z.1f}"
    return f"{left}what {row.own} gains there, {one.points:z.1f} points ({interval}), may be chance"


def _capped(cells: Sequence[MeasuredCell]) -> list[str]:
    """Where rates are beyond what is counted: a system may have improved there without a gain."""
    found = [
        cell.name for cell in cells
        if cell.task.metrics[0].best == 0
        and any(value_of(rows, cell.task.metrics[0]) > FULL for rows in cell.rows.values())
    ]  # fmt: skip
    return [f"{', '.join(found)}: rates above 100 % count as 100"] if found else []


def _homeless(homes: Mapping[str, list[str]]) -> list[str]:
    return [
        f"{label} is at home in no row: --specialist {label}=ROW says where"
        for label, names in homes.items()
        if not names
    ]
