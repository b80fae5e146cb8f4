"""The learning curve: its numbers from what the Trainer has logged, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.plotting import GREY, INK, RED, figure, save
from chorus.train.facts import Curve, Logged

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def curve(history: Sequence[Logged], metric: str) -> Curve:
    """The numbers of a learning curve: [step, value] of the loss and of the dev measures."""
    found: Curve = {"loss": [], "dev_loss": [], f"dev_{metric}": []}
    for entry in history:
        for key, name in (("loss", "loss"), ("eval_loss", "dev_loss"), (f"eval_{metric}", f"dev_{metric}")):
            if key in entry:
                found[name].append([entry["step"], round(float(entry[key]), 6)])
    return {k: v for k, v in found.items() if v}


def plot_curve(points: Curve, metric: str, target: Path, title: str, best_step: int | None) -> None:
    """The curve as a picture: loss on the left axis, dev error rate on the right, the kept checkpoint marked."""
    drawn, (left,) = figure(7, 4)
    left.set(xlabel="step", ylabel="loss")
    left.set_title(title, color=INK, loc="left")
    left.locator_params(axis="x", integer=True)
    for name, style in (("loss", "-"), ("dev_loss", "--")):
        if points.get(name):
            left.plot(*zip(*points[name], strict=True), style, color=GREY, label=name.replace("_", " "))
    left.set_ylim(bottom=0)
    handles, names = left.get_legend_handles_labels()
    rates = points.get(f"dev_{metric}") if metric != "loss" else None
    if rates:
        right = _rates(left, rates, f"dev {metric}, %", best_step)
        more_handles, more_names = right.get_legend_handles_labels()
        handles, names = handles + more_handles, names + more_names
    left.legend(handles, names, frameon=False)
    save(drawn, target)


def _rates(left: Axes, points: list[list[float]], name: str, best_step: int | None) -> Axes:
    """The second axis: error rates, the kept one in a circle."""
    right = left.twinx()
    right.plot(*zip(*points, strict=True), "o-", color=RED, label=name)
    right.set_ylabel(name, color=RED)
    right.set_ylim(bottom=0)
    right.spines["top"].set_visible(False)
    best = [p for p in points if p[0] == best_step]
    if best:
        right.plot(*zip(*best, strict=True), "o", color=RED, markersize=11, fillstyle="none", label="kept")
    return right
