"""The exact p value of paired differences under random signs (Fisher 1935, section 21; Pitman 1937).

Were two systems equally good, each segment's difference could as well have had the other sign. Of a sum over parts,

    T = sum_k w_k sum_i d_ki,    w_k the weight of part k, d_ki whole numbers,

p is the share of all 2^n choices of signs under which |T| is as large as it was seen, or larger. No choice is drawn:
within a part the sums are whole numbers, and their distribution is a product of binomial ones.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from chorus.lazy import lazy

if TYPE_CHECKING:
    from scipy import stats

    from chorus.tasks.scored import Floats
else:
    stats = lazy("scipy.stats")

GRID = 1 << 17  # places on which sums of several weights meet
TABLED = 500  # coins whose chances are divisions of whole numbers
DIRECT = 10_000_000  # products of a convolution that is not worth a Fourier transform


class Weighted(NamedTuple):
    """Differences that count alike: the share of one error in the whole, and each segment's difference in errors."""

    weight: float
    differences: Sequence[int]


def sign_flip_p(parts: Iterable[Weighted]) -> float:
    """The two-sided p value; 1 where nothing differs, and never 0.

    >>> sign_flip_p([Weighted(1.0, [1, 1, 1, 1])])
    0.125
    """
    joined: dict[float, list[int]] = {}
    for part in parts:
        # of one weight they are one part, which needs no grid
        joined.setdefault(part.weight, []).extend(d for d in part.differences if d)
    known = [Weighted(weight, differences) for weight, differences in joined.items() if differences]
    if not known:
        return 1.0
    p = _within(known[0].differences) if len(known) == 1 else _across(known)
    # all signs turned is one of the choices: not even what underflows is 0
    least = math.ldexp(2.0, -min(1000, sum(len(part.differences) for part in known)))
    return min(1.0, max(p, least))


def _within(differences: Sequence[int]) -> float:
    chances, seen = _sums(differences), abs(sum(differences))
    if seen == 0:
        return 1.0
    # place j holds the sum 2 j - total: those up to -seen, and as many at the other end
    below = (len(chances) - 1 - seen) // 2
    return 2 * float(chances[: below + 1].sum())


def _sums(differences: Sequence[int]) -> Floats:
    """The chance of each sum -t, -t + 2, ..., t of the differences under random signs [t + 1]."""
    chances = np.ones(1)
    for size, count in sorted(Counter(map(abs, differences)).items()):
        alike = np.zeros(size * count + 1)
        alike[::size] = _heads(count)
        chances = _convolved(chances, alike)
    return chances


def _heads(count: int) -> Floats:
    """The chance of each number of heads of so many coins [count + 1]."""
    if count <= TABLED:  # to the last digit, so that ties with a level are seen as such
        return np.array([math.comb(count, k) / 2**count for k in range(count + 1)])
    found: Floats = stats.binom.pmf(np.arange(count + 1), count, 0.5)
    return found


def _across(parts: Sequence[Weighted]) -> float:
    """Of several weights, whose sums have no common step: each sum goes to the nearest place of a grid."""
    reach = sum(weight * sum(map(abs, differences)) for weight, differences in parts)
    step = 2 * reach / GRID
    chances = np.ones(1)
    for weight, differences in parts:
        own = _sums(differences)
        places = np.rint(weight * 2 * np.arange(len(own)) / step).astype(np.int64)
        chances = _convolved(chances, np.bincount(places, weights=own).astype(np.float64))
    seen = abs(sum(weight * sum(differences) for weight, differences in parts))
    # what rounding may have moved counts as being as far out: ties stay ties, and p is rather too large
    slack = step * (len(parts) / 2 + 1)
    outside = np.abs(np.arange(len(chances)) * step - reach) >= seen - slack
    return float(chances[outside].sum())


def _convolved(first: Floats, second: Floats) -> Floats:
    if len(first) * len(second) <= DIRECT:
        return np.convolve(first, second)
    size = len(first) + len(second) - 1
    found = np.fft.irfft(np.fft.rfft(first, size) * np.fft.rfft(second, size), size)
    # a transform leaves 1e-17 of either sign where there is nothing
    return np.maximum(found, 0.0)
