"""MAPSSWE: the matched-pairs test of Gillick & Cox (ICASSP 1989) on segments between words that both have right.

A segment ends where both systems have at least two words in a row right, so that errors in different segments can be
taken for independent; Z are the differences of the two systems' errors in each. The paper compares mean(Z) / (sd(Z) /
sqrt(n)) with the normal distribution "for large enough n". Of few segments that differ this p is far too small (of two
segments with one error each it is 0), so that here p is exact at any n: the share of all choices of signs of Z under
which the sum is as far from zero (flips.py). An average over domains is tested as it is shown: each domain's sum
counts by what one error weighs in the average. With Holm's correction (1979) over many tests.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from chorus.evaluate.flips import Weighted, sign_flip_p
from chorus.tasks.counts import Alignment

GOOD_WORDS = 2  # right in both, between two segments


@dataclass(frozen=True)
class Matched:
    """The test of two systems; a positive `z` says that the first makes more errors.

    segments: those with an error of either system; `differing` those in which one makes more. Of labels they are rows.
    z: the difference over its standard deviation under random signs. With one domain the paper's statistic is
        z * sqrt((n - 1) / (n - z * z)).
    """

    segments: int
    differing: int
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


def differences_of(pairs: Iterable[tuple[Alignment, Alignment]]) -> list[int]:
    """The first system's errors less the second's in each segment, of utterances aligned with their references."""
    return [x - y for a, b in pairs for x, y in segment_errors(a, b)]


def matched(differences: Sequence[int]) -> Matched:
    """The test of one domain, or of pooled rates: every segment counts alike."""
    return matched_parts([Weighted(1.0, differences)])


def matched_parts(parts: Sequence[Weighted]) -> Matched:
    """The test of an average over domains."""
    differing = sum(bool(d) for _, differences in parts for d in differences)
    far = sum(weight * sum(differences) for weight, differences in parts)
    # under random signs each segment's variance is its square
    spread = math.sqrt(sum(weight**2 * sum(d * d for d in differences) for weight, differences in parts))
    return Matched(
        sum(len(differences) for _, differences in parts), differing, far / spread if spread else 0.0,
        sign_flip_p(parts),
    )  # fmt: skip


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
