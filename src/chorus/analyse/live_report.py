"""The tables, plots and pages of what loaded models do: the loss between them, and how alike their states are."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

from chorus.analyse.cka import StateAnalysis, StateLayer
from chorus.analyse.page import AnalysisReport
from chorus.analyse.path import LossPath, PathAnalysis
from chorus.report.grids import Panel, over_layers, squares
from chorus.report.html import Picture
from chorus.report.plots import curve
from chorus.tables import Table

FEW = 5  # lines for which `curve` has colours


def path_report(found: PathAnalysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of a path."""
    counts = ", ".join(f"{name} ({count})" for name, count in found.domains.items())
    facts = [
        ("base", found.base), ("models", ", ".join(found.models)), (f"rows by {found.by}, and utterances", counts)
    ]  # fmt: skip
    worst = max(found.paths, key=lambda path: path.barrier.height)
    lead = ["On no way does the mean loss rise above the line between both ends: no barrier."]
    if worst.barrier.height > 0:
        lead = [f"The highest barrier is {worst.barrier.height:.3f}, from {worst.name} at {worst.barrier.at:.2f}."]
    return AnalysisReport(
        "path", f"Loss between {', '.join([found.base, *found.models])}", [*lead, *found.warnings],
        [path_table(found), losses_table(found)], found.as_dict(), lambda place: _draw_paths(found, place), facts,
        command,
    )  # fmt: skip


def path_table(found: PathAnalysis) -> Table:
    """Of each way, in each row of the recordings: both ends, the lowest point, the barrier."""
    rows = []
    for path in found.paths:
        # of one row the mean is itself
        several = {**path.losses, "mean": path.mean} if len(path.losses) > 1 else path.losses
        barriers = {**path.barriers, "mean": path.barrier}
        for domain, losses in several.items():
            low = min(range(len(losses)), key=lambda i: losses[i])
            one, last = barriers[domain], losses[path.at.index(1.0)]
            rows.append([
                path.name, domain, f"{losses[0]:.3f}", f"{last:.3f}", f"{losses[low]:.3f} at {path.at[low]:.2f}",
                f"{one.height:.3f} at {one.at:.2f}" if one.height > 0 else "none",
            ])  # fmt: skip
    notes = [
        "Cross-entropy a token (natural logarithm). Barrier: how far the loss rises above the line between both ends.",
        *found.warnings,
    ]
    return Table("Loss on the way", ["way", "row", "start", "end", "lowest", "barrier"], rows, notes)


def losses_table(found: PathAnalysis) -> Table:
    """The mean over all of them at every point."""
    at = max((path.at for path in found.paths), key=len)
    rows = [
        [path.name, *(f"{path.mean[i]:.3f}" if i < len(path.at) else "-" for i in range(len(at)))]
        for path in found.paths
    ]
    return Table("Mean over rows, by point", ["way", *(f"{a:g}" if a in (0, 1) else f"{a:.2f}" for a in at)], rows)


def _draw_paths(found: PathAnalysis, place: Path) -> list[Picture]:
    from_base = [path for path in found.paths if path.start == found.base]
    between = [path for path in found.paths if path.start != found.base]
    pictures = []
    for stem, title, text, paths in (
        ("from-base", "From the base to each", "0 is the base, 1 the model; beyond it is exaggerated.", from_base),
        ("between", "Between models", "A hump is a barrier: averages of the two are worse than both.", between),
    ):  # fmt: skip
        for domain in [*(found.domains if len(found.domains) > 1 else {}), "mean"]:
            lines = {path.name: _points(path, domain) for path in paths[:FEW]}
            if lines:
                name = f"{stem}-{_slug(domain)}"
                what = "loss, mean over rows" if domain == "mean" else f"loss on {domain}"
                curve(lines, place / name, parameter="weight", what=what)
                left = f" The first {FEW} of {len(paths)}." if len(paths) > FEW else ""
                pictures.append(Picture(f"{title}: {what}", text + left, place / f"{name}.svg"))
    return pictures


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in text)


def _points(path: LossPath, domain: str) -> list[tuple[float, float]]:
    return list(zip(path.at, path.mean if domain == "mean" else path.losses[domain], strict=True))


def cka_report(found: StateAnalysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of states."""
    facts = [
        ("base", found.base), ("compared", ", ".join(found.labels)), ("utterances", str(found.utterances)),
        ("positions", f"{found.layers[0].examples} frames, {found.layers[-1].examples} tokens"),
    ]  # fmt: skip
    value, where, pair = min(
        ((value, layer.name, f"{found.labels[i]} and {found.labels[j]}")
         for layer in found.layers for i, j in combinations(range(len(found.labels)), 2)
         if (value := layer.cka[i][j]) is not None), default=(1.0, "", ""),
    )  # fmt: skip
    lead = [f"Least alike are {pair} in {where}: CKA {value:z.3f}."] if pair else []
    return AnalysisReport(
        "cka", f"States of {', '.join(found.labels)}", [*lead, *found.warnings], cka_tables(found), found.as_dict(),
        lambda place: _draw_states(found, place), facts, command,
    )  # fmt: skip


def cka_tables(found: StateAnalysis) -> list[Table]:
    """CKA and differences, a row a layer and a column a pair."""
    pairs = list(combinations(range(len(found.labels)), 2))
    columns = ["layer", *(f"{found.labels[i]} | {found.labels[j]}" for i, j in pairs)]
    aligned, apart = [], []
    for layer in found.layers:
        values = [layer.cka[i][j] for i, j in pairs]
        aligned.append([layer.name, *map(_cka, values)])
        apart.append([layer.name, *(f"{layer.difference[i][j]:.4g}" for i, j in pairs)])
    note = "Linear CKA, unbiased: 1 where the one's states are the other's, turned and scaled; 0 by chance."
    tables = [
        Table("CKA by layer", columns, aligned, [note, *found.warnings]),
        Table("Mean absolute difference of states by layer", columns, apart),
    ]
    if not found.rows:
        return tables
    # of all layers they stand in the JSON
    last = [(row, layer) for row, layers in found.rows.items() for layer in _last(layers).values()]
    columns = ["row", *columns]
    return [
        *tables,
        Table(
            "CKA in each row, behind the last layers", columns,
            [[row, layer.name, *(_cka(layer.cka[i][j]) for i, j in pairs)] for row, layer in last],
        ),
        Table(
            "Mean absolute difference in each row, behind the last layers", columns,
            [[row, layer.name, *(f"{layer.difference[i][j]:.4g}" for i, j in pairs)] for row, layer in last],
        ),
    ]  # fmt: skip


def _cka(value: float | None) -> str:
    return "-" if value is None else f"{value:z.3f}"


def _last(layers: Sequence[StateLayer]) -> dict[str, StateLayer]:
    """What the next part of the model, or the text, is made of: the last layer of each stack."""
    return {layer.name.rpartition(" ")[0]: layer for layer in layers}


def _draw_states(found: StateAnalysis, place: Path) -> list[Picture]:
    names = [layer.name for layer in found.layers]
    pairs = list(combinations(range(len(found.labels)), 2))
    called = {(i, j): f"{found.labels[i]} | {found.labels[j]}" for i, j in pairs}
    over_layers(
        names, Panel("CKA", {called[i, j]: [x.cka[i][j] for x in found.layers] for i, j in pairs}), place / "cka"
    )
    shifts = {called[i, j]: [x.difference[i][j] for x in found.layers] for i, j in pairs}
    over_layers(names, Panel("mean absolute difference", shifts), place / "difference")
    pictures = [
        Picture("CKA, by layer", "1: the same states, turned and scaled.", place / "cka.svg"),
        Picture("Shift of the states, by layer", "How far the values themselves lie apart.", place / "difference.svg"),
    ]
    for stack, layer in _last(found.layers).items():
        squares(layer.cka, found.labels, found.labels, place / f"last-{stack}", what="CKA", limit=1.0)
        pictures.append(Picture(f"CKA behind the last layer: {stack}", "", place / f"last-{stack}.svg"))
    return pictures
