"""What the rows of a training are asked and answer: of each its task, its choices, and its answer as its text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from chorus.data.choices import each_with_choices, of_task, several, unasked
from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.errors import DataError, UsageError
from chorus.tasks.asr import ASR
from chorus.tasks.protocol import Chooses, Task
from chorus.tasks.registry import TASKS, parse_task
from chorus.train.config import LANGUAGE_MODELLING, TrainConfig

QUOTED, LISTED = re.compile('".*?"'), re.compile(r" \(.*\)")  # of a message: the labels that it names


def task_of(config: TrainConfig, row: Row) -> Task:
    """The row's task, else the training's; `DataError` where there is none such."""
    try:
        return TASKS.get(parse_task(row.get(config.data.task_column) or config.task))
    except UsageError as error:
        raise DataError(f"{row}: {error.message}", error.hint) from None


def answers_labels(task: str) -> bool:
    """Whether a training's or a source's task is answered with labels: its manifests need no texts."""
    return task != LANGUAGE_MODELLING and isinstance(TASKS.get(task), Chooses)


def as_of(rows: Sequence[Row], task: str, column: str) -> list[Row]:
    """The rows of a source's task and those that name none, in `column`, all named so; of no task all as they are."""
    if not task or task == LANGUAGE_MODELLING:
        return list(rows)
    return [replace(r, extra={**r.extra, column: task}) for r in of_task(rows, TASKS.get(task), column)]


def answered(
    utterances: Sequence[Utterance], config: TrainConfig, every: Sequence[Row],
    left_out: dict[str, list[str]] | None = None, *, answers: bool = True,
) -> list[Utterance]:  # fmt: skip
    """The utterances, the answer of each as its text, and with its choices; those among `every` row of its manifests.

    Losses, limits and measures are of texts: so they are of labels too, and no other part need know of them.
    Without `answers` rows of labels need none, and their text is empty then. Rows that cannot be asked, or not be
    answered right, go to `left_out`, reason -> what is told of each; without it `DataError` names them.
    """
    if config.task == LANGUAGE_MODELLING:
        return list(utterances)
    tasks = [task_of(config, one.row) for one in utterances]
    ready: dict[int, Row | DataError] = {}
    for task in {task.name: task for task in tasks if isinstance(task, Chooses)}.values():
        places = [i for i, one in enumerate(tasks) if one.name == task.name]
        among = [row for row in every if task_of(config, row).name == task.name]
        rows = each_with_choices([utterances[i].row for i in places], task, among, answers=answers)
        ready |= {i: _asked(row, task, config) for i, row in zip(places, rows, strict=True)}
    problems = [one for one in ready.values() if isinstance(one, DataError)]
    if problems and left_out is None:
        told = several(problems)
        raise DataError(told.message, f"{told.hint}, or leave such rows out (train, calibrate: --skip-bad)")
    found = []
    for i, one in enumerate(utterances):
        row = ready.get(i)
        if isinstance(row, DataError):
            assert left_out is not None
            left_out.setdefault(_reason(row, one.row), []).append(row.message)
        else:
            found.append(replace(one, row=replace(row, text=tasks[i].reference(row))) if row else one)
    return found


def _asked(row: Row | DataError, task: Task, config: TrainConfig) -> Row | DataError:
    """The row, unless it has nothing to ask: told here, and not when its turn comes in the middle of a training."""
    if isinstance(row, DataError) or config.data.prompt:
        return row
    return unasked(row, task) or row


def _reason(error: DataError, row: Row) -> str:
    """What is wrong without what is this row's own, so that rows are counted by it."""
    return LISTED.sub("", QUOTED.sub("...", error.message.removeprefix(f"{row}: ")))


def told_of_tasks(utterances: Sequence[Utterance], config: TrainConfig) -> list[str]:
    """What people should know: that rows are of other tasks than the training's, and that all have one answer."""
    if config.task == LANGUAGE_MODELLING:
        return []
    answers: dict[str, Counter[str]] = {}
    chooses = {}
    for one in utterances:
        task = task_of(config, one.row)
        answers.setdefault(task.name, Counter())[one.row.text] += 1
        chooses[task.name] = isinstance(task, Chooses)
    told = []
    # asr is what a training is of where nobody says it
    if config.task != ASR.name and set(answers) - {config.task}:
        counts = ", ".join(f"{name} {sum(found.values())}" for name, found in answers.items())
        told.append(f"rows are learnt as what their column {config.data.task_column} or their source says: {counts}")
    return told + [
        f"task {name}: all {sum(found.values())} rows have the one answer {next(iter(found))!r}"
        for name, found in answers.items() if chooses[name] and len(found) == 1
    ]  # fmt: skip
