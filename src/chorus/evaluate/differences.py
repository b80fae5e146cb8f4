"""Every system of a comparison against the base and the joint fine-tune: MAPSSWE, paired bootstrap, Holm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from chorus.evaluate.bootstrap import paired_bootstrap
from chorus.evaluate.comparison import Comparison, Difference
from chorus.evaluate.mapsswe import Matched, holm, mapsswe, matched
from chorus.evaluate.scores import value_of
from chorus.tasks.protocol import Metric, Task
from chorus.tasks.scored import ERROR_RATE, Scored

Pairs = Sequence[tuple[Scored, Scored]]


def add_differences(comparison: Comparison, rows: Mapping[str, Sequence[Scored]], column: str, task: Task) -> None:
    """Group by group; p values are corrected over the systems that stand against one reference."""
    for reference in filter(None, (comparison.base, comparison.joint)):
        others = [line for line in comparison.lines if line.label != reference]
        for group in comparison.groups:
            names = {c.name for c in comparison.cells if c.group == group}
            found = []
            for line in others:
                every = zip(rows[line.label], rows[reference], strict=True)
                pairs = [(x, y) for x, y in every if getattr(x, column) in names]
                found.append(difference(pairs, task, reference=reference, group=group))
            # a family is what one reader looks through: the systems against one reference in one group
            adjusted = holm([one.mapsswe.p if one.mapsswe else one.p_bootstrap for one in found])
            for line, one, p in zip(others, found, adjusted, strict=True):
                line.differences.append(replace(one, p=p))


def difference(pairs: Pairs, task: Task, *, reference: str, group: str) -> Difference:
    """Two systems on the same utterances, by the first metric of their task."""
    metric: Metric = task.metrics[0]
    first, second = [x for x, _ in pairs], [y for _, y in pairs]
    # of either: both answer the same recordings, so their speakers are the same
    clusters, _ = task.clusters(first)
    low, high, p = paired_bootstrap(metric.statistics(first), metric.statistics(second), clusters, metric)
    points = value_of(first, metric) - value_of(second, metric)
    edits_count = metric.name == ERROR_RATE.name
    return Difference(reference, group, points, low, high, p, _matched(pairs) if edits_count else None)


def _matched(pairs: Pairs) -> Matched:
    """MAPSSWE; of several seeds an utterance's errors are summed over them, and each utterance is one segment."""
    if len({x.utterance for x, _ in pairs}) == len(pairs):
        return mapsswe((x.alignment, y.alignment) for x, y in pairs)
    # seeds err in the same places: as segments of their own they would be counted as independent, and p be too small
    sums: dict[str, list[int]] = {}
    for x, y in pairs:
        both = sums.setdefault(x.utterance, [0, 0])
        both[0] += x.counts.errors
        both[1] += y.counts.errors
    return matched([a - b for a, b in sums.values() if a or b])
