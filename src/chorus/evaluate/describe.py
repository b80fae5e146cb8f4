"""Evaluations as tables: rates with intervals, by domain, language, speaker and condition; the worst utterances.

A table is of one task: `by_task` parts those of several. Of texts it tells error rates, of labels the task's metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

from chorus.evaluate.bootstrap import Interval
from chorus.evaluate.facts import IntervalFacts, Macro, Measures
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import by_column, counts_edits, interval_facts, interval_of, known, macro, value_of
from chorus.evaluate.summary import main_condition, main_rows
from chorus.models.languages import is_known
from chorus.tables import Table
from chorus.tasks.counts import shown
from chorus.tasks.loops import without_spaces

NAMED = 5  # languages in a note


def number(value: float | None, digits: int = 2) -> str:
    """A rate, or a dash where it is not defined."""
    return "-" if value is None else f"{value:.{digits}f}"


def with_interval(measured: Macro) -> str:
    """A rate and its 95 % interval."""
    return number(measured["error_rate"]) + _inside(measured["interval"])


def _inside(interval: IntervalFacts) -> str:
    low, high = interval["low"], interval["high"]
    return "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"


def rate_name(measured: Measures) -> str:
    """What the error rate counts."""
    return {"words": "WER", "characters": "CER", "mixed": "WER or CER"}[measured["unit"]]


def clusters_note(measured: Macro) -> str:
    """What the interval resamples, and what that means."""
    told = measured["interval"]
    if told["by"] == "speaker":
        return f"95 % intervals by resampling {told['clusters']} speakers"
    return (
        "95 % intervals by resampling utterances, as there are fewer than 20 speakers: they tell how sure the rate is "
        "for these speakers, not for others"
    )


def unit_notes(evaluation: Evaluation) -> list[str]:
    """What may be counted in the wrong unit: a language that is not known or not told is never guessed."""
    rows = [r for r in evaluation.scored if r.unit == "words"] if evaluation.summary["unit"] is None else []
    unspaced = [r for r in rows if without_spaces(r.reference)]
    unknown = sorted({r.language for r in rows if r.language and not is_known(r.language)})
    found = []
    if unspaced:
        found.append(f"counted in words, though written without spaces: {len(unspaced)} references")
    if unknown:
        found.append(f"counted in words, of languages that are not known: {', '.join(unknown[:NAMED])}")
    return [f"{one} (--unit characters, or a column language)" for one in found]


def by_task(evaluations: Sequence[Evaluation]) -> list[list[Evaluation]]:
    """Those of one task together, in the order of first appearance: no column of a table means the same of two."""
    found: dict[str, list[Evaluation]] = {}
    for one in evaluations:
        found.setdefault(one.task.name, []).append(one)
    return list(found.values())


def main_table(evaluations: Sequence[Evaluation]) -> Table:
    """A line a system: everything that one number hides."""
    if not counts_edits(evaluations[0].task):
        return _answers_table(evaluations)
    first = evaluations[0].summary
    ways = [_way(one) for one in evaluations]
    # one for all is told once, above; of several each stands in its own line
    mixed = len(set(ways)) > 1
    title = (
        f"{rate_name(first['all'])} in percent, normaliser {first['normaliser']}, "
        f"{first['all']['utterances']} utterances, {first['test']['hours']:.2f} h"
        f"{'' if mixed else ', ' + ways[0]}"
    )
    columns = [
        "system", "error rate [95 %]", "as written", "CER", "MER", "WIL", "sub", "del", "ins", "loops %", "failed",
        "times real time",
    ]  # fmt: skip
    # a column that is nearly always nought stands there only where it is not
    cut = any(one.summary["all"]["cut"] for one in evaluations)
    columns[-1:-1] = ["cut"] * cut
    columns[1:1] = ["decoded by"] * mixed
    rows = []
    for one, way in zip(evaluations, ways, strict=True):
        told = one.summary
        every = told["all"]
        edits = every["words"] if every["unit"] == "words" else every["characters"]
        speed = told["timing"]["real_time_factor"]
        rows.append([
            one.label, *[way] * mixed, with_interval(every), number(told["orthographic"]["error_rate"]),
            number(every["cer"]), number(every["mer"]), number(every["wil"]), str(edits["substitutions"]),
            str(edits["deletions"]), str(edits["insertions"]), number(every["hallucination"]["looping_percent"], 1),
            str(every["failed"]), *[str(every["cut"])] * cut, f"{1 / speed:.1f}" if speed else "-",
        ])  # fmt: skip
    return Table(title, columns, rows)


def _answers_table(evaluations: Sequence[Evaluation]) -> Table:
    """A line a system, of tasks whose answers are right or wrong: their metrics under the main condition."""
    first = evaluations[0].summary
    told = [one.summary["metrics"][main_condition(one.summary["conditions"])] for one in evaluations]
    # what no runtime here tells needs no column
    names = [name for name in told[0] if any(name in one and one[name]["value"] is not None for one in told)]
    columns = ["system", *(f"{told[0][name]['title']} [95 %]" for name in names), "failed", "cut", "times real time"]
    rows = []
    for one, metrics in zip(evaluations, told, strict=True):
        every, speed = one.summary["all"], one.summary["timing"]["real_time_factor"]
        cells = [number(metrics[n]["value"]) + _inside(metrics[n]["interval"]) if n in metrics else "-" for n in names]
        rows.append([
            one.label, *cells, str(every["failed"]), str(every["cut"]), f"{1 / speed:.1f}" if speed else "-"
        ])  # fmt: skip
    ways = ", ".join(dict.fromkeys(map(_way, evaluations)))
    title = (
        f"{first['decoding']['task']}, percent, {first['all']['utterances']} utterances, "
        f"{first['test']['hours']:.2f} h, {ways}"
    )
    return Table(title, columns, rows)


def _way(one: Evaluation) -> str:
    return f"{one.summary['backend']}, beam {one.summary['decoding']['beam']}"


def group_table(evaluations: Sequence[Evaluation], column: str) -> Table | None:
    """Systems by the values of a column, with the unweighted mean; None where there is nothing to tell apart."""
    # of all, in the order of appearance: evaluations of other recordings may stand in one table here
    values = list(dict.fromkeys(v for one in evaluations for v in one.summary["by"].get(column, {})))
    if len(values) < 2:
        return None
    if not counts_edits(evaluations[0].task):
        return _answers_by(evaluations, column, values)
    rows = []
    for one in evaluations:
        groups = one.summary["by"][column]
        cells = [with_interval(groups[v]) if v in groups else "-" for v in values]
        mean = one.summary["macro"].get(column)
        rows.append([one.label, *cells, *([with_interval(mean)] if mean else [])])
    means = ["macro average"] if column in evaluations[0].summary["macro"] else []
    return Table(f"by {column}", ["system", *values, *means], rows)


def _answers_by(evaluations: Sequence[Evaluation], column: str, values: Sequence[str]) -> Table:
    """The first metric by the values of a column, with the unweighted mean where one is told."""
    means = ["macro average"] if column in evaluations[0].summary["macro"] else []
    rows = []
    for one in evaluations:
        metric = one.task.metrics[0]
        parts = by_column(main_rows(one.scored, one.summary["conditions"]), column)
        parts = {name or "(none)": part for name, part in parts.items()}
        cells = [
            _told(value_of(parts[v], metric), interval_of(parts[v], one.task, metric)) if v in parts else "-"
            for v in values
        ]
        rows.append([one.label, *cells, *([_told(*macro(parts, one.task, metric))] if means else [])])
    return Table(f"{evaluations[0].task.metrics[0].title} by {column}", ["system", *values, *means], rows)


def _told(value: float, interval: Interval) -> str:
    return number(known(value)) + _inside(interval_facts(interval))


def condition_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """Systems by condition; None where there is one only."""
    conditions = list(dict.fromkeys(c for one in evaluations for c in one.summary["conditions"]))
    # of what is no text the table of metrics tells all conditions
    if len(conditions) < 2 or not counts_edits(evaluations[0].task):
        return None
    told = [(one.label, one.summary["conditions_measured"]) for one in evaluations]
    rows = [[label, *(with_interval(own[c]) if c in own else "-" for c in conditions)] for label, own in told]
    return Table("by condition", ["system", *conditions], rows)


def metrics_table(evaluations: Sequence[Evaluation]) -> Table | None:
    """A task's own metrics beside the error rate, such as BLEU, with intervals; None where it has none."""
    first = next(iter(evaluations[0].summary["metrics"].values()))
    several = any(len(one.summary["metrics"]) > 1 for one in evaluations)
    # what is no text has its main condition in the main table
    if not first or not (several or counts_edits(evaluations[0].task)):
        return None
    rows = []
    for one in evaluations:
        for condition, told in one.summary["metrics"].items():
            if told.keys() != first.keys():  # another version's of the task
                continue
            cells = [number(metric["value"]) + _inside(metric["interval"]) for metric in told.values()]
            rows.append([one.label, condition, *cells])
    titles = [metric["title"] for metric in first.values()]
    by_signature: dict[str, list[str]] = {}
    for metric in first.values():
        by_signature.setdefault(metric["signature"], []).append(metric["title"])
    notes = [f"{', '.join(named)}: {signature}" for signature, named in by_signature.items()]
    return Table(f"{', '.join(titles)} [95 %]", ["system", "condition", *titles], rows, notes)


def worst(evaluation: Evaluation, count: int) -> list[str]:
    """The utterances with most errors, each with its alignment."""
    # by name last: equals stand in the same order on every machine
    ranked = sorted(evaluation.scored, key=lambda r: (-r.counts.errors, -(r.counts.error_rate or 0), r.name))
    lines = []
    for row in [r for r in ranked if r.counts.errors][:count]:
        facts = ", ".join(filter(None, (row.condition, row.domain, row.language, row.speaker)))
        lines.append(f"{row.name} ({facts}): {row.counts.errors} errors of {row.counts.length} {row.unit}")
        if row.failed:
            lines.append(f"  failed: {row.failed}")
        lines += [f"  {line}" for line in shown(row.reference, row.hypothesis, row.unit, row.alignment)]
        lines.append("")
    return lines
