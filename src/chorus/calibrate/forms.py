"""How a merge's weights are written while they are learnt, [task, group]; all in float64.

free      lambda = w
tanh      lambda = m tanh(w)                 within +-m
simplex   lambda = beta_g softmax_t(w_tg)    a factor of the group times its models' shares of one
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from chorus.calibrate.settings import Form
from chorus.errors import UsageError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

DECIMALS = 6  # of a weight in the recipe, and of what is measured


class Weights:
    """The numbers that are learnt (`raw`), and the weights that they stand for."""

    def __init__(self, start: Sequence[Sequence[float]], form: Form, *, magnitude: float, shared: bool) -> None:
        """`start` are the weights to begin with; where `shared`, one factor of all of them is learnt."""
        self.form, self.magnitude, self.shared = form, magnitude, shared
        # few hundred numbers: float64 costs nothing, and a resume reads back from JSON exactly what was written
        self.first = torch.tensor(start, dtype=torch.float64)
        begin = torch.ones(1, dtype=torch.float64) if shared else self.first
        self.raw = self._inverse(begin).requires_grad_()

    def _inverse(self, weights: Tensor) -> Tensor:
        if self.form == "free":
            return weights.clone()
        if self.form == "tanh":
            if not bool((weights.abs() < self.magnitude).all()):
                worst = float(weights.abs().max())
                raise UsageError(
                    f"a weight starts at {worst:g}, and tanh keeps all within {self.magnitude:g}",
                    "raise the magnitude, or start lower",
                )
            return torch.atanh(weights / self.magnitude)
        if not bool((weights > 0).all()):
            raise UsageError(
                f"a weight starts at {float(weights.min()):g}; simplex needs shares, which are above 0",
                "start all above 0, or use free or tanh",
            )
        # a softmax leaves a constant open; logarithms of the shares are the choice whose sum of exponentials is 1
        total = weights.sum(0, keepdim=True)
        return torch.cat([(weights / total).log(), total])

    def values(self) -> Tensor:
        """The weights [task, group], through which gradients reach `raw`."""
        if self.form == "free":
            found = self.raw
        elif self.form == "tanh":
            found = self.magnitude * torch.tanh(self.raw)
        else:
            found = self.raw[-1] * torch.softmax(self.raw[:-1], 0)
        return found * self.first if self.shared else found

    def factor(self) -> float:
        """Where one factor is shared: that factor."""
        found = self.raw if self.form == "free" else self.magnitude * torch.tanh(self.raw)
        return float(found.detach().round(decimals=DECIMALS))

    def rounded(self) -> Tensor:
        """The weights as the recipe will write them."""
        with torch.no_grad():
            if self.shared:
                return self.first * self.factor()
            return self.values().round(decimals=DECIMALS)
