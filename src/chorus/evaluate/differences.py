"""Every system of a comparison against the base and the joint fine-tune: intervals, tests, Holm's correction.

Everything is of the average that the table shows: the unweighted mean over a group's domains.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from chorus.evaluate.bootstrap import Answered, paired_bootstrap, swapped_p
from chorus.evaluate.comparison import Comparison, Difference, Test
from chorus.evaluate.flips import Weighted
from chorus.evaluate.mapsswe import Matched, differences_of, holm, matched_parts
from chorus.evaluate.scores import answered, by_column, value_of
from chorus.tasks.protocol import Metric, OfHits, Task
from chorus.tasks.scored import ERROR_RATE, Scored

Rows = Sequence[Scored]
Domains = Sequence[tuple[Rows, Rows]]  # of each domain the rows of both systems, in one order


def add_differences(
    comparison: Comparison, rows: Mapping[str, Rows], column: str, task: Task, metric: Metric
) -> None:  # fmt: skip
    """Group by group; p values are corrected over the systems that stand against one reference."""
    parts = {label: by_column(own, column) for label, own in rows.items()}
    for reference in filter(None, (comparison.base, comparison.joint)):
        others = [line for line in comparison.lines if line.label != reference]
        for group in comparison.averaged:
            names = [c.name for c in comparison.cells if group in (c.group, "all")]
            pairs = [[(parts[line.label][n], parts[reference][n]) for n in names] for line in others]
            found = [difference(pair, task, metric, reference=reference, group=group) for pair in pairs]
            # a family is what one reader looks through: the systems against one reference in one group
            for line, one, p in zip(others, found, holm([one.p for one in found]), strict=True):
                line.differences.append(replace(one, p=p))


def difference(domains: Domains, task: Task, metric: Metric, *, reference: str, group: str) -> Difference:
    """Two systems on the same utterances, by the unweighted mean over domains of a metric."""
    # as an average leaves them out: domains in which nothing is said have no rate
    known = [(x, y) for x, y in domains if not math.isnan(value_of(x, metric) + value_of(y, metric))]
    points = sum(value_of(x, metric) - value_of(y, metric) for x, y in known) / len(known) if known else math.nan
    pairs = pairs_of(known, task, metric)
    told, (test, matched) = paired_bootstrap(pairs, metric), _matched(known, metric)
    p = matched.p if matched else swapped_p(pairs, metric)
    return Difference(reference, group, points, told.low, told.high, told.p, test, matched, p, p)


def pairs_of(domains: Domains, task: Task, metric: Metric) -> list[Answered]:
    """What is resampled: both systems' statistics, and the clusters of either, as both answer the same recordings."""
    return [answered(x, y, task, metric) for x, y in domains]


def _matched(domains: Domains, metric: Metric) -> tuple[Test, Matched | None]:
    """The exact test over the domains, where the metric has one: an error counts for its share of the average."""
    if domains and metric.name == ERROR_RATE.name:
        return "exact MAPSSWE", matched_parts([
            Weighted(100 / sum(one.counts.length for one in x) / len(domains), _segments(x, y)) for x, y in domains
        ])  # fmt: skip
    if domains and isinstance(metric, OfHits):
        rows = [_rows(x, metric.hits(x), metric.hits(y)) for x, y in domains]
        # where one system's rows are known and the other's are not, they are no pairs, and draws are left
        if None not in rows:
            return "exact McNemar", matched_parts([
                Weighted(100 / count / len(domains), found) for count, found in filter(None, rows)
            ])  # fmt: skip
    return "approximate randomisation", None


def _segments(first: Rows, second: Rows) -> list[int]:
    """Differences by segment; of several seeds an utterance's errors are summed over them, and it is one segment."""
    if len({x.utterance for x in first}) == len(first):
        return differences_of((x.alignment, y.alignment) for x, y in zip(first, second, strict=True))
    # seeds err in the same places: as segments of their own they would be counted as independent, and p be too small
    sums: dict[str, list[int]] = {}
    for x, y in zip(first, second, strict=True):
        both = sums.setdefault(x.utterance, [0, 0])
        both[0] += x.counts.errors
        both[1] += y.counts.errors
    return [a - b for a, b in sums.values() if a or b]


def _rows(
    rows: Rows, first: Sequence[bool | None], second: Sequence[bool | None]
) -> tuple[int, list[int]] | None:  # fmt: skip
    """(rows that are known, differences by utterance) of two systems that are right or wrong; None if unlike ones are.

    Of rows that one alone has right, McNemar (1947): were both equally good, each could as well have been the other's,
    and how many are each one's is binomial. Of several seeds an utterance's are summed, as segments are.
    """
    sums: dict[str, int] = {}
    for row, a, b in zip(rows, first, second, strict=True):
        if (a is None) != (b is None):
            return None
        # a row that nobody tells of is in neither system's share
        if a is not None and b is not None:
            sums[row.utterance] = sums.get(row.utterance, 0) + b - a
    return sum(one is not None for one in first), list(sums.values())
