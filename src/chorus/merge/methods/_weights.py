"""Weights as shares of one; used by every method that averages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.merge.method import Resolved, numbers


def shares(weights: Sequence[float]) -> list[float]:
    """Each weight over their sum; `ValueError` where the sum is zero.

    >>> shares([3, 1])
    [0.75, 0.25]
    """
    total = sum(weights)
    # mergekit divides all the same, and NaN fills every tensor
    if total == 0:
        raise ValueError(f"the weights {list(weights)} sum to zero, so they cannot be normalised")
    return [w / total for w in weights]


def check_shares(parameters: Mapping[str, Resolved], models: int) -> None:
    """Refuse weights that cannot be normalised, where the recipe asks for it."""
    if parameters.get("normalize", parameters.get("normalize_weights", True)):
        shares(numbers(parameters, "weight"))
