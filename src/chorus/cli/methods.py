"""`chorus methods`."""

from __future__ import annotations

import click

from chorus.cli.flags import json_flag
from chorus.cli.output import as_json
from chorus.errors import UsageError


def complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Names of methods for the shell."""
    # imported at the key press: the shell asks this process anew each time
    from chorus.merge.method import METHODS

    return [name for name in METHODS.names() if name.startswith(incomplete)]


@click.command("methods")
@click.argument("name", required=False, shell_complete=complete)
@json_flag("As JSON, with every parameter.")
@click.option("--markdown", is_flag=True, help="As a page of documentation.")
def command(name: str | None, json_: bool, markdown: bool) -> None:
    """List the merge methods, or explain NAME: what it does, parameters, when to use it, the paper, a recipe.

    \b
    chorus methods ties
    """
    from chorus.merge.catalogue import facts, page, pages, text
    from chorus.merge.method import METHODS

    if json_ and markdown:
        raise UsageError("--json and --markdown exclude each other", "drop one of them")
    if name is not None:
        method = METHODS.get(name)
        if json_:
            as_json(facts(method))
        else:
            click.echo(page(method) if markdown else text(method))
    elif json_:
        as_json([facts(m) for m in METHODS])
    elif markdown:
        click.echo(pages(METHODS))
    else:
        rows: list[tuple[str, str]] = [(m.name, m.summary) for m in METHODS]  # by name, others' among ours
        width = max(len(n) for n, _ in rows)
        for method_name, summary in rows:
            click.echo(f"{method_name:<{width}}  {summary}")
        # on stderr: the list itself can be cut and counted
        click.echo("\nchorus methods NAME explains one", err=True)
