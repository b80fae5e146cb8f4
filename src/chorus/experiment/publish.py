"""Tables, plots and the report of a finished experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from chorus.analyse.ranks import Ranks
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import write_text
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import Comparison, Group
from chorus.evaluate.results import Evaluation
from chorus.evaluate.tables import NAMES, differences_table, plain, rates_table
from chorus.experiment.commands import commands_of
from chorus.experiment.config import Experiment
from chorus.experiment.findings import findings
from chorus.experiment.pooled import pooled
from chorus.experiment.spectra import effective_ranks
from chorus.experiment.steps import Outcome, curves_of
from chorus.experiment.trainings import JOINT
from chorus.report.compared import compared_plots
from chorus.report.html import Page, Picture, render
from chorus.report.plots import curve, ranks
from chorus.tables import Table


def publish(made: Experiment, outcome: Outcome, groups: Mapping[str, Group]) -> None:
    """Write tables/, plots/, results.json and report.html."""
    out = outcome.directory
    every = pooled(outcome.test)
    found = _compared(made, every, groups, made.conditions[0], tests=True)
    found_ranks = effective_ranks(made, outcome)
    tables = [rates_table(found), _seeds(made, outcome, groups), _selection(made, outcome)]
    if len(made.conditions) > 1:
        tables.insert(1, _conditions(made, every, groups))
    differences = differences_table(found)
    if differences:
        tables.append(differences)
    tables.append(_ranks_table(found_ranks))
    curves = {name: _curve(made, points, groups) for name, points in outcome.curves.items()}
    for number, name in enumerate(curves):
        tables.insert(2 + number, _curve_table(made, outcome, name, curves[name]))
    values = {
        "best": outcome.best, "comparison": plain(found), "curves": curves,
        "effective_ranks": {label: [vars(r) for r in rows] for label, (_, rows) in found_ranks.items()},
    }  # fmt: skip
    write_json(out / "results.json", json.loads(json.dumps(values, default=str)))
    _write_tables(out / "tables", tables)
    pictures = _pictures(made, outcome, found, curves, found_ranks)
    first = every[0].summary
    facts = [
        ("test", f"{len({r.utterance for r in every[0].scored})} utterances, {first['test']['hours']:.2f} h"),
        ("normaliser", made.normaliser),
        (
            "decoding",
            f"{first['backend']}, "
            + ", ".join(f"{k} {v}" for k, v in first["decoding"].items() if v not in ("", None)),
        ),
        ("seeds", ", ".join(map(str, made.seeds))),
        ("selection", "selection.json: decided on dev before a test recording was opened"),
        ("versions", ", ".join(f"{k} {v}" for k, v in first["versions"].items())),
    ]
    source = yaml.safe_dump(made.model_dump(mode="json", by_alias=True, exclude_defaults=True), sort_keys=False)
    page = Page(
        f"Experiment: {made.name}", findings(found, outcome.best, len(made.seeds)), pictures, tables,
        commands_of(made, outcome), facts, source,
    )  # fmt: skip
    write_text(outcome.report, render(page))


def _compared(
    made: Experiment, every: Sequence[Evaluation], groups: Mapping[str, Group], condition: str, *, tests: bool
) -> Comparison:
    return compare(
        every, condition=condition, base="base", joint=JOINT if made.joint else None,
        specialists={name: name for name in made.domains}, groups=groups, tests=tests,
    )  # fmt: skip


def _seeds(made: Experiment, outcome: Outcome, groups: Mapping[str, Group]) -> Table:
    """How far seeds move each system's averages."""
    by_seed = [_compared(made, one, groups, made.conditions[0], tests=False) for one in outcome.test.values()]
    kinds = by_seed[0].groups
    rows = []
    for lines in zip(*(one.lines for one in by_seed), strict=True):
        cells = []
        for group in kinds:
            values = [line.averages[group] for line in lines]
            spread = f" ± {np.std(values, ddof=1):.2f}" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.2f}{spread}")
        rows.append([lines[0].label, *cells, *(f"{line.averages['in-domain']:.2f}" for line in lines)])
    columns = ["system", *(f"{NAMES[g]} average" for g in kinds), *(f"in-domain, seed {s}" for s in outcome.test)]
    return Table("Each seed by itself", columns, rows, ["Mean ± standard deviation over seeds."])


def _selection(made: Experiment, outcome: Outcome) -> Table:
    rows = []
    for name, one in outcome.chosen.items():
        told = ", ".join(f"{k} {v}" for k, v in one.setting.parameters.items()) or "no parameters"
        count = len(made.methods[name]) and _grid_size(made, name)
        rows.append([name, told, str(count or 1), f"{one.dev:.2f}"])
    notes = ["The setting with the lowest mean of the domains' dev error rates over all seeds; of equals the first."]
    best = {(i, 3) for i, row in enumerate(rows) if row[0] == outcome.best}
    return Table("What was chosen on dev", ["method", "setting", "of", "dev error rate"], rows, notes, best)


def _grid_size(made: Experiment, name: str) -> int:
    from chorus.experiment.config import grid_of

    return len(grid_of(name, made.methods[name]))


def _conditions(made: Experiment, every: Sequence[Evaluation], groups: Mapping[str, Group]) -> Table:
    found = [_compared(made, every, groups, c, tests=False) for c in made.conditions]
    rows = []
    for lines in zip(*(one.lines for one in found), strict=True):
        cells = []
        for line in lines:
            inside = line.average_intervals["in-domain"]
            cells.append(f"{line.averages['in-domain']:.2f} [{inside.low:.1f}, {inside.high:.1f}]")
        rows.append([lines[0].label, *cells])
    return Table("In-domain average under conditions", ["system", *made.conditions], rows)


def _curve(
    made: Experiment, points: Mapping[int, Sequence[Evaluation]], groups: Mapping[str, Group]
) -> list[dict[str, Any]]:
    """The averages at every point of a curve, and their intervals."""
    found = _compared_merges(made, pooled(points), groups)
    return [
        {
            "parameters": line.parameters,
            "averages": line.averages,
            "intervals": {g: (i.low, i.high) for g, i in line.average_intervals.items()},
        }
        for line in found.lines
    ]


def _compared_merges(made: Experiment, every: Sequence[Evaluation], groups: Mapping[str, Group]) -> Comparison:
    return compare(every, condition=made.conditions[0], groups=groups, tests=False)


def _curve_table(made: Experiment, outcome: Outcome, name: str, points: Sequence[Mapping[str, Any]]) -> Table:
    parameter = next(iter(made.curves[name]))
    kinds = list(points[0]["averages"])
    rows = []
    for setting, point in zip(curves_of(made, outcome.chosen)[name], points, strict=True):
        cells = [
            f"{point['averages'][g]:.2f} [{point['intervals'][g][0]:.1f}, {point['intervals'][g][1]:.1f}]"
            for g in kinds
        ]
        rows.append([setting.label, *cells])
    columns = [f"{name} over {parameter}", *(f"{NAMES[g]} average" for g in kinds)]
    note = "On test, after the selection; nothing is chosen by it."
    return Table(f"{name} over {parameter}", columns, rows, [note])


def _ranks_table(found: Mapping[str, tuple[str, Sequence[Ranks]]]) -> Table:
    rows = []
    for label, (_, one) in found.items():
        share = np.median([r.effective / r.full for r in one])
        values = [float(np.median([getattr(r, key) for r in one])) for key in ("effective", "stable", "norm")]
        rows.append([label, f"{share * 100:.1f} %", *(f"{v:.3g}" for v in values)])
    columns = ["delta of", "effective rank of full", "effective rank", "stable rank", "Frobenius norm"]
    notes = [
        "Medians over the matrices that subspace methods decompose. Effective rank: exp of the entropy of s / sum s."
    ]
    return Table("Ranks of the deltas to the base", columns, rows, notes)


def _write_tables(place: Path, tables: Sequence[Table]) -> None:
    place.mkdir(parents=True, exist_ok=True)
    for number, one in enumerate(tables, 1):
        words = "-".join("".join(c if c.isalnum() else " " for c in one.title.lower()).split()[:4])
        for suffix, form in ((".md", "markdown"), (".csv", "csv"), (".tex", "latex")):
            write_text(place / f"{number:02d}-{words}{suffix}", one.render(form))  # type: ignore[arg-type]


def _pictures(
    made: Experiment, outcome: Outcome, found: Comparison, curves: Mapping[str, Sequence[Mapping[str, Any]]],
    found_ranks: Mapping[str, tuple[str, Sequence[Ranks]]],
) -> list[Picture]:  # fmt: skip
    place = outcome.directory / "plots"
    compared_plots(plain(found), place)
    pictures = [
        Picture("Error rate by domain", "Dots: domains with 95 % intervals. Bars: the mean.", place / "by-domain.svg")
    ]
    if (place / "trade.svg").exists():
        text = "Below and left is better; the line joins what nothing beats in both."
        pictures.append(Picture("Specialisation against retention", text, place / "trade.svg"))
    for name, points in curves.items():
        parameter = next(iter(made.curves[name]))
        xs = [float(s.parameters[parameter]) for s in curves_of(made, outcome.chosen)[name]]
        kinds = list(points[0]["averages"])
        lines = {NAMES[g]: [(x, p["averages"][g]) for x, p in zip(xs, points, strict=True)] for g in kinds}
        bands = {NAMES[g]: [tuple(p["intervals"][g]) for p in points] for g in kinds}
        own = {line.label: line for line in found.lines}
        levels = {f"{n}, in-domain": own[n].averages["in-domain"] for n in ("base", JOINT) if n in own}
        curve(
            lines, place / f"{name}-{parameter}", parameter=f"{parameter} of {name}", what="error rate, percent",
            levels=levels, bands=bands,
        )  # fmt: skip
        text = "On test, with 95 % intervals; dashed: base and joint fine-tune over the domains."
        pictures.append(Picture(f"{name} over {parameter}", text, place / f"{name}-{parameter}.svg"))
    ranks(
        [(label, role, [100 * r.effective / r.full for r in one]) for label, (role, one) in found_ranks.items()],
        place / "ranks", what="effective rank of the delta, percent of the full rank, over matrices",
    )  # fmt: skip
    text = "How many directions each delta to the base uses; a merge far left of its specialists has collapsed."
    pictures.append(Picture("Rank collapse", text, place / "ranks.svg"))
    return pictures
