"""Tables, plots and the report of a finished experiment, drawn from results.json alone."""

from __future__ import annotations

from pathlib import Path

from chorus.checkpoints.writer import write_text
from chorus.experiment.findings import told
from chorus.experiment.pictures import draw
from chorus.experiment.places import REPORT
from chorus.experiment.results import read_results
from chorus.experiment.tables import tables_of, write_tables
from chorus.report.html import Page, render


def publish(directory: Path) -> Path:
    """Draw tables/, plots/ and report.html again; no model is opened and nothing is transcribed. Returns the report."""
    # read again even right after the run: what --report draws later is then the same page
    results = read_results(directory)
    tables = tables_of(results)
    write_tables(tables, directory / "tables")
    page = Page(
        f"Experiment: {results.name}",
        told(results),
        draw(results, directory / "plots"),
        tables,
        results.commands,
        list(results.facts.items()),
        results.source,
    )
    write_text(directory / REPORT, render(page))
    return directory / REPORT
