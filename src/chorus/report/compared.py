"""The plots of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.report.plots import Point, by_domain, curve, trade

if TYPE_CHECKING:  # the types alone: stages do not import each other
    from chorus.evaluate.comparison import Comparison, Line

AVERAGES = {"in-domain": "in-domain", "out-of-domain": "out-of-domain", "other-language": "other languages"}
LEAST = 3  # points of a curve


def compared_plots(compared: Comparison, directory: Path) -> list[Path]:
    """Rates by domain; in-domain against the rest where there is a rest; curves over methods' parameters."""
    points = [_point(line) for line in compared.lines]
    what = f"{axis_of(compared)} (normaliser {compared.normaliser})"
    paths = by_domain(points, [cell.name for cell in compared.cells], directory / "by-domain", what=what)
    outside = [group for group in compared.groups if group != "in-domain"]
    if outside:  # all in one domain: nothing to trade
        group = outside[0]
        paths += trade(
            points, directory / "trade", x="in-domain", y=group, x_name=f"in-domain {axis_of(compared)}",
            y_name=f"{AVERAGES[group]} {axis_of(compared)}", sign=compared.sign,
        )  # fmt: skip
    levels = {f"{p.system}, in-domain": p.values["in-domain"] for p in points if p.role in ("base", "joint")}
    for one in swept(compared.lines):
        paths += curve(
            one.groups, directory / f"{one.method}-{one.parameter}", parameter=f"{one.parameter} of {one.method}",
            what=what, levels=levels,
        )  # fmt: skip
    return paths


def axis_of(compared: Comparison) -> str:
    """What an axis of rates says."""
    return f"{compared.title}, percent" if compared.best == 0 else compared.title


def _point(line: Line) -> Point:
    # too few speakers give an interval without ends: a point without whiskers
    intervals = {k: (one.low, one.high) for k, one in line.intervals.items() if not math.isnan(one.low + one.high)}
    return Point(line.label, line.role, {**line.rates, **line.averages}, intervals)


@dataclass(frozen=True)
class Swept:
    """A method's averages over one of its parameters: {group: [(value, rate)]}."""

    method: str
    parameter: str
    groups: dict[str, list[tuple[float, float]]]


def swept(lines: Sequence[Line]) -> list[Swept]:
    """Where systems of one method differ in one number alone, at three places or more."""
    methods: dict[str, list[Line]] = {}
    for line in lines:
        if line.parameters.get("method"):
            methods.setdefault(str(line.parameters["method"]), []).append(line)
    found = []
    for method, members in methods.items():
        names = sorted({k for line in members for k in line.parameters} - {"method"})
        varied = [n for n in names if len({str(line.parameters.get(n)) for line in members}) > 1]
        if len(varied) == 1 and len(members) >= LEAST:  # two parameters would be a surface
            values = [_number(line.parameters, varied[0]) for line in members]
            if all(v is not None for v in values):
                found.append(Swept(method, varied[0], _over(values, members)))
    return found


def _number(parameters: Mapping[str, object], name: str) -> float | None:
    value = parameters.get(name)
    return value if isinstance(value, int | float) else None


def _over(values: Sequence[float | None], lines: Sequence[Line]) -> dict[str, list[tuple[float, float]]]:
    """Each group's averages in the order of the values."""
    points = [(v, line) for v, line in zip(values, lines, strict=True) if v is not None]
    ordered = sorted(points, key=lambda point: point[0])  # a line is drawn through them
    return {
        name: [(v, line.averages[group]) for v, line in ordered]
        for group, name in AVERAGES.items() if group in lines[0].averages
    }  # fmt: skip
