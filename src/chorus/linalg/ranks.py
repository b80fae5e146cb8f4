"""How many singular directions of each matrix an adapter keeps: by a rank, an energy, or a parameter budget."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SLACK = 1e-12  # an energy of 1 means all, whatever the rounding of the sums


@dataclass(frozen=True)
class RankRule:
    """Keep at most `max_rank` directions, the fewest that hold `energy` of a matrix's squared norm, or as many of
    all matrices together as `budget` parameters hold. None: no limit. `ValueError` for what makes no sense.
    """

    max_rank: int | None = None
    energy: float | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        if self.max_rank is not None and self.max_rank < 1:
            raise ValueError(f"the rank must be 1 or more, got {self.max_rank}")
        if self.energy is not None and not 0 < self.energy <= 1:
            raise ValueError(f"the energy must lie above 0 and be at most 1, got {self.energy}")
        if self.budget is not None and self.budget < 1:
            raise ValueError(f"the budget must be 1 parameter or more, got {self.budget}")
        if self.energy is not None and self.budget is not None:
            raise ValueError("energy and budget both choose the ranks; give one of them")

    @property
    def given(self) -> bool:
        return (self.max_rank, self.energy, self.budget) != (None, None, None)

    def rank_of(self, values: Sequence[float] | NDArray[np.float64]) -> int:
        """The rank of one matrix by its singular values, largest first; the budget is not looked at.

        >>> RankRule(energy=0.9).rank_of([3.0, 1.0, 0.5]), RankRule(max_rank=8).rank_of([3.0, 1.0])
        (2, 2)
        """
        found = int(sum(v > 0 for v in values))
        if self.max_rank is not None:
            found = min(found, self.max_rank)
        if self.energy is None:
            return found
        wanted, kept = self.energy * (1 - SLACK) * sum(v * v for v in values), 0.0
        for k, v in enumerate(values[:found]):
            kept += v * v
            if kept >= wanted:
                return k + 1
        return found

    def ranks(self, values: Mapping[str, Sequence[float]], shapes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """The ranks of all matrices: where there is a budget, the directions that hold most energy a parameter.

        Taking them greedily is optimal, since a direction of an [m, n] matrix costs m + n whichever it is.

        >>> RankRule(budget=12).ranks({"a": [3.0, 1.0], "b": [2.0]}, {"a": (2, 4), "b": (3, 3)})
        {'a': 1, 'b': 1}
        """
        limits = {name: self.rank_of(v) for name, v in values.items()}
        if self.budget is None:
            return limits
        ranks = dict.fromkeys(values, 0)
        left = self.budget
        # the heap gives the smallest first, hence the minus; of equal ones the first by name
        order = [(-(v[0] ** 2) / sum(shapes[name]), name) for name, v in values.items() if limits[name]]
        heapq.heapify(order)
        while order:
            _, name = heapq.heappop(order)
            cost = sum(shapes[name])
            if cost > left:  # a smaller matrix further down may still fit
                continue
            left -= cost
            ranks[name] += 1
            if ranks[name] < limits[name]:
                heapq.heappush(order, (-(values[name][ranks[name]] ** 2) / cost, name))
        return ranks
