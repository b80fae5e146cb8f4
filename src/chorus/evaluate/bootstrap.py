"""Intervals and paired tests of error rates by resampling whole clusters (speakers), or utterances.

An error rate is a ratio of two sums, so that only each cluster's errors and lengths are resampled: B draws of C
clusters are one product of a [B, C] matrix of counts with [C, 2] sums. Percentile intervals of few clusters are too
narrow; their level is widened as Hesterberg (2015, What teachers should know about the bootstrap, section 5.3) does,
by the t distribution and the factor sqrt(C / (C - 1)).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.lazy import lazy

stats = lazy("scipy.stats")

Floats = NDArray[np.float64]
MIN_CLUSTERS = 20
DRAWS = 2000
BLOCK_VALUES = 20_000_000  # of a matrix of draws at a time


@dataclass(frozen=True)
class Interval:
    """A 95 % interval, and what was resampled to get it."""

    low: float
    high: float
    by: str  # speaker, or utterance
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        return vars(self)


def clusters_of(
    speakers: Sequence[str], utterances: Sequence[str], *, least: int = MIN_CLUSTERS
) -> tuple[NDArray[np.int64], str]:
    """(the cluster of each row, what a cluster is): speakers, or utterances where there are too few."""
    enough = "" not in speakers and len(set(speakers)) >= least
    values = speakers if enough else utterances
    names = {name: i for i, name in enumerate(dict.fromkeys(values))}
    return np.array([names[v] for v in values], np.int64), "speaker" if enough else "utterance"


def interval(
    errors: Floats, lengths: Floats, clusters: NDArray[np.int64], *, by: str = "utterance", level: float = 0.95,
    draws: int = DRAWS, seed: int = 0, widen: bool = True,
) -> Interval:  # fmt: skip
    """The interval of 100 * sum(errors) / sum(lengths); NaN where there is nothing to resample.

    `errors` and `lengths` [utterances]; `clusters` numbers each utterance's cluster.
    """
    sums = _sums(np.column_stack([errors, lengths]), clusters)
    count = len(sums)
    if count < 2 or not sums[:, 1].sum():
        return Interval(float("nan"), float("nan"), by, count)
    if not sums[:, 0].any():
        return Interval(0.0, _perfect(level, count), by, count)
    found = np.concatenate([100 * _ratio(w @ sums) for w in resamples(count, draws, seed)])
    low, high = np.nanquantile(found, tails(level, count) if widen else ((1 - level) / 2, (1 + level) / 2))
    return Interval(float(low), float(high), by, count)


def _perfect(level: float, count: int) -> float:
    """The upper end where nothing was wrong, which resampling cannot tell: the exact binomial bound."""
    return float(100 * (1 - ((1 - level) / 2) ** (1 / count)))


def macro_interval(
    parts: Sequence[tuple[Floats, Floats, NDArray[np.int64]]], *, by: str = "utterance", level: float = 0.95,
    draws: int = DRAWS, seed: int = 0,
) -> Interval:  # fmt: skip
    """The interval of the unweighted mean of several parts' error rates, each resampled within itself."""
    if not any(errors.any() for errors, _, _ in parts):
        count = sum(len(np.unique(clusters)) for _, _, clusters in parts)
        return Interval(0.0, _perfect(level, count), by, count)
    means, smallest = np.zeros(draws), 10**9
    for number, (errors, lengths, clusters) in enumerate(parts):
        sums = _sums(np.column_stack([errors, lengths]), clusters)
        if len(sums) < 2:
            return Interval(float("nan"), float("nan"), by, len(sums))
        smallest = min(smallest, len(sums))
        drawn = resamples(len(sums), draws, seed + 7919 * number)
        means += np.concatenate([100 * _ratio(w @ sums) for w in drawn]) / len(parts)
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
        chosen = rng.integers(count, size=(size, count)) + np.arange(size)[:, None] * count
        yield np.bincount(chosen.ravel(), minlength=size * count).reshape(size, count).astype(np.float64)


def paired_bootstrap(
    errors_a: Floats, errors_b: Floats, lengths: Floats, clusters: NDArray[np.int64], *, draws: int = DRAWS,
    seed: int = 0,
) -> tuple[float, float, float]:  # fmt: skip
    """(low, high, p) of the difference a - b of two systems on the same utterances, in points.

    p is two-sided: twice the smaller share of draws on one side of zero (Bisani & Ney 2004), of which ties are on both.
    """
    sums = _sums(np.column_stack([errors_a, errors_b, lengths]), clusters)
    if len(sums) < 2 or not sums[:, 2].sum():
        return float("nan"), float("nan"), float("nan")
    parts = [w @ sums for w in resamples(len(sums), draws, seed)]
    drawn = np.concatenate(parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        difference = 100 * (drawn[:, 0] - drawn[:, 1]) / drawn[:, 2]
    low, high = np.nanquantile(difference, tails(0.95, len(sums)))
    below = (np.sum(difference <= 0) + 1) / (draws + 1)
    above = (np.sum(difference >= 0) + 1) / (draws + 1)
    return float(low), float(high), float(min(1.0, 2 * min(below, above)))


def _sums(values: Floats, clusters: NDArray[np.int64]) -> Floats:
    """Each cluster's sums [clusters, columns]."""
    _, index = np.unique(clusters, return_inverse=True)
    found = np.zeros((int(index.max()) + 1 if len(index) else 0, values.shape[1]))
    np.add.at(found, index, values)
    return found


def _ratio(sums: Floats) -> Floats:
    lengths = np.where(sums[:, 1] > 0, sums[:, 1], np.nan)  # a draw without a reference has no rate
    found: Floats = sums[:, 0] / lengths
    return found
