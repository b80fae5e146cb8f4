"""`chorus tasks`."""

from __future__ import annotations

import click

from chorus.cli.flags import json_flag
from chorus.cli.output import as_json, table
from chorus.plain import JsonObject


@click.command("tasks")
@json_flag("As JSON.")
def command(json_: bool) -> None:
    """List the tasks that models are trained on and evaluated by.

    \b
    chorus tasks
    chorus evaluate MODEL --task kws --data test.csv
    """
    from chorus.tables import Table
    from chorus.tasks.registry import TASKS

    facts: list[JsonObject] = [
        {"name": task.name, "summary": task.summary, "metrics": [metric.name for metric in task.metrics],
         "spellings": list(task.spellings)}
        for task in TASKS
    ]  # fmt: skip
    if json_:
        as_json(facts)
        return
    rows = [[task.name, task.summary, task.metrics[0].title, ", ".join(task.spellings)] for task in TASKS]
    # the one that ranks: a list of all would not fit, and --json has them
    table(Table("Tasks", ["task", "what is asked", "ranked by", "also called"], rows))
