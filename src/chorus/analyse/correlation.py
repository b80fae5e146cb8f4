"""Whether geometry foretells interference: cosines and projections of differences against what rows gain and recover.

    cosine      of two models' differences, against the share that either gains in a row where the other is at home
    projection  <D_M, D_t> / |D_t|^2 of a merge M on model t, against the recovery of M in the rows of t

Pearson's r of the values, Spearman's of their ranks. Few pairs are the rule here: both numbers are given with n.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np

from chorus.analyse.facts import WeightAnalysis, WeightGroup
from chorus.analyse.interference_facts import Correlation, Interference
from chorus.errors import MisfitError

LEAST = 3  # two points lie on a line, whatever they are
Pair = tuple[float, float]


def with_correlations(found: Interference, weights: WeightAnalysis) -> Interference:
    """The matrix with the correlations to an analysis of the same models' weights, in the whole model and its parts.

    Models are found by their labels. `MisfitError` where no two models are in both.
    """
    groups = [*weights.groups["all"], *weights.groups["component"]]
    made = []
    for group in groups:
        where = "whole model" if group.name == "all" else group.name
        for kind, pairs in (("cosine", list(_cosines(found, group))), ("projection", list(_projections(found, group)))):
            if pairs:
                made.append(Correlation(kind, where, len(pairs), pearson(pairs), spearman(pairs)))
    if not made:
        told = f"evaluated: {', '.join(found.specialists)}; weights of: {', '.join([*weights.models, *weights.merges])}"
        raise MisfitError(f"no two models are in both, by their labels ({told})", "name them alike: NAME=MODEL")
    return replace(found, correlations=made)


def _cosines(found: Interference, group: WeightGroup) -> Iterator[Pair]:
    cosines = {frozenset((one.a, one.b)): one.cosine for one in group.pairs}
    homes = {one.specialist: one.homes for one in found.outgoing}
    # both ways: the cosine is one, what they do to each other is two
    for model, other in permutations(found.specialists, 2):
        cosine = cosines.get(frozenset((model, other)))
        for row in homes[other]:
            effect = found.effect(model, row)
            if cosine is not None and effect is not None and effect.share is not None and row not in homes[model]:
                yield cosine, effect.share


def _projections(found: Interference, group: WeightGroup) -> Iterator[Pair]:
    others = {one.system: one.recovery for one in found.others}
    homes = {one.specialist: one.homes for one in found.outgoing}
    for one in group.merges:
        for row in homes.get(one.model, ()):
            recovery = others.get(one.merge, {}).get(row)
            if one.projection is not None and recovery is not None:
                yield one.projection, recovery


def pearson(pairs: Sequence[Pair]) -> float | None:
    """Of the values; None of fewer than three, and where all of one side are the same.

    >>> pearson([(0, 1), (1, 3), (2, 5)])
    1.0
    """
    if len(pairs) < LEAST:
        return None
    x, y = (np.array(side, np.float64) - np.mean(side) for side in zip(*pairs, strict=True))
    size = float(np.sqrt((x @ x) * (y @ y)))
    # rounding alone leaves a little of numbers that are all the same
    if size <= 1e-12 * max(1.0, *(abs(v) for pair in pairs for v in pair)) ** 2:
        return None
    return round(max(-1.0, min(1.0, float(x @ y) / size)), 12)


def spearman(pairs: Sequence[Pair]) -> float | None:
    """Of the ranks, equal values sharing the mean of theirs.

    >>> spearman([(0, 1), (1, 10), (2, 100), (3, 99)])
    0.8
    """
    if len(pairs) < LEAST:
        return None
    return pearson(list(zip(*(_ranks(side) for side in zip(*pairs, strict=True)), strict=True)))


def _ranks(values: Sequence[float]) -> list[float]:
    array = np.array(values)
    return [float((array < v).sum() + ((array == v).sum() + 1) / 2) for v in array]
