"""The contract of a task: its words are found, faultless answers are the best, and every metric is a sum."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from chorus.data.choices import with_choices
from chorus.data.manifest import Row
from chorus.evaluate.bootstrap import interval, resamples
from chorus.evaluate.scores import measures, value_of
from chorus.tasks.protocol import Chooses, Task
from chorus.tasks.registry import TASKS, parse_task
from chorus.tasks.scored import Answer, Scored
from chorus.transcribe.backends.protocol import Hypothesis
from chorus.transcribe.transcriber import put_labels

TaskCheck = Callable[[Task, Sequence[Row]], None]
# A dialect beside its language, a language without spaces, speakers and domains that cross.
ROWS = [
    Row(f"{i}.flac", text, language, speaker=f"speaker {i % 3}", domain=f"domain {i % 2}")
    for i, (text, language) in enumerate([
        ("good morning to all of you", "en"), ("it rains in Lisbon today", "en"), ("the cat sat on the mat", "en"),
        ("bom dia a todos", "pt-BR"), ("chove hoje em Lisboa", "pt"), ("今日は雨が降ります", "ja"),
    ])
]  # fmt: skip


def answers(task: Task, rows: Sequence[Row], hypotheses: Sequence[str] | None = None) -> list[Answer]:
    """Rows as a system would answer them; faultlessly, unless it is said otherwise."""
    given = hypotheses if hypotheses is not None else [task.reference(row) for row in rows]
    found: list[Answer] = [
        {
            "name": str(row), "condition": "clean", "reference": task.reference(row), "hypothesis": hypothesis,
            "language": row.language, "written": task.written(row), "speaker": row.speaker, "domain": row.domain,
            "seconds": 1.0,
        }
        for row, hypothesis in zip(rows, given, strict=True)
    ]  # fmt: skip
    if isinstance(task, Chooses):
        for answer, row in zip(found, rows, strict=True):
            put_labels(answer, task.labels(row), [_sure(answer["hypothesis"], task.labels(row))])
    return found


def _sure(chosen: str, labels: Sequence[str]) -> Hypothesis:
    """Scores that say what the answer says."""
    return Hypothesis(chosen, scores={label: (-0.1 if label == chosen else -5.0, 2) for label in labels})


def half_wrong(task: Task, rows: Sequence[Row], normaliser: str = "marks") -> list[Scored]:
    """Every second answer is another row's; where answers are labels, the second one is none of them."""
    right = [task.reference(row) for row in rows]
    given = [right[(i + 1) % len(right)] if i % 2 else text for i, text in enumerate(right)]
    if isinstance(task, Chooses) and len(given) > 1:
        given[1] = "?"
    return task.score(answers(task, rows, given), normaliser)


def is_found_by_every_spelling(task: Task, rows: Sequence[Row]) -> None:
    """The registry has it, and each of its words leads to it."""
    assert TASKS.get(task.name) is task
    assert task.name == task.name.lower().strip() != ""
    for spelling in (task.name, *task.spellings):
        assert parse_task(spelling.upper()) == task.name, f"{spelling} leads to {parse_task(spelling)}"


def says_what_is_asked(task: Task, rows: Sequence[Row]) -> None:
    """A line for people, an instruction for models, a reference and a language for every row."""
    assert task.summary
    assert task.metrics, "a task without a metric ranks nothing"
    names = [metric.name for metric in task.metrics]
    assert len(set(names)) == len(names), f"two metrics of one name: {names}"
    for row in rows:
        assert task.instruction(row)
        assert isinstance(task.reference(row), str)
        assert isinstance(task.written(row), str)


def keeps_the_order_of_answers(task: Task, rows: Sequence[Row]) -> None:
    """One scored answer for each, in order, with the texts as they were given."""
    given = answers(task, rows)
    scored = task.score(given, "raw")
    assert [s.name for s in scored] == [a["name"] for a in given]
    assert [s.raw_hypothesis for s in scored] == [a["hypothesis"] for a in given]


def faultless_answers_are_the_best(task: Task, rows: Sequence[Row]) -> None:
    """The references themselves have each metric's best value; wrong answers have not, on the worse side."""
    for metric in task.metrics:
        best = value_of(task.score(answers(task, rows), "raw"), metric)
        # a BLEU of 100 comes through logarithms, and misses it in the last digits
        assert abs(best - metric.best) < 1e-9, f"{metric.name} of the references is {best}, not {metric.best}"
        worse = value_of(half_wrong(task, rows), metric)
        assert worse > metric.best if metric.best == 0 else worse < metric.best, f"{metric.name} of wrong ones: {worse}"


def metrics_are_sums(task: Task, rows: Sequence[Row]) -> None:
    """Statistics of some answers are rows of those of all: in any order, in any part, and drawn several times."""
    scored = half_wrong(task, rows)
    # what compares, resamples and pools answers relies on this: it sums rows, and never scores again
    order = list(reversed(range(len(scored))))
    for metric in task.metrics:
        statistics = metric.statistics(scored)
        assert statistics.shape[0] == len(scored), metric.name
        assert np.array_equal(metric.statistics([scored[i] for i in order]), statistics[order]), metric.name
        draws = next(resamples(len(scored), 5, seed=1))
        drawn = metric.values(draws @ statistics)
        assert drawn.shape == (5,), metric.name
        again = [value_of([s for s, n in zip(scored, d, strict=True) for _ in range(int(n))], metric) for d in draws]
        assert np.allclose(drawn, again, equal_nan=True), f"{metric.name}: summed {drawn}, counted {again}"


def can_be_resampled(task: Task, rows: Sequence[Row]) -> None:
    """Clusters number the answers, and give an interval that holds the value."""
    # an interval of a handful of answers says nothing
    scored = half_wrong(task, list(rows) * 4)
    clusters, by = task.clusters(scored)
    assert len(clusters) == len(scored)
    assert by
    for metric in task.metrics:
        found = interval(metric.statistics(scored), clusters, metric, draws=200)
        assert found.low <= value_of(scored, metric) <= found.high, metric.name


def counts_what_failed_and_what_is_empty(task: Task, rows: Sequence[Row]) -> None:
    """Failed decodes (empty hypotheses), empty references and no answer at all break nothing."""
    empty: list[Answer] = [{**answer, "hypothesis": "", "failed": "why"} for answer in answers(task, rows)]
    assert measures(task.score(empty, "marks"), task)["failed"] == len(rows)
    silent: list[Answer] = [{**answer, "reference": ""} for answer in answers(task, rows)]
    for given in (empty, silent, []):
        scored = task.score(given, "marks")
        for metric in task.metrics:
            value_of(scored, metric)


def finds_labels_in_answers(task: Task, rows: Sequence[Row]) -> None:
    """Of a task whose answers are labels: each row's is one of its own, found as it is and in a sentence."""
    if not isinstance(task, Chooses):
        return
    rows = [row for row in rows if task.labels(row)]
    for row in rows:
        assert task.reference(row) in task.labels(row), f"{row}: {task.reference(row)} is none of {task.labels(row)}"
    for form in ("{}", "{}.", "Answer: {}", "It is {}, I think."):
        given = [form.format(task.reference(row)) for row in rows]
        found = [one.hypothesis for one in task.score(answers(task, rows, given), "marks")]
        assert found == [task.reference(row) for row in rows], f"not found: {given}"


def task_checks() -> list[TaskCheck]:
    """Every check of the contract; each takes a task and rows with their choices, and fails with an AssertionError."""
    return [
        is_found_by_every_spelling,
        says_what_is_asked,
        keeps_the_order_of_answers,
        faultless_answers_are_the_best,
        metrics_are_sums,
        can_be_resampled,
        counts_what_failed_and_what_is_empty,
        finds_labels_in_answers,
    ]


def check_task(name: str, rows: Sequence[Row] = ROWS) -> int:
    """Hold a registered task to its contract, on rows that it takes; returns how many checks were made."""
    task = TASKS.get(name)
    rows = with_choices(rows, task)
    for check in task_checks():
        check(task, rows)
    return len(task_checks())
