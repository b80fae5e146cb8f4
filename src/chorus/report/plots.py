"""Plots as PNG and SVG: rates by domain, specialisation against retention, rates over a parameter, spectra.

Colours carry the role (base, specialist, joint, merge), shapes tell systems of one role apart; nothing needs colour.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from chorus import plotting
from chorus.checkpoints.writer import explained
from chorus.plotting import AMBER, GREY, INK, PURPLE, RED, TEAL, figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

COLOURS = {"base": GREY, "specialist": RED, "joint": TEAL, "merge": AMBER, "": PURPLE}
NAMES = {"base": "base", "specialist": "specialists", "joint": "joint fine-tune", "merge": "merges", "": "models"}
MARKERS = "osD^v<>PXph*"
NOWHERE = (math.nan, math.nan)  # where there is no interval
USUAL, FAR = 120.0, 200.0  # percent: rates below stand on the axis whole, and the axis ends at most there
WRITTEN_CELLS = 40  # answers of a confusion matrix beside which numbers can be read
LEGEND_LETTERS = 96  # that fit on a line above a plot


@dataclass(frozen=True)
class Point:
    """A system's rate, perhaps with an interval."""

    system: str
    role: str
    values: Mapping[str, float]  # by domain, or by axis
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def save(drawn: Figure, stem: Path) -> list[Path]:
    """The figure as `stem`.png and `stem`.svg."""
    with explained(stem):
        return [plotting.save(drawn, stem.with_name(stem.name + suffix)) for suffix in (".png", ".svg")]


def by_domain(points: Sequence[Point], domains: Sequence[str], stem: Path, *, what: str) -> list[Path]:
    """Rates by domain: a row a system, a dot a domain with its interval, the mean (in-domain, where known) as a bar.

    Rates far beyond the others stand at the edge, with their number.
    """
    drawn, (axes,) = figure(8.5, 1.8 + 0.36 * len(points))
    edge = _edge([(p.values[d], p.intervals.get(d, NOWHERE)[1]) for p in points for d in domains])
    first: list[Line2D] = []  # the dots of one system: what the legend explains
    for i, point in enumerate(points):
        y = len(points) - 1 - i
        known = [point.values[d] for d in domains if point.values[d] == point.values[d]]
        mean = point.values.get("in-domain", sum(known) / len(known) if known else 0.0)
        axes.barh(y, min(mean, edge), height=0.66, color=COLOURS[point.role], alpha=0.28, zorder=1)
        for j, domain in enumerate(domains):
            value = point.values[domain]
            place = y + 0.26 * (0.5 - (j + 0.5) / len(domains)) * 2
            if domain in point.intervals and value <= edge:
                low, high = point.intervals[domain]
                axes.plot((low, min(high, edge)), [place] * 2, color="#aaaaaa", linewidth=0.8, zorder=2)
                if high > edge:  # it goes on: a whisker that ended here would tell a narrower interval
                    axes.plot(edge, place, ">", color="#aaaaaa", markersize=3.5, zorder=2, clip_on=False)
            dots = axes.plot(
                min(value, edge), place, MARKERS[j % len(MARKERS)], color=COLOURS[point.role], markersize=5,
                markeredgecolor=INK, markeredgewidth=0.4, zorder=3, clip_on=False,
            )  # fmt: skip
            first += dots if i == 0 else []
            if value > edge:
                axes.annotate(f"{value:.0f}", (edge, place), xytext=(5, -2), textcoords="offset points", fontsize=6.5)
    axes.set_yticks(range(len(points)), [p.system for p in reversed(points)])
    axes.set_xlim(0, edge)
    axes.set_xlabel(f"{what}; bar: in-domain mean" if "in-domain" in points[0].values else f"{what}; bar: mean")
    # not by matplotlib's own labels, which drop what is empty or begins with a _; of rows without a domain there is one
    if any(domains):
        names = [domain or "(none)" for domain in domains]
        columns = max(1, min(len(names), LEGEND_LETTERS // (6 + max(map(len, names)))))
        legend = drawn.legend(first, names, ncols=columns, loc="outside upper center", frameon=False)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set(color=GREY)
    return save(drawn, stem)


def _edge(values: Sequence[tuple[float, float]]) -> float:
    """Where the axis of rates, each with the upper end of its interval, ends.

    At the largest of all, but not far beyond 100 where the rates of most stay below.
    """
    known = [(v, v if math.isnan(high) else max(v, high)) for v, high in values if not math.isnan(v)]
    largest = max((high for _, high in known), default=1.0) * 1.05
    highest = max((v for v, _ in known), default=1.0) * 1.05
    usual = [min(high, FAR) for v, high in known if v <= USUAL]
    # a rate that is far out is cut, and an interval; no rate because of its own interval
    return max(1.0, max(usual) * 1.05 if usual and highest > FAR else min(largest, max(FAR * 1.05, highest)))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which of (x, y), both to be small, no other is at least as good in both and better in one, by x.

    >>> pareto([(1, 3), (2, 2), (3, 3), (3, 1)])
    [0, 1, 3]
    """
    front = [
        i for i, (x, y) in enumerate(points) if not any((a <= x and b <= y) and (a < x or b < y) for a, b in points)
    ]
    return sorted(front, key=lambda i: points[i])


def trade(
    points: Sequence[Point], stem: Path, *, x: str, y: str, x_name: str, y_name: str, sign: int = 1
) -> list[Path]:
    """Specialisation against retention: the line joins what nothing beats in both.

    Below and left is better; with `sign` -1 above and right.
    """
    drawn, (axes,) = figure(7.5, 5.2)
    places = [(p.values[x], p.values[y]) for p in points]
    front = pareto([(sign * a, sign * b) for a, b in places])
    axes.plot([places[i][0] for i in front], [places[i][1] for i in front], color="#999999", linewidth=1.2, zorder=1)
    for role in dict.fromkeys(p.role for p in points):
        members = [i for i, p in enumerate(points) if p.role == role]
        axes.scatter(
            [places[i][0] for i in members], [places[i][1] for i in members], s=52, color=COLOURS[role],
            edgecolors=INK, linewidths=0.5, zorder=3, label=NAMES[role],
        )  # fmt: skip
    for place, point, (left, below) in zip(places, points, labels([p.system for p in points], places), strict=True):
        axes.annotate(
            point.system, place, xytext=(-5 if left else 5, 4 - 9 * below), textcoords="offset points",
            ha="right" if left else "left", fontsize=7.5, zorder=4,
        )  # fmt: skip
    axes.margins(x=0.15, y=0.12)
    axes.set_xlabel(x_name)
    axes.set_ylabel(y_name)
    drawn.legend(ncols=4, loc="outside upper center", frameon=False)
    return save(drawn, stem)


def labels(names: Sequence[str], places: Sequence[tuple[float, float]]) -> list[tuple[bool, int]]:
    """For each point whether its label stands left of it, and how many lines lower, that none lies on an earlier one.

    Reckoned in points of print, on axes of the size that `trade` draws.

    >>> labels(["far", "near", "near"], [(0, 0), (25, 1), (25, 1)])
    [(False, 0), (False, 0), (True, 0)]
    """
    spread = [max(values) - min(values) or 1.0 for values in zip(*places, strict=True)]
    chosen: list[tuple[bool, int]] = []
    taken: list[tuple[float, float, float]] = []
    for name, (x, y) in zip(names, places, strict=True):
        across, up = 360.0 * x / spread[0], 240.0 * y / spread[1]
        for below, left in ((n // 2, bool(n % 2)) for n in range(2 * len(names) + 1)):
            begin = across - 5 - 4.2 * len(name) if left else across + 5
            box = (begin, begin + 4.2 * len(name), up - 9 * below)
            if not any(box[0] < b and a < box[1] and abs(box[2] - line) < 7.5 for a, b, line in taken):
                break
        chosen.append((left, below))
        taken.append(box)
    return chosen


def curve(
    lines: Mapping[str, Sequence[tuple[float, float]]], stem: Path, *, parameter: str, what: str,
    levels: Mapping[str, float] | None = None, bands: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> list[Path]:  # fmt: skip
    """Rates over a method's parameter; `levels` are other systems' rates as dashed lines."""
    drawn, (axes,) = figure(7.0, 4.4)
    palette = (TEAL, RED, AMBER, PURPLE, GREY)
    for number, (name, points) in enumerate(lines.items()):
        colour = palette[number % len(palette)]
        xs = [a for a, _ in points]
        axes.plot(xs, [b for _, b in points], marker=MARKERS[number], color=colour, label=name, markersize=5)
        if bands and name in bands:
            low, high = zip(*bands[name], strict=True)
            axes.fill_between(xs, low, high, color=colour, alpha=0.12, linewidth=0)
    for number, (name, value) in enumerate((levels or {}).items()):
        axes.axhline(value, color="#777777", linestyle=("--", ":", "-.")[number % 3], linewidth=1, label=name)
    axes.set_xlabel(parameter)
    axes.set_ylabel(what)
    axes.legend(frameon=False, fontsize=8.5)
    return save(drawn, stem)


def confusion(
    labels: Sequence[str], answers: Sequence[str], shares: Sequence[Sequence[float]], stem: Path, *, title: str
) -> list[Path]:
    """Which label (row) was answered with which (column), in percent of the row; numbers where they can be read."""
    side = min(14.0, 2.4 + 0.38 * max(len(labels), len(answers)))
    drawn, (axes,) = figure(side, max(2.2, side * len(labels) / max(1, len(answers)) + 0.8))
    axes.grid(visible=False)  # lines would cross out the numbers
    axes.imshow(shares, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(answers)), answers, rotation=90)
    axes.set_yticks(range(len(labels)), labels)
    if len(answers) <= WRITTEN_CELLS:
        for i, row in enumerate(shares):
            for j, share in enumerate(row):
                if share:
                    axes.text(
                        j, i, f"{share:.0f}", ha="center", va="center", fontsize=7, color="white" if share > 55 else INK
                    )  # fmt: skip
    axes.set_xlabel("answered, percent of a line")
    axes.set_ylabel("label")
    axes.set_title(title, fontsize=9)
    return save(drawn, stem)


def ranks(systems: Sequence[tuple[str, str, Sequence[float]]], stem: Path, *, what: str) -> list[Path]:
    """The spread over matrices of a number for each system (name, role, values): boxes, medians marked."""
    drawn, (axes,) = figure(8.0, 1.4 + 0.36 * len(systems))
    for i, (_, role, values) in enumerate(systems):
        box = axes.boxplot(
            list(values), positions=[len(systems) - 1 - i], orientation="horizontal", widths=0.6, showfliers=False,
            patch_artist=True, medianprops={"color": INK},
        )  # fmt: skip
        box["boxes"][0].set(facecolor=COLOURS[role], alpha=0.6)
    axes.set_yticks(range(len(systems)), [name for name, _, _ in reversed(systems)])
    axes.set_xlim(left=0)
    axes.set_xlabel(what)
    return save(drawn, stem)
