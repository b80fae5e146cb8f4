"""What commands print: tables, documents, notes. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys

import click

from chorus.files import printable
from chorus.tables import Table, as_text


def table(found: Table) -> None:
    """Print a table to stdout: folded to the width of a terminal, whole lines elsewhere."""
    click.echo(as_text(found, terminal=sys.stdout.isatty()), nl=False)


def note(text: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        click.echo(printable(text), err=True)  # names and texts from files are in it


def as_json(value: object) -> None:
    """A JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))  # names and texts in their own letters
