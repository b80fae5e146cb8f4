"""What the rows of a training are asked and answer: of each its task, its choices, and its answer as its text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from chorus.data.choices import of_task, with_choices
from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.errors import DataError, UsageError
from chorus.tasks.asr import ASR
from chorus.tasks.protocol import Chooses, Task
from chorus.tasks.registry import TASKS, parse_task
from chorus.train.config import LANGUAGE_MODELLING, TrainConfig


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
    utterances: Sequence[Utterance], config: TrainConfig, every: Sequence[Row], *, answers: bool = True
) -> list[Utterance]:
    """The utterances, the answer of each as its text, and with its choices; those among `every` row of its manifests.

    Losses, limits and measures are of texts: so they are of labels too, and no other part need know of them.
    Without `answers` rows of labels need none, and their text is empty then.
    """
    if config.task == LANGUAGE_MODELLING:
        return list(utterances)
    tasks = [task_of(config, one.row) for one in utterances]
    ready: dict[int, Row] = {}
    for task in {task.name: task for task in tasks if isinstance(task, Chooses)}.values():
        places = [i for i, one in enumerate(tasks) if one.name == task.name]
        among = [row for row in every if task_of(config, row).name == task.name]
        rows = with_choices([utterances[i].row for i in places], task, among, answers=answers)
        ready |= dict(zip(places, rows, strict=True))
    return [
        replace(one, row=replace(ready[i], text=tasks[i].reference(ready[i]))) if i in ready else one
        for i, one in enumerate(utterances)
    ]


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
