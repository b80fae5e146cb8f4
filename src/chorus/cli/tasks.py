"""`chorus tasks`."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import click

from chorus.cli.flags import json_flag
from chorus.cli.output import as_json, table
from chorus.plain import JsonObject

if TYPE_CHECKING:
    from chorus.tasks.protocol import Task

# what stands for a manifest's own words where a question is shown
SHOWN = {"instruction": "INSTRUCTION", "question": "QUESTION", "target_language": "de"}
CHOICES = {"choices": "LABEL|OTHER LABEL"}


@click.command("tasks")
@click.argument("name", required=False)
@json_flag("As JSON.")
def command(name: str | None, json_: bool) -> None:
    """List the tasks that models are trained on and evaluated by, or tell what one of them asks.

    \b
    chorus tasks
    chorus tasks kws
    chorus evaluate MODEL --task kws --data test.csv
    """
    from chorus.tables import Table
    from chorus.tasks.registry import TASKS, parse_task

    if name:
        one = facts_of(TASKS.get(parse_task(name)))
        if json_:
            as_json(one)
            return
        rows = [[key, ", ".join(value) if isinstance(value, list) else str(value)] for key, value in one.items()]
        table(Table(f"Task {one['name']}", ["", ""], [row for row in rows if row[1]]))
        return
    if json_:
        as_json([facts_of(task) for task in TASKS])
        return
    rows = [[task.name, task.summary, task.metrics[0].title, ", ".join(task.spellings)] for task in TASKS]
    # the one that ranks: a list of all would not fit, and --json has them
    table(Table("Tasks", ["task", "what is asked", "ranked by", "also called"], rows))


def facts_of(task: Task) -> JsonObject:
    """What a task is, and what it asks; a manifest's own words stand there in capitals."""
    from chorus.data.manifest import Row
    from chorus.errors import DataError
    from chorus.tasks.protocol import Chooses, LimitsAnswers

    bare = Row("a.flac", language="en", extra={**SHOWN, "audio_2": "b.flac"})
    labels = task.labels(bare) if isinstance(task, Chooses) else ()
    found: JsonObject = {"name": task.name, "summary": task.summary}
    with suppress(DataError):  # of labels, which only the data tell
        found["question"] = task.instruction(bare)
    if isinstance(task, Chooses) and not labels:
        chosen = task.instruction(Row("a.flac", language="en", extra={**SHOWN, **CHOICES}))
        if chosen != found.get("question"):
            found["question" if "question" not in found else "with_choices"] = chosen
    found |= {
        "labels": list(labels), "metrics": [metric.name for metric in task.metrics], "spellings": list(task.spellings),
    }  # fmt: skip
    if isinstance(task, LimitsAnswers):
        found["most_tokens"] = task.most_tokens(bare)
    return found
