"""How often each row is learnt, where tasks or domains of unlike sizes are learnt together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.data.utterance import Utterance
from chorus.errors import RecipeError, nearest
from chorus.lazy import lazy
from chorus.train.asked import task_of
from chorus.train.config import LANGUAGE_MODELLING, TrainConfig

if TYPE_CHECKING:
    import numpy
    from numpy.random import Generator
    from numpy.typing import NDArray
else:
    numpy = lazy("numpy")

ROUNDING = 1e-9  # of shares: what is a whole number of times but for it


def shares(utterances: Sequence[Utterance], config: TrainConfig) -> list[float] | None:
    """Of each row its share of an epoch, all together one; None where each row has the same.

    A group of n rows gets n ** (1 / temperature) times its weight, as multilingual training does (Arivazhagan et al.
    2019, arXiv 1907.05019); with `rare` a row counts 1 / sqrt(rows of its group with its answer) within the group.
    """
    mix = config.data.mix
    if mix is None:
        return None
    groups = [_group(one, config, mix.by) for one in utterances]
    unknown = [name for name in mix.weights if name not in groups]
    if unknown:
        told = f'data.mix.weights: no row has {mix.by} "{unknown[0]}"{nearest(unknown[0], set(groups))}'
        raise RecipeError([told], source="training")
    sizes = Counter(groups)
    wanted = {name: n ** (1 / mix.temperature) * mix.weights.get(name, 1.0) for name, n in sizes.items()}
    answers = Counter((name, one.row.text) for name, one in zip(groups, utterances, strict=True))
    rows = [
        1 / math.sqrt(answers[name, one.row.text]) if mix.rare else 1.0
        for name, one in zip(groups, utterances, strict=True)
    ]
    inside = dict.fromkeys(sizes, 0.0)
    for name, row in zip(groups, rows, strict=True):
        inside[name] += row
    total = sum(wanted.values())
    if not total:
        raise RecipeError(["data.mix.weights: every group has weight 0"], "give one of them more", "training")
    return [wanted[name] / total * row / inside[name] for name, row in zip(groups, rows, strict=True)]


def _group(utterance: Utterance, config: TrainConfig, by: str) -> str:
    if by == config.data.task_column and config.task != LANGUAGE_MODELLING:
        return task_of(config, utterance.row).name
    return utterance.row.get(by)


def drawn(shares: Sequence[float], rng: Generator) -> NDArray[numpy.int64]:
    """As many rows as there are, mixed: each as often as its share says, the fraction of a time by chance.

    Plain draws with replacement would leave out a third of the rows of every epoch.
    """
    expected = numpy.asarray(shares) * len(shares)
    times = numpy.floor(expected + ROUNDING).astype(numpy.int64)
    rest = numpy.clip(expected - times, 0.0, None)
    left = len(shares) - int(times.sum())
    if left > 0:
        # at equal distances along the fractions laid end to end: each row at most once more
        order = rng.permutation(len(shares))
        edges = numpy.cumsum(rest[order])
        marks = (numpy.arange(left) + rng.random()) * edges[-1] / left
        times[order[numpy.minimum(numpy.searchsorted(edges, marks, side="right"), len(shares) - 1)]] += 1
    return rng.permutation(numpy.repeat(numpy.arange(len(shares)), times))
