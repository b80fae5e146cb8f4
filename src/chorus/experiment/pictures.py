"""The plots of an experiment, from its results, each with what it shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chorus.analyse.interference_report import draw as interference_plots
from chorus.analyse.overfitting_report import draw as overfitting_plots
from chorus.evaluate.tables import NAMES
from chorus.experiment.places import BASE, JOINT
from chorus.experiment.results import CurveResult, Results, TaskResult
from chorus.report.compared import axis_of, compared_plots
from chorus.report.html import Picture
from chorus.report.plots import curve, ranks


def draw(results: Results, place: Path) -> list[Picture]:
    """Draw all plots below `place`, of several tasks each in a folder of its own."""
    pictures: list[Picture] = []
    if len(results.tasks) > 1:
        pictures += interference_plots(results.gains, place)
        for name, task in results.tasks.items():
            pictures += [replace(one, title=f"{name}: {one.title}") for one in _of_task(task, place / name)]
    else:
        for task in results.tasks.values():
            pictures += _of_task(task, place)
    if grids := results.grids:
        pictures += overfitting_plots(grids, place / "overfitting")
    return [*pictures, _ranks(results, place)]


def _of_task(task: TaskResult, place: Path) -> list[Picture]:
    compared = task.compared
    compared_plots(compared, place)
    text = "Dots: domains with 95 % intervals. Bars: the mean."
    pictures = [Picture(f"{compared.title[:1].upper()}{compared.title[1:]} by domain", text, place / "by-domain.svg")]
    if any(cell.group != "in-domain" for cell in compared.cells) and "in-domain" in compared.groups:
        better = "Below and left" if compared.sign == 1 else "Above and right"
        text = f"{better} is better; the line joins what nothing beats in both."
        pictures.append(Picture("Specialisation against retention", text, place / "trade.svg"))
    levels = {
        f"{line.label}, in-domain": line.averages["in-domain"]
        for line in compared.lines if line.label in (BASE, JOINT) and "in-domain" in line.averages
    }  # fmt: skip
    # a curve over names or switches has no axis; its table tells it
    numeric = {name: one for name, one in task.curves.items() if all(_is_number(p.value) for p in one.points)}
    return [*pictures, *(_curve(name, one, levels, axis_of(compared), place) for name, one in numeric.items())]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _curve(name: str, found: CurveResult, levels: dict[str, float], what: str, place: Path) -> Picture:
    xs = [float(str(point.value)) for point in found.points]
    kinds = list(found.points[0].averages)
    every = {NAMES[g]: [point.averages[g] for point in found.points] for g in kinds}
    stem = place / f"{name}-{found.parameter}"
    curve(
        {group: [(x, m.value) for x, m in zip(xs, one, strict=True)] for group, one in every.items()}, stem,
        parameter=f"{found.parameter} of {name}", what=what, levels=levels,
        bands={group: [(m.low, m.high) for m in one] for group, one in every.items()},
    )  # fmt: skip
    text = "On test, with 95 % intervals; dashed: base and joint fine-tune over the domains."
    return Picture(f"{name} over {found.parameter}", text, stem.with_name(f"{stem.name}.svg"))


def _ranks(results: Results, place: Path) -> Picture:
    ranks(
        [(label, one.role, [100 * r.effective / r.full for r in one.matrices])
         for label, one in results.effective_ranks.items()],
        place / "ranks", what="effective rank of the delta, percent of the full rank, over matrices",
    )  # fmt: skip
    text = "How many directions each delta to the base uses; a merge far left of its specialists has collapsed."
    return Picture("Rank collapse", text, place / "ranks.svg")
