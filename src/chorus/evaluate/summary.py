"""The summary of an evaluation: measures of all rows, by condition, domain, language and speaker."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.evaluate.facts import Facts, Macro, Measures, Orthographic, Summary
from chorus.evaluate.scores import (
    COLUMNS,
    by_column,
    interval_facts,
    known,
    macro,
    measures,
    metric_facts,
    value_of,
)  # fmt: skip
from chorus.tasks.counts import Unit, total
from chorus.tasks.protocol import Task
from chorus.tasks.scored import ERROR_RATE, Answer, Scored
from chorus.transcribe.conditions import CLEAN

MAX_GROUPS = 500  # of a column: beyond, it is no grouping


def summarise(
    facts: Facts, rows: Sequence[Answer], scored: Sequence[Scored], task: Task, normaliser: str, unit: Unit | None
) -> Summary:
    """`facts` with the measures of these rows, which `scored` are under a normaliser."""
    clean = main_rows(scored, facts["conditions"])
    named = {row.name for row in clean}
    condition = clean[0].condition if clean else CLEAN
    # the raw texts are counted again: an alignment under a normaliser tells nothing of case and punctuation
    own = [row for row in rows if row["condition"] == condition and row["name"] in named]
    by = {column: _groups(clean, task, column) for column in COLUMNS if _worth(clean, column)}
    conditions = by_column(scored, "condition")
    return {
        **facts,
        "digest": "",  # put in as it is written
        "normaliser": normaliser,
        "unit": unit,
        "all": measures(clean, task),
        "orthographic": _orthographic(clean if normaliser == "raw" else task.score(own, "raw", unit)),
        "conditions_measured": {name: measures(part, task) for name, part in conditions.items()},
        "by": by,
        "macro": {column: _macro(clean, task, column) for column in ("domain", "language") if column in by},
        "metrics": {
            name: {m.name: metric_facts(part, task, m) for m in task.metrics if m.name != ERROR_RATE.name}
            for name, part in conditions.items()
        },
    }


def main_rows(rows: Sequence[Scored], conditions: Sequence[str]) -> list[Scored]:
    """The rows that stand for the system: the clean ones, else the first condition's."""
    return [row for row in rows if row.condition == main_condition(conditions)]


def main_condition(conditions: Sequence[str]) -> str:
    """The condition that stands for the system."""
    return CLEAN if CLEAN in conditions else conditions[0]


def _orthographic(rows: Sequence[Scored]) -> Orthographic:
    words, characters = total(r.words for r in rows), total(r.characters for r in rows)
    return {
        "error_rate": known(value_of(rows)), "wer": known(words.error_rate), "cer": known(characters.error_rate)
    }  # fmt: skip


def _worth(rows: Sequence[Scored], column: str) -> bool:
    values = {getattr(row, column) for row in rows}
    return values != {""} and len(values) <= MAX_GROUPS


def _groups(rows: Sequence[Scored], task: Task, column: str) -> dict[str, Measures]:
    return {name or "(none)": measures(part, task) for name, part in by_column(rows, column).items()}


def _macro(rows: Sequence[Scored], task: Task, column: str) -> Macro:
    value, interval = macro(by_column(rows, column), task)
    return {"error_rate": known(value), "interval": interval_facts(interval)}
