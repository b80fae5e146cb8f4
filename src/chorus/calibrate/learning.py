"""The updates: a batch of every task, the weights' gradient, one step of Adam; stopped where a weight diverges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from chorus.calibrate.entropy import entropies
from chorus.calibrate.forms import Weights
from chorus.calibrate.groups import Groups
from chorus.calibrate.rows import Draws, Rows
from chorus.calibrate.settings import Calibration
from chorus.errors import ChorusError
from chorus.models.finite import NotFiniteError
from chorus.train.backbones.protocol import Backbone
from chorus.train.backbones.shared import batch_of, loss_of
from chorus.train.config import Augment, TrainConfig
from chorus.train.examples import TrainingSet
from chorus.train.live import Live

if TYPE_CHECKING:
    from torch import Tensor

BETAS = (0.9, 0.99)  # the second shorter than usual: a calibration has hundreds of updates, not many thousands
LOWER = "lower the learning rate, keep the weights within bounds (--form tanh or simplex), or raise --bound"


class Learner:
    """Learns `weights` on the rows: each task's loss counts by its share in `shares`, whatever its number of rows."""

    def __init__(
        self, weights: Weights, live: Live, backbone: Backbone, config: TrainConfig, rows: Rows, settings: Calibration,
        shares: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.weights, self.live, self.backbone, self.settings = weights, live, backbone, settings
        self.config, self.rows, self.shares = config, rows.train, shares
        self.optimizer = torch.optim.Adam([weights.raw], lr=settings.learning_rate, betas=BETAS)
        self.sets = {
            task: TrainingSet(every, backbone, Augment(), config.seed) for task, every in rows.train.items()
        }  # fmt: skip
        self.draws = {
            task: Draws(task, len(every), settings.batch_size, config.seed)
            for task, every in rows.train.items() if shares[task]
        }  # fmt: skip

    def update(self, number: int, *, labels: Sequence[str], groups: Groups) -> float:
        """One update, counted from 0; returns the mean of the tasks' losses before it, by their shares."""
        weights = self.weights.values()
        self.live.set(weights)
        total = 0.0
        for task, draws in self.draws.items():
            # one task's graph at a time: all at once would hold the activations of every task
            loss = self.shares[task] * self._loss(task, draws.of(number), number + 1)
            # told before the backward pass, whose gradients would be of nothing
            if not bool(torch.isfinite(loss)):
                raise ChorusError(f"update {number + 1}: the loss of {task} is {float(loss)}", LOWER)
            torch.autograd.backward(loss)
            total += float(loss)
        self.optimizer.zero_grad()  # what `values` left there belongs to the update before
        torch.autograd.backward(weights, self.live.gradient())
        self.optimizer.step()
        self._check(self.weights.values().detach(), number + 1, labels, groups)
        return total

    def _loss(self, task: str, drawn: Sequence[tuple[int, int]], number: int) -> Tensor:
        """What is lowered, of one task's rows."""
        if self.settings.objective == "cross-entropy":
            return loss_of(self.backbone, batch_of(self.backbone, [self.sets[task][draw] for draw in drawn]))
        # not through examples, which hold an answer and may change the sound by a draw
        try:
            return entropies(self.backbone, self.config, [self.rows[task][row] for _, row in drawn]).mean()
        except NotFiniteError:
            raise ChorusError(f"update {number}: what {task} is answered is no finite number", LOWER) from None

    def _check(self, weights: Tensor, number: int, labels: Sequence[str], groups: Groups) -> None:
        wrong = (~(weights.abs() <= self.settings.bound)).nonzero()  # NaN is in no bound either
        if len(wrong):
            task, group = wrong[0].tolist()
            raise ChorusError(
                f"update {number}: the weight of {labels[task]} ({groups.every[group]}) is "
                f"{float(weights[task, group]):g}, beyond the bound of {self.settings.bound:g}",
                LOWER,
            )

    def state(self) -> list[list[float]]:
        """What learning goes on from, exactly: the numbers and Adam's means."""
        found = [self.weights.raw.detach().reshape(-1).tolist()]
        known = self.optimizer.state.get(self.weights.raw)
        means = [known["exp_avg"], known["exp_avg_sq"]] if known else [torch.zeros_like(self.weights.raw)] * 2
        return found + [one.detach().reshape(-1).tolist() for one in means]

    def restore(self, state: Sequence[Sequence[float]], updates: int) -> None:
        """Go on from what `state` gave after so many updates."""
        raw, first, second = (torch.tensor(one, dtype=torch.float64).reshape(self.weights.raw.shape) for one in state)
        with torch.no_grad():
            self.weights.raw.copy_(raw)
        if updates:  # before the first update Adam has no means, and asks for none
            step = torch.tensor(float(updates))
            self.optimizer.state[self.weights.raw] = {"step": step, "exp_avg": first, "exp_avg_sq": second}
