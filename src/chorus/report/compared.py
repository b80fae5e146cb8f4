"""The plots of a comparison, from its plain values."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chorus.report.plots import Point, by_domain, curve, trade

AVERAGES = {"in-domain": "in-domain", "out-of-domain": "out-of-domain", "other-language": "other languages"}


def compared_plots(made: Mapping[str, Any], directory: Path) -> list[Path]:
    """Rates by domain; in-domain against the rest where there is a rest; curves over methods' parameters."""
    points = [_point(line, made) for line in made["lines"]]
    domains = [cell["name"] for cell in made["cells"]]
    what = f"error rate, percent (normaliser {made['normaliser']})"
    paths = by_domain(points, domains, directory / "by-domain", what=what)
    outside = [g for g in ("out-of-domain", "other-language") if any(c["group"] == g for c in made["cells"])]
    if outside:
        group = outside[0]
        paths += trade(
            points, directory / "trade", x="in-domain", y=group, x_name="in-domain error rate, percent",
            y_name=f"{AVERAGES[group]} error rate, percent",
        )  # fmt: skip
    for method, parameter, lines in parameter_lines(made):
        levels = {p.system: p.values["in-domain"] for p in points if p.role in ("base", "joint")}
        paths += curve(
            lines, directory / f"{method}-{parameter}", parameter=f"{parameter} of {method}", what=what,
            levels={f"{name}, in-domain": value for name, value in levels.items()},
        )  # fmt: skip
    return paths


def _point(line: Mapping[str, Any], made: Mapping[str, Any]) -> Point:
    nan = float("nan")
    values = {k: nan if v is None else v for k, v in {**line["rates"], **line["averages"]}.items()}
    intervals = {
        k: (v["low"], v["high"]) for k, v in line["intervals"].items() if v["low"] is not None and v["high"] is not None
    }
    return Point(line["label"], line["role"], values, intervals)


def parameter_lines(made: Mapping[str, Any]) -> list[tuple[str, str, dict[str, list[tuple[float, float]]]]]:
    """(method, parameter, {group: points}) where systems of one method differ in one number at three places or more."""
    found = []
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for line in made["lines"]:
        if line["parameters"].get("method"):
            methods.setdefault(line["parameters"]["method"], []).append(line)
    for method, lines in methods.items():
        names = sorted({k for line in lines for k in line["parameters"]} - {"method"})
        varied = [n for n in names if len({str(line["parameters"].get(n)) for line in lines}) > 1]
        numbers = all(isinstance(line["parameters"].get(n), int | float) for n in varied for line in lines)
        if len(varied) != 1 or not numbers or len(lines) < 3:
            continue
        ordered = sorted(lines, key=lambda line: line["parameters"][varied[0]])
        groups = {
            AVERAGES[g]: [(line["parameters"][varied[0]], line["averages"][g]) for line in ordered]
            for g in AVERAGES
            if g in ordered[0]["averages"]
        }
        found.append((method, varied[0], groups))
    return found
