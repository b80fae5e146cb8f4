"""An analysis as a directory: its numbers as JSON, its plots, and one page that needs neither file nor network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from chorus.checkpoints.lineage import PROVENANCE
from chorus.checkpoints.output_place import refuse_input
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import appearing_whole, write_text
from chorus.errors import MissingExtraError
from chorus.plain import JsonObject
from chorus.provenance import versions
from chorus.report.html import Command, Page, Picture, render
from chorus.tables import Table

REPORT, PLOTS = "report.html", "plots"
Draw = Callable[[Path], list[Picture]]


@dataclass(frozen=True)
class AnalysisReport:
    """What is written of an analysis: `name`.json holds `document`; `draw` makes the plots below a directory."""

    name: str
    title: str
    lead: Sequence[str]
    tables: Sequence[Table]
    document: JsonObject
    draw: Draw
    facts: Sequence[tuple[str, str]] = ()
    command: Sequence[str] = ()


def check_extras() -> None:
    """`MissingExtraError` where the page could not be made: before hours of work, not behind them."""
    # looked for, not imported: that takes a second, which a missing one should not cost
    if find_spec("matplotlib") is None:
        raise MissingExtraError("audio", "drawing plots")
    if find_spec("jinja2") is None:
        raise MissingExtraError("evaluate", "the HTML report")


@contextmanager
def place_for(output: str | Path, inputs: Iterable[Path], *, overwrite: bool = False) -> Iterator[Path]:
    """Where an analysis is written until it is whole: what forbids its place is told before the work, not behind it."""
    check_extras()
    directory = Path(output)
    # --overwrite would take a model away that was only to be looked at
    refuse_input(directory, inputs)
    with appearing_whole(directory, overwrite=overwrite) as partial:
        yield partial.path


def publish(report: AnalysisReport, place: Path) -> None:
    """Write everything into a directory."""
    write_json(place / f"{report.name}.json", report.document)
    pictures = report.draw(place / PLOTS)
    used = versions()
    page = Page(
        report.title, list(report.lead), pictures, list(report.tables),
        [Command(report.title, list(report.command))] if report.command else [],
        [*report.facts, ("versions", ", ".join(f"{k} {v}" for k, v in used.items()))],
    )  # fmt: skip
    write_text(place / REPORT, render(page))
    write_json(place / PROVENANCE, {"kind": "analysis", "analysis": report.name, "versions": used})
