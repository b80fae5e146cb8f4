"""What commands print: tables, sizes, progress. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from chorus.lazy import lazy
from chorus.tables import Table, as_text

rich_console = lazy("rich.console")
rich_progress = lazy("rich.progress")

LINE_EVERY_S = 5.0


def size(n_bytes: float) -> str:
    """A number of bytes as people say it, in powers of ten.

    >>> size(4_940_000_000)
    '4.94 GB'
    """
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.3g} {unit}"
    return f"{n_bytes:.0f} bytes"


def table(made: Table) -> None:
    """Print a table to stdout: folded to the width of a terminal, whole lines elsewhere."""
    click.echo(as_text(made, terminal=sys.stdout.isatty()), nl=False)


def note(text: str, *, quiet: bool = False) -> None:
    """A line for people, on stderr."""
    if not quiet:
        click.echo(text, err=True)


def as_json(value: Any) -> None:
    """A JSON document on stdout."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


class Bar:
    """Progress in bytes, or in so many of `unit`: a bar on a terminal, else a line every few seconds."""

    def __init__(self, *, quiet: bool, label: str, unit: str = "") -> None:
        self.label, self.quiet, self.unit = label, quiet, unit
        self.started = self.last = time.monotonic()
        self._rich: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int) -> None:
        if self.quiet:
            return
        if sys.stderr.isatty():
            self._show_bar(done, total)
        elif time.monotonic() - self.last >= LINE_EVERY_S:
            self.last = time.monotonic()
            elapsed = self.last - self.started
            left = elapsed / done * (total - done) if done else 0
            share = 100 * done / max(1, total)
            of, rate = (
                (f"{total} {self.unit}", f"{done / elapsed:.0f}") if self.unit else (size(total), size(done / elapsed))
            )
            click.echo(f"{self.label}: {share:.0f} % of {of}, {rate}/s, {left:.0f} s left", err=True)

    def _show_bar(self, done: int, total: int) -> None:
        if self._rich is None:
            columns = [
                rich_progress.TextColumn("{task.description}"),
                rich_progress.BarColumn(),
                *(
                    [rich_progress.MofNCompleteColumn()]
                    if self.unit
                    else [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
                ),
                rich_progress.TimeRemainingColumn(),
            ]
            self._rich = rich_progress.Progress(*columns, console=rich_console.Console(stderr=True), transient=True)
            self._rich.start()
            self._task = self._rich.add_task(self.label, total=total)
        self._rich.update(self._task, completed=done, total=total)

    def close(self) -> None:
        if self._rich is not None:
            self._rich.stop()


@contextmanager
def progress(*, quiet: bool, label: str, unit: str = "") -> Iterator[Bar]:
    """A progress display that is taken away whatever happens."""
    bar = Bar(quiet=quiet, label=label, unit=unit)
    try:
        yield bar
    finally:
        bar.close()
