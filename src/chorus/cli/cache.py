"""`chorus cache`."""

from __future__ import annotations

import click

from chorus.cli.flags import json_flag
from chorus.cli.output import as_json
from chorus.sizes import size


@click.group("cache", invoke_without_command=True)
@json_flag("Print it as JSON.")
@click.pass_context
def command(context: click.Context, json_: bool) -> None:
    """Show where the cache of singular spectra, bases and log-mel features is, and how full.

    CHORUS_CACHE names its directory, CHORUS_CACHE_LIMIT its size (20GB; 0 turns it off).
    """
    # click calls the group before its command: `clear` must not print the usage first
    if context.invoked_subcommand is not None:
        return
    from chorus.cache import Cache

    usage = Cache().usage()
    if json_:
        as_json({**vars(usage), "directory": str(usage.directory)})
        return
    click.echo(str(usage.directory))
    limit = size(usage.limit_bytes) if usage.limit_bytes else "turned off"
    click.echo(f"{usage.entries} entries, {size(usage.bytes)} of {limit}")


@command.command("clear", short_help="Take all entries away.")
def clear() -> None:
    """Take all entries away."""
    from chorus.cache import Cache

    click.echo(f"{size(Cache().clear())} freed")
