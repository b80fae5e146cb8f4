"""The recordings of an analysis: the rows of each task that manifests hold, and what the rows of its tables are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.analyse.interference import called_row
from chorus.data.choices import TASK
from chorus.data.manifest import named_manifest, read_manifest
from chorus.data.utterance import Utterance
from chorus.errors import MisfitError, UsageError, nearest
from chorus.evaluate.scores import COLUMNS
from chorus.tasks.asr import ASR
from chorus.tasks.registry import parse_task, task_or
from chorus.transcribe.test_sets import TestSet, load_test_set


def check_rows(data: Sequence[str], by: str) -> None:
    """`UsageError` for what is no list of manifests, and for rows by what is no column."""
    if isinstance(data, str):
        raise UsageError(f"{data}: one manifest where a list is asked for", f"[{data!r}]")
    if not data:
        raise UsageError("no recordings", "--data MANIFEST")
    if by not in COLUMNS:
        raise UsageError(f'no rows are by "{by}"{nearest(by, COLUMNS)}', f"one of {', '.join(COLUMNS)}")


def tests_of(
    data: Sequence[str], *, task: str | None, split: str | None, limit: int | None, language: str
) -> tuple[dict[str, TestSet], list[str]]:
    """The test set of each task, its manifests (`[NAME=]MANIFEST`) in the order given; and what people should know.

    Without `task` each manifest is of all tasks that its rows name, of asr where they name none. `MisfitError` where
    some name several and some none.
    """
    named: dict[str, list[str]] = {}
    for one in data:
        for name in [parse_task(task)] if task else _tasks_in(named_manifest(one)[1]):
            named.setdefault(name, []).append(one)
    tests = {
        name: load_test_set(given, split=split, language=language, limit=limit, task=name)
        for name, given in named.items()
    }
    # of no task that is asked for they are in no other test set either
    others = sum(len(rows) for test in tests.values() for rows in test.left_out.values()) if task else 0
    return tests, [f"rows of other tasks than {name} are left out: {others}" for name in tests if others]


def _tasks_in(path: str) -> list[str]:
    tasks = [task_or(row.get(TASK)) for row in read_manifest(path, needs=("path",)).rows]
    found = list(dict.fromkeys(filter(None, tasks)))
    # each would be of all the others' tasks
    if len(found) > 1 and not all(tasks):
        told = f"{path}: rows of several tasks ({', '.join(found)}), and {tasks.count('')} that name none"
        raise MisfitError(told, "name the task of every row, or choose one: --task")
    return found or [ASR.name]


def parts_of(tests: Mapping[str, TestSet], by: str) -> dict[str, tuple[str, list[Utterance]]]:
    """What each row of the tables is called: by its task where there are several -> its task, and its utterances."""
    found: dict[str, tuple[str, list[Utterance]]] = {}
    for task, test in tests.items():
        values: dict[str, list[Utterance]] = {}
        for one in test.utterances.values():
            values.setdefault(str(getattr(one.row, by)), []).append(one)
        for value, utterances in values.items():
            called = called_row(task, value, several=len(tests) > 1, alone=len(values) == 1)
            found[called] = (task, utterances)
    return found
