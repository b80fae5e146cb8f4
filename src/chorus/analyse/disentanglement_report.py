"""The tables, pictures and page of weight disentanglement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from chorus.analyse.disentanglement import Disentanglement
from chorus.analyse.page import AnalysisReport
from chorus.plain import exact
from chorus.report.grids import squares
from chorus.report.html import Picture
from chorus.tables import Table
from chorus.transcribe.systems import folder_of


def disentanglement_report(found: Disentanglement, *, command: Sequence[str] = ()) -> AnalysisReport:
    """Everything that is written of it."""
    first, second = found.models
    homes = (f"{model} ({', '.join(found.homes[model])}: {found.utterances[model]})" for model in found.models)
    facts = [
        ("base", found.base), ("models, where they are at home, and utterances there", ", ".join(homes)),
        ("distance", ", ".join(f"{row}: {what}" for row, what in found.distances.items())),
    ]  # fmt: skip
    # the strongest sum of both that was measured
    at = max((i, j) for i, a in enumerate(found.weights) for j, b in enumerate(found.weights) if a and b)
    weights = " and ".join(exact(found.weights[i]) for i in at)
    lead = (
        f"Added with {weights}, {second} moves the answers of {first} "
        f"at home by {found.parts[first][at[0]][at[1]]:.2f} of 1, and {first} those of {second} by "
        f"{found.parts[second][at[0]][at[1]]:.2f}."
    )
    tables = [_table(found, "Disentanglement error", found.errors)]
    tables += [_table(found, f"Of it in the rows of {model}", found.parts[model]) for model in found.models]
    return AnalysisReport(
        "disentanglement", f"Disentanglement of {first} and {second}", [lead, *found.notes], tables, found.as_dict(),
        lambda place: _draw(found, place), facts, command,
    )  # fmt: skip


def _table(found: Disentanglement, title: str, values: Sequence[Sequence[float]]) -> Table:
    first, second = found.models
    rows = [
        [f"{exact(a)} {first}", *(f"{one:.3f}" for one in row)] for a, row in zip(found.weights, values, strict=True)
    ]
    notes = []
    # once, below the first table
    if values is found.errors:
        kinds = "; ".join(dict.fromkeys(found.distances.values()))
        notes = [f"0: each answers as if it were alone; at most 2. Distance of two answers: {kinds}.", *found.notes]
    return Table(title, ["", *(f"{exact(b)} {second}" for b in found.weights)], rows, notes)


def _draw(found: Disentanglement, place: Path) -> list[Picture]:
    first, second = found.models
    rows, columns = ([f"{exact(weight)} {name}" for weight in found.weights] for name in (first, second))
    # on fixed scales: a faint error must not look like a deep one
    drawn = [("error", "Disentanglement error", found.errors, 2.0)]
    drawn += [(f"in-{folder_of(model)}", f"In the rows of {model}", found.parts[model], 1.0) for model in found.models]
    pictures = []
    for stem, title, values, limit in drawn:
        squares(values, rows, columns, place / stem, what="distance", form="{:.2f}", limit=limit)
        pictures.append(Picture(title, "0: each answers as if it were alone.", place / f"{stem}.svg"))
    return pictures
