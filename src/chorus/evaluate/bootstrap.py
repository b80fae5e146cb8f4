"""Intervals and paired tests of metrics by resampling whole clusters (speakers), or utterances.

A metric is a function of summed statistics (tasks/protocol.py), so that only each cluster's sums are resampled: B
draws of C clusters are one product of a [B, C] matrix of counts with [C, k] sums. Percentile intervals of few clusters
are too narrow; their level is widened as Hesterberg (2015, What teachers should know about the bootstrap, section 5.3)
does, by the t distribution and the factor sqrt(C / (C - 1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chorus.lazy import lazy
from chorus.tasks.protocol import Bounded
from chorus.tasks.scored import ERROR_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from scipy import stats

    from chorus.tasks.protocol import Metric
    from chorus.tasks.scored import Clusters, Floats
else:
    stats = lazy("scipy.stats")

DRAWS = 2000
SWAPS = 3999  # a score of sacrebleu costs as much as hundreds of a rate
ROUNDING = 1e-9  # of points: draws that differ by less are ties
LEVEL = 0.95
BLOCK_VALUES = 20_000_000  # of a matrix of draws at a time
NAN = float("nan")


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, and what was resampled to get it."""

    low: float
    high: float
    by: str  # speaker, or utterance
    clusters: int


def interval(
    statistics: Floats, clusters: Clusters, metric: Metric = ERROR_RATE, *, by: str = "utterance", level: float = LEVEL,
    draws: int = DRAWS, seed: int = 0, widen: bool = True,
) -> Interval:  # fmt: skip
    """The interval of a metric over some answers; NaN where there is nothing to resample.

    `statistics` [answers, k] as the metric gives them; `clusters` [answers] numbers each answer's cluster.
    """
    sums = _sums(statistics, clusters)
    count = len(sums)
    value = _value(metric, sums)
    if count < 2 or np.isnan(value):
        return Interval(NAN, NAN, by, count)
    # every resample of answers that are all right, or all wrong, is so again: the interval would be a point
    if value in _ends(metric):
        return _at_an_end(value, metric, [sums], by, level)
    found = np.concatenate([metric.values(w @ sums) for w in resamples(count, draws, seed)])
    low, high = np.nanquantile(found, tails(level, count) if widen else ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), by, count)


def _value(metric: Metric, sums: Floats) -> float:
    return float(metric.values(sums.sum(axis=0, keepdims=True))[0]) if len(sums) else NAN


def _ends(metric: Metric) -> tuple[float, ...]:
    """The values where nothing is wrong and where all is; of error rates the latter has no bound."""
    return (metric.best,) if metric.best == 0 else (0.0, metric.best)


def _at_an_end(value: float, metric: Metric, parts: Sequence[Floats], by: str, level: float = LEVEL) -> Interval:
    """Where nothing was wrong, or all, which resampling cannot tell: the exact binomial bound at the other end."""
    count, tail = sum(map(len, parts)), (1 - level) / 2
    if isinstance(metric, Bounded) and value == metric.best:
        bound = sum(metric.bound(sums, tail) for sums in parts) / len(parts)
    else:
        # Clopper and Pearson's for 0 of n; of a cluster, not of a word, as words of one speaker fail together
        bound = float(100 * (1 - tail ** (1 / count)))
    low, high = (0.0, bound) if value == 0 else (value - bound, value)
    return Interval(low, high, by, count)


def macro_interval(
    parts: Sequence[tuple[Floats, Clusters]], metric: Metric = ERROR_RATE, *, by: str = "utterance",
    level: float = LEVEL, draws: int = DRAWS, seed: int = 0,
) -> Interval:  # fmt: skip
    """The interval of the unweighted mean of a metric over several parts, each resampled within itself."""
    summed = [_sums(statistics, clusters) for statistics, clusters in parts]
    for end in _ends(metric):
        if all(_value(metric, sums) == end for sums in summed):
            return _at_an_end(end, metric, summed, by, level)
    means = np.zeros(draws)
    for number, sums in enumerate(summed):
        if len(sums) < 2:
            return Interval(NAN, NAN, by, len(sums))
        # the parts are independent: each is drawn under a seed of its own
        drawn = resamples(len(sums), draws, seed + 7919 * number)
        means += np.concatenate([metric.values(w @ sums) for w in drawn]) / len(parts)
    # widened as the smallest part needs it: rather too wide than too narrow
    smallest = min(map(len, summed))
    # NaN where a draw holds no reference word
    low, high = np.nanquantile(means, tails(level, smallest))
    return Interval(float(low), float(high), by, smallest)


def tails(level: float, clusters: int) -> tuple[float, float]:
    """The quantiles that a percentile interval of so many clusters takes."""
    widened = stats.t.ppf((1 + level) / 2, clusters - 1) * np.sqrt(clusters / (clusters - 1))
    low = float(stats.norm.cdf(-widened))
    return low, 1 - low


def resamples(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """How often each of `count` clusters is drawn in each of `draws` resamples, in blocks [some draws, count]."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK_VALUES // count)
    for first in range(0, draws, step):
        size = min(step, draws - first)
        # each draw counts in bins of its own, so that one bincount does for the whole block
        chosen = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


class Answered(NamedTuple):
    """Two systems' statistics [answers, k] of the same utterances of one domain, and each answer's cluster."""

    first: Floats
    second: Floats
    clusters: Clusters


@dataclass(frozen=True)
class PairedInterval:
    """How sure a difference is, in points: its 95 % interval, and a two-sided p value of resampling."""

    low: float
    high: float
    p: float


NOT_PAIRED = PairedInterval(NAN, NAN, NAN)  # too little to resample


def paired_bootstrap(
    pairs: Sequence[Answered], metric: Metric | Sequence[Metric] = ERROR_RATE, *, draws: int = DRAWS, seed: int = 0
) -> PairedInterval:
    """Of the difference of two systems' unweighted means over domains, each domain resampled within itself.

    `metric` is that of all domains, or one for each.

    p is twice the smaller share of draws on one side of zero (Bisani & Ney 2004), of which ties are on both.
    """
    summed = _summed(pairs)
    metrics = list(metric) if isinstance(metric, Sequence) else [metric] * len(summed)
    if not summed or min(len(a) for a, _ in summed) < 2:
        return NOT_PAIRED
    if any(np.isnan(_value(one, a)) for one, (a, _) in zip(metrics, summed, strict=True)):
        return NOT_PAIRED
    difference = np.zeros(draws)
    for number, (one, (sums_a, sums_b)) in enumerate(zip(metrics, summed, strict=True)):
        # the same draws for both: what is hard for one is hard for the other, and cancels
        drawn = resamples(len(sums_a), draws, seed + 7919 * number)
        points = np.concatenate([one.values(w @ sums_a) - one.values(w @ sums_b) for w in drawn])
        difference += points / len(summed)
    difference = difference[~np.isnan(difference)]  # NaN where a draw holds no reference word: of neither side
    low, high = np.quantile(difference, tails(LEVEL, min(len(a) for a, _ in summed)))
    return PairedInterval(float(low), float(high), _two_sided(difference <= 0, difference >= 0))


def swapped_p(pairs: Sequence[Answered], metric: Metric, *, draws: int = SWAPS, seed: int = 0) -> float:
    """The two-sided p value of the same difference by approximate randomisation (Noreen 1989; Riezler & Maxwell 2005).

    Were the systems equally good, a cluster's answers could as well have come from the other one: in each draw half the
    clusters change sides. For metrics that have no exact test (differences.py).
    """
    summed = _summed(pairs)
    if not summed or any(np.isnan(_value(metric, a)) for a, _ in summed):
        return NAN
    seen, found = 0.0, np.zeros(draws)
    for number, (sums_a, sums_b) in enumerate(summed):
        seen += (_value(metric, sums_a) - _value(metric, sums_b)) / len(summed)
        drawn = np.concatenate([
            metric.values(sums_a.sum(0) + w @ (sums_b - sums_a)) - metric.values(sums_b.sum(0) + w @ (sums_a - sums_b))
            for w in _sides(len(sums_a), draws, seed + 7919 * number)
        ])  # fmt: skip
        found += drawn / len(summed)
    # plus one: the sample itself is one of the draws, so that p is never 0 (Davison & Hinkley 1997, chapter 4)
    return float((np.sum(np.abs(found) >= abs(seen) - ROUNDING) + 1) / (draws + 1))


def _sides(count: int, draws: int, seed: int) -> Iterator[Floats]:
    """Which of `count` clusters change sides in each draw, in blocks [some draws, count]."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK_VALUES // count)
    for first in range(0, draws, step):
        yield rng.integers(2, size=(min(step, draws - first), count), dtype=np.int8).astype(np.float64)


def _two_sided(below: NDArray[np.bool_], above: NDArray[np.bool_]) -> float:
    # plus one, as above
    least = min(np.sum(below), np.sum(above)) + 1
    return float(min(1.0, 2 * least / (len(below) + 1)))


def _summed(pairs: Sequence[Answered]) -> list[tuple[Floats, Floats]]:
    """Both systems' sums by cluster, of each domain."""
    return [(_sums(first, clusters), _sums(second, clusters)) for first, second, clusters in pairs]


def _sums(values: Floats, clusters: Clusters) -> Floats:
    """Each cluster's sums [clusters, columns]."""
    _, index = np.unique(clusters, return_inverse=True)
    found = np.zeros((int(index.max()) + 1 if len(index) else 0, values.shape[1]))
    # not found[index] += values, which adds only once where an index comes again
    np.add.at(found, index, values)
    return found
