"""From counted answers to measures: rates with intervals, what is hallucinated, what failed, by any column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import UsageError, nearest
from chorus.evaluate.bootstrap import NAN, Answered, Interval, interval, macro_interval
from chorus.evaluate.facts import CountFacts, IntervalFacts, Measures, MetricFacts, Units
from chorus.files import shown
from chorus.tasks.counts import Counts, total
from chorus.tasks.protocol import SignsRows
from chorus.tasks.scored import ERROR_RATE, Scored

if TYPE_CHECKING:
    from chorus.tasks.protocol import Metric, Task

COLUMNS = ("domain", "language", "speaker")


def unit_of(rows: Sequence[Scored]) -> Units:
    """What an error rate over these rows counts."""
    units = {row.unit for row in rows}
    # no row at all counts as words, as most languages do
    return "words" if units <= {"words"} else "characters" if units == {"characters"} else "mixed"


def value_of(rows: Sequence[Scored], metric: Metric = ERROR_RATE) -> float:
    """A metric pooled over rows; NaN where it is not defined."""
    if not rows:
        return NAN
    return float(metric.values(metric.statistics(rows).sum(axis=0, keepdims=True))[0])


def counts_edits(task: Task) -> bool:
    """Whether a task's answers are texts, of which an error rate tells something; else they are labels."""
    return any(metric.name == ERROR_RATE.name for metric in task.metrics)


def metric_of(task: Task, name: str) -> Metric:
    """A task's metric by its name; `UsageError` names the nearest."""
    every = {metric.name: metric for metric in task.metrics}
    if name not in every:
        raise UsageError(
            f'task {task.name} has no metric "{shown(name)}"{nearest(name, every)}', f"it has {', '.join(every)}"
        )
    return every[name]


def interval_of(rows: Sequence[Scored], task: Task, metric: Metric = ERROR_RATE) -> Interval:
    """The 95 % interval of a pooled metric."""
    clusters, by = task.clusters(rows)
    return interval(metric.statistics(rows), clusters, metric, by=by)


def macro(parts: Mapping[str, Sequence[Scored]], task: Task, metric: Metric = ERROR_RATE) -> tuple[float, Interval]:
    """The unweighted mean of parts' values, of those that have one, and its interval."""
    values = {name: value_of(rows, metric) for name, rows in parts.items()}
    known_parts = [parts[name] for name, value in values.items() if not math.isnan(value)]
    if not known_parts:
        return NAN, Interval(NAN, NAN, "utterance", 0)
    every, kind = [], "speaker"
    for rows in known_parts:
        clusters, by = task.clusters(rows)
        # one part without enough speakers makes the whole a statement about these speakers only
        kind = "utterance" if by == "utterance" else kind
        every.append((metric.statistics(rows), clusters))
    mean = float(np.mean([value for value in values.values() if not math.isnan(value)]))
    return mean, macro_interval(every, metric, by=kind)


def answered(x: Sequence[Scored], y: Sequence[Scored], task: Task, metric: Metric) -> Answered:
    """Two systems' answers to the same utterances, counted together: columns of statistics may follow from answers."""
    both = metric.statistics([*x, *y])
    return Answered(both[: len(x)], both[len(x) :], task.clusters(x)[0])


def measures(rows: Sequence[Scored], task: Task) -> Measures:
    """Everything that is told of a set of rows."""
    words, characters = total(r.words for r in rows), total(r.characters for r in rows)
    silent = [r for r in rows if not r.reference]
    spoken = [r for r in rows if r.reference]
    # in characters, over all: of single short answers it would say nothing. Much above 1 is invented, much below left
    # out
    ratio = sum(len(r.hypothesis) for r in spoken) / max(1, sum(len(r.reference) for r in spoken))
    in_silence = sum(r.words.insertions for r in silent)
    minutes = sum(r.seconds for r in silent) / 60
    return {
        "utterances": len(rows),
        "seconds": round(sum(r.seconds for r in rows), 3),
        "failed": sum(bool(r.failed) for r in rows),
        "cut": sum(r.cut for r in rows),
        "empty_references": len(silent),
        "unit": unit_of(rows),
        "error_rate": known(value_of(rows)),
        "interval": interval_facts(interval_of(rows, task)),
        "wer": known(words.error_rate),
        "cer": known(characters.error_rate),
        "mer": known(words.match_error_rate),
        "wil": known(words.information_lost),
        "words": count_facts(words),
        "characters": count_facts(characters),
        "hallucination": {
            "looping_percent": 100 * sum(r.loops for r in rows) / max(1, len(rows)),
            "words_in_silence": in_silence,
            "words_per_silent_minute": in_silence / minutes if minutes else None,
            "length_ratio": ratio if spoken else None,
        },
    }


def metric_facts(rows: Sequence[Scored], task: Task, metric: Metric) -> MetricFacts:
    """One of a task's own metrics over a set of rows."""
    return {
        "title": metric.title,
        "value": known(value_of(rows, metric)),
        "interval": interval_facts(interval_of(rows, task, metric)),
        "signature": metric.signature_of(rows) if isinstance(metric, SignsRows) else metric.signature(),
    }


def count_facts(counts: Counts) -> CountFacts:
    """For JSON."""
    return {
        "hits": counts.hits, "substitutions": counts.substitutions, "deletions": counts.deletions,
        "insertions": counts.insertions,
    }  # fmt: skip


def interval_facts(found: Interval) -> IntervalFacts:
    """For JSON."""
    return {"low": known(found.low), "high": known(found.high), "by": found.by, "clusters": found.clusters}


def known(value: float) -> float | None:
    """None for NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def by_column(rows: Sequence[Scored], column: str) -> dict[str, list[Scored]]:
    """Rows by a column's value, in the order of first appearance."""
    found: dict[str, list[Scored]] = {}
    for row in rows:
        found.setdefault(getattr(row, column), []).append(row)
    return found
