"""The tables, plots and page of a merge's coefficients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from chorus.analyse.coefficients import CoefficientAnalysis, Mixture
from chorus.analyse.page import AnalysisReport
from chorus.report.grids import Panel, over_layers, squares
from chorus.report.html import Picture
from chorus.tables import Table

TITLES = {"all": "Whole model", "component": "By component", "kind": "By kind", "layer": "By layer"}


def coefficients_report(found: CoefficientAnalysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    facts = [
        ("recipe", found.recipe), ("method", found.method), ("models", ", ".join(found.models)),
        ("tensors", f"{found.all.tensors}, {found.all.values:,} values"),
    ]  # fmt: skip
    tables = [mixture_table(found, column) for column in TITLES if found.groups[column]]
    return AnalysisReport(
        "coefficients", f"Coefficients of {found.recipe}", [*_lead(found), *found.warnings], tables, found.as_dict(),
        lambda place: _draw(found, place), facts, command,
    )  # fmt: skip


def _lead(found: CoefficientAnalysis) -> list[str]:
    layers = found.groups["layer"]
    if not layers:
        return []
    counts = Counter(layer.dominant or "nobody" for layer in layers)
    told = ", ".join(f"{name} in {count}" for name, count in counts.most_common())
    lines = [f"Of {len(layers)} layers the largest weight has {told}."]
    # of one model alone there is no entropy
    known = [layer for layer in layers if layer.entropy is not None]
    if known:
        least = min(known, key=lambda layer: layer.entropy or 0.0)
        lines.append(f"Least evenly mixed is {least.name}: entropy {least.entropy:.2f}, {_shares(least)}.")
    return lines


def _shares(one: Mixture) -> str:
    return ", ".join(f"{label} {weight:g}" for label, weight in sorted(one.weights.items(), key=lambda i: -abs(i[1])))


def mixture_table(found: CoefficientAnalysis, column: str) -> Table:
    """A row a group: each model's coefficient, who dominates, by how much, how even."""
    rows = []
    for one in found.groups[column]:
        weights = [f"{one.weights[label]:.3f}" for label in found.models]
        numbers = ["-" if value is None else f"{value:z.2f}" for value in (one.margin, one.entropy)]
        rows.append([one.name, *weights, one.dominant or "-", *numbers])
    notes = [] if column != "all" else [
        "Means over values. Dominant: the largest share of the sum of absolute weights; margin: how far before the "
        "next; entropy: 0 where one stands alone, 1 where all weigh the same."
    ]  # fmt: skip
    return Table(TITLES[column], [column, *found.models, "dominant", "margin", "entropy"], rows, notes)


def _draw(found: CoefficientAnalysis, place: Path) -> list[Picture]:
    pictures = []
    layers = found.groups["layer"]
    if layers:
        names = [layer.name for layer in layers]
        lines = {label: [layer.weights[label] for layer in layers] for label in found.models}
        over_layers(names, Panel("coefficient", lines, level=0.0), place / "layers")
        pictures.append(Picture("Coefficients, by layer", "The mean over a layer's values.", place / "layers.svg"))
        evenness = {"entropy": [layer.entropy for layer in layers], "margin": [layer.margin for layer in layers]}
        over_layers(names, Panel("entropy, margin", evenness), place / "evenness")
        text = "Entropy 1: all weigh the same, 0: one alone. Margin: how far the largest share is before the next."
        pictures.append(Picture("Who dominates, by layer", text, place / "evenness.svg"))
    parts: dict[str, dict[str, list[float]]] = {}
    for tensor in found.tensors:
        # by values, as in the tables
        sums = parts.setdefault(f"{tensor.component} {tensor.kind}", {})
        for label, weight in tensor.mixture.weights.items():
            total = sums.setdefault(label, [0.0, 0.0])
            total[0] += weight * tensor.mixture.values
            total[1] += tensor.mixture.values
    rows = [[sums[label][0] / (sums[label][1] or 1) for label in found.models] for sums in parts.values()]
    squares(rows, list(parts), found.models, place / "parts", what="coefficient", form="{:.2f}")
    pictures.append(Picture("Coefficients, by component and kind", "", place / "parts.svg"))
    return pictures
