"""Rows of a task whose answers are labels: each with its choices, and with an answer that is one of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chorus.data.manifest import Manifest, Row, groups, read_manifest
from chorus.errors import DataError, MisfitError
from chorus.models.limits import PROMPT
from chorus.tasks.asr import ASR
from chorus.tasks.chosen import CHOICES, check_answer, check_choices
from chorus.tasks.protocol import Chooses, Task
from chorus.tasks.registry import TASKS, task_or

TASK, TEXT = "task", "text"  # a manifest's columns
SHOWN = 5  # rows that a message names


def with_choices(
    rows: Sequence[Row], task: Task, among: Sequence[Row] | None = None, *, answers: bool = True
) -> list[Row]:  # fmt: skip
    """The rows, each with the choices that it is answered from in its column `choices`; others' tasks' as they are.

    Where neither task nor row names any they are the answers of all rows `among` which these are, in alphabetical
    order: of the whole manifest, so that training and test have the same. `DataError` names each row whose answer is
    missing or none of its choices; without `answers` a missing one is none to be named.
    """
    found = each_with_choices(rows, task, among, answers=answers)
    problems = [one for one in found if isinstance(one, DataError)]
    if problems:
        raise several(problems)
    return [one for one in found if isinstance(one, Row)]


def each_with_choices(
    rows: Sequence[Row], task: Task, among: Sequence[Row] | None = None, *, answers: bool = True
) -> list[Row | DataError]:  # fmt: skip
    """Each row as `with_choices` gives it, or what is wrong with it."""
    if not isinstance(task, Chooses):
        return list(rows)
    rows = [_as_text(row) for row in rows]
    found = labels_of([_as_text(row) for row in among or rows], task) if task.open else ()

    def ready(row: Row) -> Row | DataError:
        try:
            own = task.labels(row)
            if answers or task.reference(row):
                check_answer(task.name, task.reference(row), own or found, row)
            else:
                check_choices(task.name, own or found, row)
        except DataError as error:
            return error
        # those that a task has by itself need no column
        return row if own or not found else replace(row, extra={**row.extra, CHOICES: json.dumps(found)})

    return [ready(row) for row in rows]


def unasked(row: Row, task: Task) -> DataError | None:
    """What is wrong with a row that has nothing to ask: no prompt, and not what its task makes a question of."""
    if not row.get(PROMPT):
        try:
            task.instruction(row)
        except DataError as error:
            return error
    return None


def by_tasks(rows: Sequence[Row], task: str) -> tuple[list[Row], list[Row], list[tuple[Row, str, str]]]:
    """Rows that are answered with texts; those of labels as they are learnt, the answer as the text; what is wrong.

    The last are (row, kind, detail). Rows that name no task are of `task`.
    """
    texts: list[Row] = []
    labelled: list[Row] = []
    problems = [(row, "unknown task", row.get(TASK)) for row in rows if row.get(TASK) and not task_or(row.get(TASK))]
    of_each = groups(rows, lambda row: task_or(row.get(TASK)) if row.get(TASK) else task)
    for name, members in of_each.items():
        if not name or not isinstance(found := TASKS.get(name), Chooses):
            texts += members if name else []
            continue
        for row, ready in zip(members, each_with_choices(members, found), strict=True):
            wrong = ready if isinstance(ready, DataError) else unasked(ready, found)
            if wrong is None and isinstance(ready, Row):
                labelled.append(replace(ready, text=found.reference(ready)))
            elif wrong is not None:
                problems.append((row, "cannot be answered", wrong.message.removeprefix(f"{row}: ")))
    return texts, labelled, problems


def several(problems: Sequence[DataError]) -> DataError:
    """What is wrong with some rows as one error; the hint is of the first."""
    told = "; ".join(one.message for one in problems[:SHOWN])
    more = f"; and {len(problems) - SHOWN} more rows" if len(problems) > SHOWN else ""
    return DataError(told + more, problems[0].hint)


def needs_of(task: Task) -> tuple[str, ...]:
    """The columns that a manifest of a task must have: what a label is of may stand in any, a text has one."""
    return ("path",) if isinstance(task, Chooses) else ("path", "text")


def read_asked(
    source: str | Path, needs: Sequence[str], *, column: str = TASK, columns: Mapping[str, str] | None = None,
    audio_dir: str | Path | None = None,
) -> Manifest:  # fmt: skip
    """A manifest with the columns that it `needs`: no text where each row names, in `column`, a task of labels."""
    found = read_manifest(
        source, columns=columns, audio_dir=audio_dir, needs=[name for name in needs if name != TEXT]
    )  # fmt: skip
    known = {*found.columns, *found.renamed}
    if TEXT in needs and TEXT not in known and not (found.rows and all(_of_labels(r, column) for r in found.rows)):
        read_manifest(source, columns=columns, audio_dir=audio_dir, needs=needs)  # which tells what is missing
    return found


def _of_labels(row: Row, column: str) -> bool:
    name = task_or(row.get(column))
    return bool(name) and isinstance(TASKS.get(name), Chooses)


def of_task(rows: Sequence[Row], task: Task, column: str = TASK) -> list[Row]:
    """The rows of a task, where `column` says which each is of; those that name no task are of any."""
    # a column of that name may tell something else
    return [row for row in rows if task_or(row.get(column), task.name) == task.name]


def task_named(rows: Sequence[Row], where: object) -> str:
    """The one task that rows name, asr where they name none; `MisfitError` for several."""
    found = sorted({task_or(row.get(TASK)) for row in rows} - {""})
    if len(found) > 1:
        raise MisfitError(f"{where}: rows of several tasks ({', '.join(found)})", "choose one: --task")
    return found[0] if found else ASR.name


def labels_of(rows: Sequence[Row], task: Chooses) -> tuple[str, ...]:
    """The answers of the rows that name no choices, each once, in alphabetical order."""
    return tuple(sorted({task.reference(row) for row in rows if not row.get(CHOICES)} - {""}))


def _as_text(row: Row) -> Row:
    """A list in a manifest of JSON lines as the text that a cell of a table would hold."""
    given = row.extra.get(CHOICES)
    return replace(row, extra={**row.extra, CHOICES: json.dumps(given)}) if isinstance(given, list) else row
