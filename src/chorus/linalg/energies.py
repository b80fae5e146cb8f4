"""What a matrix's singular values tell of it: how many directions it uses, and how its energy lies in them.

effective rank        exp(-sum p log p) with p = s / sum(s) (Roy & Vetterli 2007)
stable rank           |D|_F^2 / |D|_2^2
participation ratio   (sum s^2)^2 / sum s^4: the number of directions, were all as strong
energy rank           the fewest directions that hold a share of |D|_F^2

All take singular values in float64, largest first, without those that are rounding (see `above_rounding`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import NULL

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]
else:
    np = lazy("numpy")

ENERGIES = (0.9, 0.95, 0.99)
SHARES = (0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # of the full rank, for curves


def above_rounding(values: Values) -> Values:
    """Without what rounding leaves: the entropy of a thousand tiny values would be large."""
    return values[values > NULL * values[0]] if len(values) and values[0] > 0 else values[:0]


def effective_rank(values: Values) -> float:
    """exp of the entropy of the values' shares; 0 for a zero matrix.

    >>> import numpy
    >>> round(effective_rank(numpy.array([2.0, 2.0, 2.0])), 9)
    3.0
    """
    if not len(values):
        return 0.0
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def stable_rank(values: Values) -> float:
    """|D|_F^2 / |D|_2^2; 0 for a zero matrix."""
    return float((values**2).sum() / values[0] ** 2) if len(values) else 0.0


def participation_ratio(values: Values) -> float:
    """(sum s^2)^2 / sum s^4; 0 for a zero matrix.

    >>> import numpy
    >>> participation_ratio(numpy.array([1.0, 1.0, 1.0, 1.0]))
    4.0
    """
    if not len(values):
        return 0.0
    shares = values**2 / (values**2).sum()  # first: fourth powers of small values leave the range
    return float(1 / (shares**2).sum())


def energy_rank(values: Values, energy: float) -> int:
    """The fewest directions that hold `energy` of |D|_F^2; 0 for a zero matrix.

    >>> import numpy
    >>> energy_rank(numpy.array([3.0, 1.0, 0.5]), 0.9)
    2
    """
    return RankRule(energy=energy).rank_of(values)


def energy_curve(values: Values, full: int) -> Values:
    """The share of |D|_F^2 in the first `SHARES` of `full` directions (as many as fit, at least one)."""
    if not len(values):
        return np.zeros(len(SHARES))
    held = np.cumsum(values**2) / (values**2).sum()
    # full * share may lie a rounding below a whole number
    counts = [max(1, int(full * share + 1e-9)) for share in SHARES]
    return np.array([held[min(count, len(held)) - 1] for count in counts])
