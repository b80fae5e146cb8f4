"""MAPSSWE: the matched-pairs test of Gillick & Cox (ICASSP 1989) on segments between words that both have right.

A segment ends where both systems have at least two words in a row right, so that errors in different segments can be
taken for independent. On the differences Z of the two systems' errors in each segment, W = mean(Z) / (sd(Z) /
sqrt(n)) is compared with the normal distribution, as NIST's scoring tools do it; segments without an error of either
system do not count. With Holm's correction (1979) over many tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.tasks.counts import Alignment

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = lazy("scipy.stats")

GOOD_WORDS = 2  # right in both, between two segments


@dataclass(frozen=True)
class Matched:
    """The test of two systems; a positive `mean` says that the first makes more errors."""

    segments: int
    mean: float
    z: float
    p: float


def segment_errors(a: Alignment, b: Alignment) -> list[tuple[int, int]]:
    """Errors of both systems in each segment of an utterance that holds any.

    >>> from chorus.tasks.counts import align
    >>> segment_errors(*align(["a b c d e f g"] * 2, ["a x c d e f g", "a b c d e y g"], "words"))
    [(1, 0), (0, 1)]
    """
    right_a, inserted_a, right_b, inserted_b = a.correct, a.inserted, b.correct, b.inserted
    found: list[tuple[int, int]] = []
    wrong_a = wrong_b = good = 0
    # insertions stand before the word that they come before; behind the last there is one place more
    for i in range(len(right_a) + 1):
        more_a, more_b = inserted_a[i], inserted_b[i]
        if more_a or more_b:
            if good >= GOOD_WORDS and (wrong_a or wrong_b):
                found.append((wrong_a, wrong_b))
                wrong_a = wrong_b = 0
            good = 0
            wrong_a, wrong_b = wrong_a + more_a, wrong_b + more_b
        if i == len(right_a):
            break
        if right_a[i] and right_b[i]:
            good += 1
            continue
        if good >= GOOD_WORDS and (wrong_a or wrong_b):
            found.append((wrong_a, wrong_b))
            wrong_a = wrong_b = 0
        good = 0
        wrong_a, wrong_b = wrong_a + (not right_a[i]), wrong_b + (not right_b[i])
    if wrong_a or wrong_b:
        found.append((wrong_a, wrong_b))
    return found


def mapsswe(pairs: Iterable[tuple[Alignment, Alignment]]) -> Matched:
    """The test over utterances, each as the two systems' alignments with its reference."""
    differences = [x - y for a, b in pairs for x, y in segment_errors(a, b)]
    return matched(differences)


def matched(differences: Sequence[int]) -> Matched:
    """The statistic of the segments' differences."""
    n = len(differences)
    if n < 2:
        return Matched(n, float(sum(differences)), 0.0, 1.0)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / (n - 1)
    # all segments differ alike: z is beyond every bound, or there is no difference at all
    if variance == 0:
        return Matched(n, mean, 0.0 if mean == 0 else math.copysign(math.inf, mean), 1.0 if mean == 0 else 0.0)
    z = mean / math.sqrt(variance / n)
    return Matched(n, mean, z, float(2 * stats.norm.sf(abs(z))))


def holm(values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values, in the order given; NaN stays and does not count.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    known = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    found, highest = list(values), 0.0
    for rank, (p, i) in enumerate(known):
        # never below the one before: the more significant of two tests stays the more significant
        highest = max(highest, min(1.0, (len(known) - rank) * p))
        found[i] = highest
    return found
