"""What is told of a calibration, in `chorus.json` and on the screen: settings, rows, the curve, what was reached."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING

from chorus._version import __version__
from chorus.calibrate.groups import Groups, labels_of
from chorus.calibrate.recovery import Figures, Marks, recoveries, score, unit_of, value_of
from chorus.calibrate.result import weights_table
from chorus.calibrate.rows import Rows
from chorus.calibrate.settings import Calibration, Measure
from chorus.checkpoints.public_recipe import public_document
from chorus.merge.plan import Plan
from chorus.plain import JsonObject
from chorus.provenance import versions
from chorus.tables import Table

if TYPE_CHECKING:
    from torch import Tensor

KIND = "calibrate"


def facts_of(
    settings: Calibration, plan: Plan, groups: Groups, rows: Rows, weights: Tensor, entries: Sequence[JsonObject],
    best: JsonObject, marks: Mapping[str, Marks], *, changed: Set[int], fingerprint: str, energy: float | None,
) -> JsonObject:  # fmt: skip
    """The provenance: no times, hosts or absolute paths, so that two can be compared."""

    def reached(figures: Figures) -> JsonObject:
        # the geometric mean knows minus infinity, and JSON does not
        value = score(figures, marks, settings.rule)
        return {
            "dev": {task: value_of(parts) for task, parts in figures.items()},
            "recovery": recoveries(figures, marks),
            "score": value if math.isfinite(value) else None,
        }

    measures = [entry for entry in entries if entry["single"] is None]
    singles = {str(entry["single"]) or "base": entry["figures"] for entry in entries if entry["single"] is not None}
    return {
        "chorus": __version__,
        "kind": KIND,
        "versions": versions(("peft",)),
        "recipe": public_document(plan.recipe.document, plan.references),
        "settings": settings.model_dump(mode="json", exclude={"device"}),
        "rows": {
            task: {"train": len(rows.train[task]), "dev": len(rows.dev[task])} for task in rows.tasks
        },
        "models": labels_of(plan, groups),
        "energy_of_deltas": energy,
        "singles": {name: reached(figures) for name, figures in singles.items()},
        "own": {task: {"model": mark.model, "counts": mark.counts} for task, mark in marks.items()},
        "start": reached(measures[0]["figures"]),
        "best": {"update": best["update"], **reached(best["figures"])},
        "curve": [
            {"update": entry["update"], "loss": entry["loss"], **reached(entry["figures"])} for entry in measures
        ],
        "weights": weights_table(plan, groups, weights, changed),
        "fingerprint": fingerprint,
    }  # fmt: skip


def dev_table(facts: JsonObject) -> Table:
    """Base, single models, the recipe's own weights and the calibrated ones on dev, by task."""
    measure: Measure = facts["settings"]["measure"]
    unit = unit_of(measure)
    places = 3 if unit == 1 else 2
    tasks = list(facts["rows"])
    lines = [(name, reached) for name, reached in facts["singles"].items()]
    lines += [("the recipe's weights", facts["start"]), ("calibrated", facts["best"])]
    rows = [
        (
            name,
            *(_cell(unit * reached["dev"][task], reached["recovery"].get(task), places) for task in tasks),
            "-" if reached["score"] is None else f"{reached['score']:.3f}",
        )
        for name, reached in lines
    ]
    return Table("", ["", *(f"dev {measure} {task}" for task in tasks), str(facts["settings"]["rule"])], rows)


def _cell(value: float, recovery: float | None, places: int) -> str:
    return f"{value:.{places}f}" + ("" if recovery is None else f" ({recovery:z.2f})")
