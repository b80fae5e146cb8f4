"""What the commands that write adapters share: the flags that choose ranks, and the report."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import click

from chorus.cli.options import IntType
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.linalg.ranks import RankRule
from chorus.tables import Table

if TYPE_CHECKING:
    from chorus.checkpoints.adapter_report import AdapterResult

F = TypeVar("F", bound=Callable[..., object])


class Count(IntType):
    """A number of parameters, as `5000000`, `5M`, `300k`."""

    name = "count"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        text = str(value).strip().lower()
        scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:], 1)  # parameters, not bytes: powers of ten
        try:
            return round(float(text.rstrip("kmb")) * scale)  # 2.5M is a number too
        except ValueError:
            self.fail(f'"{value}" is not a number of parameters; write 5000000, 5M or 300k', param, ctx)


def rank_options(command: F) -> F:
    """Add --max-rank, --energy and --budget."""
    # the last is shown first: click lists the options in the order in which decorators are read
    for option in (
        click.option("--budget", type=Count(), help="Parameters of the whole adapter, ranks shared out."),
        click.option("--energy", type=float, help="Share of each module's squared norm to keep, such as 0.95."),
        click.option("--max-rank", type=int, help="Largest rank of a module."),
    ):
        command = option(command)
    return command


def rank_rule(max_rank: int | None, energy: float | None, budget: int | None) -> RankRule:
    """The rule that the flags ask for; `UsageError` where they make no sense."""
    try:
        return RankRule(max_rank, energy, budget)
    except ValueError as error:
        raise UsageError(str(error), "see --help") from None


def print_adapter(result: AdapterResult, *, json_: bool, quiet: bool, elapsed_s: float) -> None:
    """The directories on stdout (or everything as JSON); what was kept, on stderr."""
    if json_:
        facts = {**vars(result), "directory": str(result.directory), "modules": [vars(m) for m in result.modules]}
        as_json(facts)
        return
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)
    for name in result.variants or [""]:
        click.echo(str(result.directory / name))
    # of rank 0 as well: a module that did not change is told, not hidden
    ranks = sorted({m.rank for m in result.modules})
    span = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}" if ranks else "none"
    note(
        f"{len(result.modules)} modules, rank {span}, {result.parameters:,} parameters, "
        f"{len(result.saved)} saved whole, {elapsed_s:.1f} s",
        quiet=quiet,
    )


def print_energies(result: AdapterResult) -> None:
    """A table of modules with their ranks and energies, worst first."""
    rows = [
        [m.tensor, str(m.rank), f"{100 * m.energy:.2f} %", m.way]
        # of equal energy by name, so that two runs print the same
        for m in sorted(result.modules, key=lambda m: (m.energy, m.tensor))
    ]
    table(Table("Modules", ["tensor", "rank", "energy kept", "way"], rows))
