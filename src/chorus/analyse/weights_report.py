"""The tables, plots and page of an analysis of weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from chorus.analyse.facts import PairFacts, WeightAnalysis, WeightGroup
from chorus.analyse.page import AnalysisReport
from chorus.linalg.energies import ENERGIES, SHARES
from chorus.report.grids import Panel, energy_curves, over_layers, squares
from chorus.report.html import Picture
from chorus.tables import Table

Value = float | None
FEW = 6  # pairs that a plot has room for
MEAN = "mean of pairs"


def tables_of(found: WeightAnalysis) -> list[Table]:
    """What each has changed, how two of them lie to each other, what a merge kept, and the same by place."""
    tables = [_changes(found), *([_between(found)] if len(found.labels) > 1 else [])]
    if found.merges:
        tables.append(_kept(found))
    return [*tables, *(_by(found, column) for column in ("component", "kind", "layer") if found.groups[column])]


def _changes(found: WeightAnalysis) -> Table:
    # in the order in which `energies` are told
    energies = [f"{100 * e:.0f} % of energy" for e in ENERGIES]
    columns = ["model", "norm", "% of base", "effective rank", "% of full", "stable rank", "participation", *energies]
    rows = []
    for label in found.labels:
        one = found.all.deltas[label]
        told = [label + (" (merge)" if label in found.merges else ""), f"{one.norm:.4g}", _percent(one.relative, 3)]
        # vectors alone, or nothing decomposed
        if one.spectrum is None:
            rows.append([*told, *["-"] * (len(columns) - 3)])
            continue
        s = one.spectrum
        ranks = [f"{x:.1f}" for x in (s.stable, s.participation, *s.energies.values())]
        rows.append([*told, f"{s.effective:.1f}", _percent(s.effective_share, 1), *ranks])
    note = "Norms: all values together. Ranks: means over the matrices that the model has changed."
    return Table(f"What each has changed in {found.base}", columns, rows, [note])


def _between(found: WeightAnalysis) -> Table:
    largest = f"conflict, largest {100 * found.density:.3g} %"
    columns = ["pair", "cosine", "sign conflict", largest, "overlap left", "chance", "overlap right", "chance",
               "smallest angle", "mean angle"]  # fmt: skip
    rows = []
    for pair in found.all.pairs:
        sides: list[str] = []
        for side in (pair.left, pair.right):
            sides += [_number(side.overlap if side else None), _number(side.chance if side else None)]
        angles = [one for one in (pair.left, pair.right) if one is not None]
        smallest = min((one.smallest for one in angles), default=None)
        mean = sum(one.mean for one in angles) / len(angles) if angles else None
        rows.append([
            f"{pair.a} | {pair.b}", _number(pair.cosine, 3), _percent(pair.conflict, 1),
            _percent(pair.conflict_largest, 1), *sides, _number(smallest, 1), _number(mean, 1),
        ])  # fmt: skip
    notes = [
        "Sign conflict: percent of the values that both have changed. By chance 50.",
        f"Overlap: of the subspaces that hold {100 * found.energy:.3g} % of each matrix's energy; chance is what "
        "random subspaces of these sizes have. Angles in degrees. Means over matrices.",
    ]
    if found.all.elected is not None and len(found.models) > 1:
        notes.append(
            f"Of the models' mass {_percent(found.all.elected, 1)} % lies on the sign that wins its value, of their "
            f"largest values' {_percent(found.all.elected_largest, 1)} %."
        )
    return Table("Between two", columns, rows, notes)


def _kept(found: WeightAnalysis) -> Table:
    rows = [
        [one.merge, one.model, _number(one.projection, 3), _number(one.cosine, 3), _number(one.effective_ratio, 2)]
        for one in found.all.merges
    ]
    notes = [
        "Projection <D_M, D_t> / |D_t|^2: 1 where the merge holds all that the model has learnt, in its strength.",
        "Rank: the merge's effective rank over the model's; far below 1 the merge has collapsed.",
    ]
    columns = ["merge", "model", "projection", "cosine", "effective rank, ratio"]
    return Table("What a merge holds of each model", columns, rows, notes)


def _by(found: WeightAnalysis, column: str) -> Table:
    """Norms of each, and means over all pairs of models, in each group."""
    several = len(found.models) > 1  # else nothing can agree or conflict
    columns = [column, "tensors", *(f"{label}, % of base" for label in found.labels),
               *(f"{label}, effective rank %" for label in found.labels),
               *(("cosine", "conflict", "conflict, largest", "overlap left", "overlap right") if several else ()),
               *(f"{m.merge} on {m.model}" for m in found.all.merges)]  # fmt: skip
    rows = []
    for group in found.groups[column]:
        row = [group.name, str(group.tensors)]
        row += [_percent(group.deltas[label].relative, 3) for label in found.labels]
        row += [_percent(_share(group, label), 1) for label in found.labels]
        if several:
            row += [_number(_mean(group, found, cosine), 3)]
            row += [_percent(_mean(group, found, of), 1) for of in (conflict, conflict_largest)]
            row += [_number(_mean(group, found, of)) for of in (overlap_left, overlap_right)]
        rows.append([*row, *(_number(m.projection, 3) for m in group.merges)])
    notes = ["Between models: means over all pairs of them."] if len(found.models) > 2 else []
    notes += ["A merge on a model: its projection."] if found.merges else []
    return Table(f"By {column}", columns, rows, notes)


def cosine(pair: PairFacts) -> Value:
    """Of two models."""
    return pair.cosine


def conflict(pair: PairFacts) -> Value:
    """Of all values."""
    return pair.conflict


def conflict_largest(pair: PairFacts) -> Value:
    """Of the largest values."""
    return pair.conflict_largest


def overlap_left(pair: PairFacts) -> Value:
    """Of output sides."""
    return pair.left.overlap if pair.left else None


def chance_left(pair: PairFacts) -> Value:
    """Of output sides, were they random."""
    return pair.left.chance if pair.left else None


def overlap_right(pair: PairFacts) -> Value:
    """Of input sides."""
    return pair.right.overlap if pair.right else None


def _share(group: WeightGroup, label: str) -> Value:
    spectrum = group.deltas[label].spectrum
    return spectrum.effective_share if spectrum else None


def _pairs(group: WeightGroup, found: WeightAnalysis, of: Callable[[PairFacts], Value]) -> list[float]:
    """A number of every pair of models, merges left out, that has one."""
    values = [of(pair) for pair in group.pairs if pair.a in found.models and pair.b in found.models]
    return [value for value in values if value is not None]


def _mean(group: WeightGroup, found: WeightAnalysis, of: Callable[[PairFacts], Value]) -> Value:
    values = _pairs(group, found, of)
    return sum(values) / len(values) if values else None


def _number(value: Value, digits: int = 2) -> str:
    return "-" if value is None else f"{value:z.{digits}f}"


def _percent(value: Value, digits: int) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def draw(found: WeightAnalysis, place: Path) -> list[Picture]:
    """All plots below `place`."""
    pictures = _over_layers(found, place) if found.groups["layer"] else []
    spectra = {label: found.all.deltas[label].spectrum for label in found.labels}
    curves = {label: one.curve for label, one in spectra.items() if one is not None}
    if curves:
        energy_curves(SHARES, curves, place / "energy")
        text = "The further left a curve rises, the fewer directions a change uses. Means over matrices."
        pictures.append(Picture("Where the energy lies", text, place / "energy.svg"))
    if len(found.labels) > 1:
        squares(_cosines(found), found.labels, found.labels, place / "cosines", what="cosine", limit=1.0)
        text = "1: the same direction, 0: none of the other's, -1: the opposite."
        pictures.append(Picture("Cosines of all changes", text, place / "cosines.svg"))
    return pictures


def _over_layers(found: WeightAnalysis, place: Path) -> list[Picture]:
    """Norms, ranks, agreement of models, projections of merges: a picture each, as far as there are numbers."""
    layers = found.groups["layer"]
    drawn = [
        ("norms", "What has changed, by layer", "How far each layer has moved.", Panel(
            "norm of the change, percent of the base's",
            {label: [_times(g.deltas[label].relative, 100) for g in layers] for label in found.labels})),
        ("ranks", "Directions used, by layer", "In how many directions: means over the matrices of a layer.", Panel(
            "effective rank, percent of the full rank",
            {label: [_times(_share(g, label), 100) for g in layers] for label in found.labels})),
    ]  # fmt: skip
    if len(found.models) > 1:
        drawn += [
            ("cosine", "Cosine of models, by layer", "Dashed: unrelated changes.",
             _agreement(found, cosine, "cosine", 0.0)),
            ("conflict", "Sign conflict, by layer", "Of the values that are among the largest of both; dashed: chance.",
             _agreement(found, conflict_largest, "share of values with opposite signs", 0.5)),
            ("overlap", "Overlap of subspaces, by layer", "Of the output sides of a layer's matrices.",
             _with_chance(found, _agreement(found, overlap_left, "overlap, left", None))),
        ]  # fmt: skip
    if found.merges:
        names = [f"{m.merge} on {m.model}" for m in found.all.merges]
        lines = {name: [g.merges[i].projection for g in layers] for i, name in enumerate(names)}
        text = "1 (dashed): the layer holds all that the model has learnt there, in its strength."
        panel = Panel("projection <D_M, D_t> / |D_t|²", lines, level=1.0)
        drawn.append(("projections", "What a merge holds of each model, by layer", text, panel))
    pictures = []
    for stem, title, text, panel in drawn:
        # without spectra there are neither ranks nor subspaces
        if any(value is not None for values in panel.lines.values() for value in values):
            over_layers([g.name for g in layers], panel, place / stem)
            pictures.append(Picture(title, text, place / f"{stem}.svg"))
    return pictures


def _agreement(found: WeightAnalysis, of: Callable[[PairFacts], Value], what: str, level: Value) -> Panel:
    """A line for each pair of models, or for many the mean over them, shaded from the lowest to the highest."""
    layers = found.groups["layer"]
    places = [i for i, p in enumerate(found.all.pairs) if p.a in found.models and p.b in found.models]
    if len(places) <= FEW:
        names = {i: f"{found.all.pairs[i].a} | {found.all.pairs[i].b}" for i in places}
        return Panel(what, {names[i]: [of(g.pairs[i]) for g in layers] for i in places}, level=level)
    values = [_pairs(g, found, of) for g in layers]
    means = [sum(v) / len(v) if v else None for v in values]
    # no interval: all pairs that there are
    bands = [(min(v, default=None), max(v, default=None)) for v in values]
    return Panel(what, {MEAN: means}, {MEAN: bands}, level)


def _with_chance(found: WeightAnalysis, panel: Panel) -> Panel:
    """Beside what random subspaces of these dimensions have: of many directions two always overlap."""
    by_chance = [_mean(g, found, chance_left) for g in found.groups["layer"]]
    return replace(panel, lines={**panel.lines, "by chance": by_chance})


def _cosines(found: WeightAnalysis) -> list[list[Value]]:
    known = {frozenset((p.a, p.b)): p.cosine for p in found.all.pairs}
    return [[1.0 if a == b else known[frozenset((a, b))] for b in found.labels] for a in found.labels]


def _times(value: Value, factor: float) -> Value:
    return None if value is None else factor * value


def weights_report(found: WeightAnalysis, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    # what a reader wants first, before any table
    lead = [_moved(found)]
    if len(found.models) > 1:
        lead.append(_nearest(found))
    lead += found.warnings
    facts = [
        ("base", found.base), ("models", ", ".join(found.models)), ("merges", ", ".join(found.merges) or "none"),
        ("values", f"{found.all.values:,} in {found.all.tensors} tensors"),
        ("largest values", f"{100 * found.density:.3g} % of each tensor"),
        ("subspaces", f"{100 * found.energy:.3g} % of each matrix's energy"),
    ]  # fmt: skip
    return AnalysisReport(
        "weights", f"Weights: {', '.join(found.labels)}", lead, tables_of(found), found.as_dict(),
        lambda place: draw(found, place), facts, command,
    )  # fmt: skip


def _moved(found: WeightAnalysis) -> str:
    told = [f"{label} by {_percent(found.all.deltas[label].relative, 2)} %" for label in found.labels]
    return f"Away from {found.base} have moved: {', '.join(told)} of its norm."


def _nearest(found: WeightAnalysis) -> str:
    """The pair of models that agrees most, in a sentence."""
    pairs = [p for p in found.all.pairs if p.a in found.models and p.b in found.models and p.cosine is not None]
    if not pairs:
        return "No two models have changed the same tensors."
    one = max(pairs, key=lambda p: p.cosine or 0.0)
    which = "Most alike are" if len(pairs) > 1 else "Between"
    share = _percent(one.conflict_largest, 1)
    return (
        f"{which} {one.a} and {one.b}: cosine {_number(one.cosine, 3)}, opposite signs in {share} % of the values that "
        "are among the largest of both."
    )
