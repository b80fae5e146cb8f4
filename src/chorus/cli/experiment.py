"""`chorus experiment`."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.cli.output import as_json, note, rich_console, rich_progress

if TYPE_CHECKING:
    from chorus.experiment.schema import Experiment


@click.command("experiment", short_help="The whole line from one file: train, merge, choose, test, report.")
@click.argument("file", metavar="EXPERIMENT.yml")
@click.option("--dry-run", is_flag=True, help="Check the file, show the plan and its cost, and end.")
@click.option("-o", "--output", metavar="DIR", help="Where results go.  [default: as the file says]")
@click.option("--seed", "seeds", multiple=True, type=int, help="These seeds instead of the file's.")
@click.option("--parallel", type=click.IntRange(1), help="Trainings at once.  [default: as the machine allows]")
@click.option("--keep", type=click.Choice(["none", "best", "all"]), help="Which merges to write as models.")
@click.option("--report", "redraw", is_flag=True, help="Draw tables, plots and page again, from results.json.")
@click.option("--json", "json_", is_flag=True, help="Print the outcome as JSON.")
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
def command(
    file: str, dry_run: bool, output: str | None, seeds: tuple[int, ...], parallel: int | None, keep: str | None,
    redraw: bool, json_: bool, quiet: bool,
) -> None:  # fmt: skip
    """Run an experiment; give the same command again after a kill or a change, and only what is missing is done.

    \b
    chorus experiment examples/experiments/digits.yml --dry-run
    chorus experiment examples/experiments/digits.yml
    chorus experiment examples/experiments/digits.yml --report
    """
    from chorus.experiment.load import load_experiment

    experiment = load_experiment(file)
    more = {"output": output, "seeds": list(seeds) or None, "parallel": parallel, "keep": keep}
    experiment = experiment.model_copy(update={k: v for k, v in more.items() if v is not None})
    if dry_run:
        from chorus.experiment.cost import describe

        click.echo("\n".join(describe(experiment)))
        return
    if redraw:
        from chorus.experiment.publish import publish

        publish(experiment.output_dir)
    else:
        _run(experiment, quiet=quiet)
    _print(experiment.output_dir, json_=json_, quiet=quiet)


def _run(experiment: Experiment, *, quiet: bool) -> None:
    from chorus.experiment.run import experiment as run

    show = Shown(quiet=quiet)
    try:
        run(experiment, show=show, note=show.note)
    finally:
        show.close()


def _print(directory: Path, *, json_: bool, quiet: bool) -> None:
    """The table of rates, or the outcome as JSON, and where the report is."""
    from chorus.evaluate.tables import rates_table
    from chorus.experiment.places import REPORT
    from chorus.experiment.results import read_results

    results, report = read_results(directory), directory / REPORT
    if json_:
        best = next(one for one in results.selection if one.name == results.best)
        as_json({
            "directory": str(directory), "report": str(report), "best": results.best, "parameters": best.parameters,
            "dev": best.dev,
        })  # fmt: skip
        return
    click.echo(rates_table(results.compared).render("markdown"))
    click.echo(str(report))
    note(f"next: look at {report} in a browser", quiet=quiet)


class Shown:
    """Steps done of all, what is being done, the time left: a bar on a terminal, else lines."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet
        self.bar: Any = None
        self.task: Any = None
        self.last = 0.0

    def __call__(self, done: int, total: int, told: str) -> None:
        if self.quiet:
            return
        if not sys.stderr.isatty():
            if time.monotonic() - self.last >= 1.0 or done == total:  # sweeps end several steps a second
                self.last = time.monotonic()
                note(f"[{done}/{total}] {told}")
            return
        if self.bar is None:
            columns = [
                rich_progress.BarColumn(),
                rich_progress.MofNCompleteColumn(),
                rich_progress.TextColumn("{task.description}"),
            ]
            self.bar = rich_progress.Progress(*columns, console=rich_console.Console(stderr=True), transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=total)
        self.bar.update(self.task, completed=done, total=total, description=told)

    def note(self, text: str) -> None:
        """A line for people, above the bar."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False)
        else:
            note(text)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
