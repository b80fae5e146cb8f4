"""Plots of analyses: numbers over the layers of a model, tables as coloured squares, energies over directions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.plotting import AMBER, GREY, INK, PURPLE, RED, TEAL, figure
from chorus.report.plots import MARKERS, labels, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PALETTE = (TEAL, RED, AMBER, PURPLE, GREY, "#3a7d44", "#8d5524", "#5f6caf", "#c06c84", "#2a9d8f")
TICKS = 26  # names that fit under an axis
Value = float | None


@dataclass(frozen=True)
class Panel:
    """Lines over layers: {name: a value a layer}; `bands` are the ends of a range around a line."""

    what: str
    lines: Mapping[str, Sequence[Value]]
    bands: Mapping[str, Sequence[tuple[Value, Value]]] = field(default_factory=dict)
    level: Value = None  # a dashed line for what chance would give, or what is neutral


def over_layers(layers: Sequence[str], panel: Panel, stem: Path) -> list[Path]:
    """Lines over layers that are named `stack number`; a line ends where a stack does."""
    drawn, (axes,) = figure(6.5, 4.2)
    stacks = [name.rpartition(" ")[0] for name in layers]
    for number, (name, values) in enumerate(panel.lines.items()):
        _line(axes, stacks, values, panel.bands.get(name), number, name)
    if panel.level is not None:
        axes.axhline(panel.level, color="#777777", linestyle="--", linewidth=1)
    # a hundred layers' names would lie on each other
    step = math.ceil(len(layers) / TICKS) or 1
    axes.set_xticks(range(0, len(layers), step), list(layers[::step]), rotation=60, ha="right", fontsize=8)
    axes.set_ylabel(panel.what)
    if len(panel.lines) > 1:
        axes.legend(frameon=False, fontsize=8)
    return save(drawn, stem)


def _line(
    axes: Axes, stacks: Sequence[str], values: Sequence[Value], band: Sequence[tuple[Value, Value]] | None, number: int,
    name: str,
) -> None:  # fmt: skip
    colour = PALETTE[number % len(PALETTE)]
    for stack in dict.fromkeys(stacks):
        places = [i for i, one in enumerate(stacks) if one == stack]
        # NaN leaves a gap where a layer has no such number
        heights = [_nan(values[i]) for i in places]
        axes.plot(
            places, heights, marker=MARKERS[number % len(MARKERS)], color=colour, markersize=4.5, linewidth=1.4,
            label=name if stack == stacks[0] else None,
        )  # fmt: skip
        if band:
            low, high = ([_nan(band[i][end]) for i in places] for end in (0, 1))
            axes.fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)


def _nan(value: Value) -> float:
    return math.nan if value is None else value


def squares(
    values: Sequence[Sequence[Value]], rows: Sequence[str], columns: Sequence[str], stem: Path, *, what: str,
    marks: Sequence[Sequence[str]] | None = None, form: str = "{:.2f}", limit: float | None = None,
    framed: Sequence[tuple[int, int]] = (),
) -> list[Path]:  # fmt: skip
    """A table as squares: blue above zero, red below, white at it; each with its number and mark, `framed` ones in ink.

    `limit` is where colours end (by default at the largest number). What has no number is grey.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    drawn, (axes,) = figure(2.6 + 0.95 * len(columns), 1.9 + 0.5 * len(rows))
    axes.grid(visible=False)  # squares have edges of their own
    known = [abs(v) for row in values for v in row if v is not None]
    # the same on both sides of zero, or a faint loss would look like a gain
    edge = limit or max([*known, 1e-9])
    colours = LinearSegmentedColormap.from_list("chorus", [RED, "#ffffff", TEAL])
    axes.set_facecolor("#d9d9d9")
    image = axes.imshow([[_nan(v) for v in row] for row in values], cmap=colours, vmin=-edge, vmax=edge, aspect="auto")
    for i, row in enumerate(values):
        for j, value in enumerate(row):
            text = ("-" if value is None else form.format(value)) + (marks[i][j] if marks else "")
            # black on deep colours cannot be read
            dark = value is not None and abs(value) > 0.7 * edge
            axes.text(j, i, text, ha="center", va="center", fontsize=8, color="#ffffff" if dark else INK)
    for i, j in framed:
        axes.add_patch(Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, fill=False, edgecolor=INK, linewidth=1.4))
    axes.set_xticks(range(len(columns)), list(columns), rotation=30, ha="right", fontsize=8.5)
    axes.set_yticks(range(len(rows)), list(rows), fontsize=8.5)
    drawn.colorbar(image, ax=axes, label=what, shrink=0.9)
    return save(drawn, stem)


def energy_curves(shares: Sequence[float], curves: Mapping[str, Sequence[float]], stem: Path) -> list[Path]:
    """How much of the energy lies in the first directions, in percent of all of them."""
    drawn, (axes,) = figure(6.5, 4.4)
    for number, (name, values) in enumerate(curves.items()):
        axes.plot(
            [100 * share for share in shares], [100 * value for value in values], label=name, markersize=4.5,
            color=PALETTE[number % len(PALETTE)], marker=MARKERS[number % len(MARKERS)],
        )  # fmt: skip
    # nearly all energy lies in the first tenth, which a linear axis would press into its corner
    axes.set_xscale("log")
    axes.set_xticks([1, 2, 5, 10, 20, 50, 100], ["1", "2", "5", "10", "20", "50", "100"])
    axes.set_ylim(0, 102)
    axes.set_xlabel("directions, percent of the full rank")
    axes.set_ylabel("energy that they hold, percent")
    axes.legend(frameon=False, fontsize=8.5)
    return save(drawn, stem)


Ends = tuple[float, Value, Value]  # a number, and the ends of its interval where it has one


@dataclass(frozen=True)
class Scattered:
    """Two numbers of one system."""

    name: str
    x: Ends
    y: Ends


def scatter(points: Sequence[Scattered], stem: Path, *, x: str, y: str) -> list[Path]:
    """Systems by two numbers with their intervals, and lines at zero."""
    drawn, (axes,) = figure(6.8, 4.8)
    axes.axhline(0, color="#777777", linewidth=1)
    axes.axvline(0, color="#777777", linewidth=1)
    places = [(one.x[0], one.y[0]) for one in points]
    beside = labels([one.name for one in points], places)
    for number, (one, (left, below)) in enumerate(zip(points, beside, strict=True)):
        colour = PALETTE[number % len(PALETTE)]
        axes.errorbar(
            one.x[0], one.y[0], xerr=_whiskers(one.x), yerr=_whiskers(one.y), color=colour, elinewidth=0.9, capsize=2,
            marker=MARKERS[number % len(MARKERS)], markersize=6, markeredgecolor=INK, markeredgewidth=0.4,
        )  # fmt: skip
        axes.annotate(
            one.name, (one.x[0], one.y[0]), xytext=(-6 if left else 6, 5 - 9 * below), textcoords="offset points",
            ha="right" if left else "left", fontsize=8,
        )  # fmt: skip
    axes.margins(x=0.15, y=0.15)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return save(drawn, stem)


def _whiskers(ends: Ends) -> list[list[float]] | None:
    value, low, high = ends
    # an interval of resamples may end on one side of the value itself
    return None if low is None or high is None else [[max(0.0, value - low)], [max(0.0, high - value)]]


@dataclass(frozen=True)
class Marked:
    """A place on a line, and what stands beside it."""

    x: float
    y: float
    name: str


def traces(lines: Mapping[str, Sequence[Marked]], stem: Path, *, x: str, y: str) -> list[Path]:
    """Lines through places in their order, each place named; and lines at zero."""
    drawn, (axes,) = figure(6.8, 4.8)
    axes.axhline(0, color="#777777", linewidth=1)
    axes.axvline(0, color="#777777", linewidth=1)
    for number, (name, places) in enumerate(lines.items()):
        colour = PALETTE[number % len(PALETTE)]
        axes.plot(
            [one.x for one in places], [one.y for one in places], color=colour, linewidth=1.3, markersize=5,
            marker=MARKERS[number % len(MARKERS)], label=name,
        )  # fmt: skip
        for one in places:
            axes.annotate(one.name, (one.x, one.y), xytext=(5, 4), textcoords="offset points", fontsize=7, color=colour)
    axes.margins(x=0.12, y=0.12)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(frameon=False, fontsize=8)
    return save(drawn, stem)
