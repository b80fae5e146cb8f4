"""`chorus experiment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus.cli.flags import json_flag, quiet_flag
from chorus.cli.output import as_json, note
from chorus.errors import UsageError
from chorus.progress import STEPS, shown

if TYPE_CHECKING:
    from chorus.experiment.schema import Experiment

LINE_EVERY_S = 1.0  # searches end several steps a second


@click.command("experiment")
@click.argument("file", metavar="EXPERIMENT.yml")
@click.option("--dry-run", is_flag=True, help="Check the file, show the plan and its cost, and end.")
@click.option("-o", "--output", metavar="DIR", help="Where results go.  [default: as the file says]")
@click.option("--seed", "seeds", multiple=True, type=int, help="These seeds instead of the file's.")
@click.option("--parallel", type=click.IntRange(1), help="Trainings at once.  [default: as the machine allows]")
@click.option("--keep", type=click.Choice(["none", "best", "all"]), help="Which merges to write as models.")
@click.option("--report", "redraw", is_flag=True, help="Draw tables, plots and page again, from results.json.")
@json_flag("Print the outcome as JSON.")
@quiet_flag()
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
    # only what was given lies over the file: an empty tuple is no --seed
    more = {"output": output, "seeds": list(seeds) or None, "parallel": parallel, "keep": keep}
    # not validated again by pydantic: click has checked these values already
    experiment = experiment.model_copy(update={k: v for k, v in more.items() if v is not None})
    if dry_run:
        from chorus.experiment.cost import describe
        from chorus.experiment.inputs import check_inputs

        check_inputs(experiment)
        click.echo("\n".join(describe(experiment)))
        return
    if redraw:
        given = [flag for flag, value in (("--seed", seeds), ("--parallel", parallel), ("--keep", keep)) if value]
        if given:
            raise UsageError(f"--report draws what was found: {given[0]} would change nothing", "leave one of them out")
        from chorus.experiment.publish import publish

        publish(experiment.output_dir)  # from results.json alone: no model, no audio
    else:
        _run(experiment, quiet=quiet)
    _print(experiment.output_dir, json_=json_, quiet=quiet)


def _run(experiment: Experiment, *, quiet: bool) -> None:
    from chorus.experiment.run import experiment as run

    with shown(quiet=quiet, label=experiment.name, unit=STEPS, every_s=LINE_EVERY_S) as display:
        run(experiment, show=display, note=display.note)


def _print(directory: Path, *, json_: bool, quiet: bool) -> None:
    """The table of rates, or the outcome as JSON, and where the report is."""
    from chorus.experiment.places import REPORT
    from chorus.experiment.results import read_results
    from chorus.experiment.tables import first_tables

    results, report = read_results(directory), directory / REPORT
    if json_:
        best = next(one for one in results.selection if one.name == results.best)
        as_json({
            "directory": str(directory), "report": str(report), "best": results.best, "parameters": best.parameters,
            "dev": best.dev,
        })  # fmt: skip
        return
    for table in first_tables(results):
        click.echo(table.render("markdown"))
    click.echo(str(report))
    note(f"next: look at {report} in a browser", quiet=quiet)
