"""`chorus compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from chorus.cli.flags import normaliser_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.files import printable
from chorus.tables import Format, Table

if TYPE_CHECKING:
    from chorus.evaluate.comparison import Group

GROUPS: dict[str, Group] = {
    "in_domain": "in-domain",
    "out_of_domain": "out-of-domain",
    "other_language": "other-language",
}
SUFFIXES: dict[str, Format | Literal["json"]] = {".md": "markdown", ".csv": "csv", ".tex": "latex", ".json": "json"}


@click.command("compare")
@click.argument("results", nargs=-1, required=True, metavar="RESULT...")
@click.option("--base", metavar="LABEL", help="Which is the base.  [default: the one that says so]")
@click.option("--joint", metavar="LABEL", help="Which is the joint fine-tune.")
@click.option("--specialist", multiple=True, metavar="LABEL=DOMAIN", help="Which is a domain's specialist.")
@click.option("--by", default="domain", type=click.Choice(["domain", "language", "speaker"]), help="[default: domain]")
@click.option("--in-domain", multiple=True, metavar="VALUE", help="Cells that merging is for.")
@click.option("--out-of-domain", multiple=True, metavar="VALUE", help="Cells of the same languages.")
@click.option("--other-language", multiple=True, metavar="VALUE", help="Cells of other languages.")
@click.option("--condition", help="Under which condition.  [default: the first]")
@normaliser_flag("Count again under another normaliser.")
@click.option("--metric", help="By which metric of the task, such as eer.  [default: its first]")
@click.option("--common", is_flag=True, help="Compare the utterances that all have, where they differ.")
@click.option("--averages", is_flag=True, help="Leave out the single domains.")
@click.option(
    "--format", "form", type=click.Choice(["text", "markdown", "csv", "latex", "json"]), default="text",
    help="How the tables are printed.  [default: text]",
)  # fmt: skip
@click.option("-o", "--out", multiple=True, metavar="FILE", help="Write it too: .md, .csv, .tex or .json.")
@click.option("--plots", metavar="DIR", help="Write the plots there, as PNG and SVG.")
@quiet_flag("No notes.")
def command(results: tuple[str, ...], **flags: Any) -> None:
    """One table of evaluations of the same recordings: rates, averages, forgetting, recovery, tests.

    \b
    chorus compare evaluations/*
    chorus compare evaluations/* --base large-v3 --format latex --plots plots
    """
    from chorus.evaluate.compare import compare
    from chorus.evaluate.results import read_evaluation
    from chorus.evaluate.tables import differences_table, plain, rates_table

    # before anything is read: a suffix that is not known must not cost the time of the tests
    for name in flags["out"]:
        if Path(name).suffix not in SUFFIXES:
            raise UsageError(f"--out {name}: the suffix must be one of {', '.join(SUFFIXES)}")
    specialists = dict(_pair(text) for text in flags["specialist"])
    groups: dict[str, Group] = {value: group for key, group in GROUPS.items() for value in flags[key]}
    comparison = compare(
        [read_evaluation(name) for name in results], column=flags["by"], condition=flags["condition"],
        base=flags["base"], joint=flags["joint"], specialists=specialists, groups=groups,
        common=flags["common"], normaliser=flags["normaliser"], metric=flags["metric"],
    )  # fmt: skip
    tables = [rates_table(comparison, domains=not flags["averages"])]
    differences = differences_table(comparison)
    if differences:
        tables.append(differences)
    for name in flags["out"]:
        _write(Path(name), tables, plain(comparison))
    if flags["plots"]:
        from chorus.report.compared import compared_plots

        for path in compared_plots(comparison, Path(flags["plots"])):
            note(str(path), quiet=flags["quiet"])
    if flags["form"] == "json":
        as_json(plain(comparison))
    elif flags["form"] == "text":
        for one in tables:
            table(one)
            click.echo()
    else:
        # a table ends its own last line; one more would be a difference to the file that --out writes
        click.echo(printable("\n".join(one.render(flags["form"]) for one in tables)), nl=False)


def _pair(text: str) -> tuple[str, str]:
    label, equals, domain = text.partition("=")
    if not equals or not label or not domain:
        raise UsageError(f"--specialist {text}: write LABEL=DOMAIN")
    return label, domain


def _write(path: Path, tables: list[Table], values: dict[str, Any]) -> None:
    from chorus.checkpoints.writer import write_text

    form = SUFFIXES[path.suffix]
    if form == "json":
        write_text(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")
    else:
        write_text(path, "\n".join(one.render(form) for one in tables))
