"""How far long work is: the one way to tell it, and how it is shown on a terminal and elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from chorus.lazy import lazy
from chorus.sizes import size

if TYPE_CHECKING:
    import rich.console as rich_console
    import rich.progress as rich_progress
else:
    rich_console, rich_progress = lazy("rich.console"), lazy("rich.progress")

Progress = Callable[[int, int], None]  # (done, total): what long work of this package calls
Told = Callable[[int, int, str], None]  # and what is being done, in words
LINE_EVERY_S = 5.0
STEPS = "steps"  # a unit whose lines count instead of giving a rate


class Display:
    """Shows progress on stderr: a bar on a terminal, else a line every few seconds; nothing where `quiet`.

    It counts bytes, or so many of `unit`. It is a `Progress` and a `Told`.
    """

    def __init__(self, *, quiet: bool, label: str, unit: str = "", every_s: float | None = None) -> None:
        self.quiet, self.label, self.unit = quiet, label, unit
        self.every_s = LINE_EVERY_S if every_s is None else every_s
        self.started = self.last = time.monotonic()
        self._bar: rich_progress.Progress | None = None
        self._shown: rich_progress.TaskID | None = None

    def __call__(self, done: int, total: int, told: str = "") -> None:
        if self.quiet:  # before anything of rich is imported
            return
        if sys.stderr.isatty():
            self._show(done, total, told)
        elif time.monotonic() - self.last >= self.every_s:  # monotonic: clocks are set back
            self.line(done, total, told)

    def line(self, done: int, total: int, told: str = "") -> None:
        """A line at once, also where the last one was a moment ago; on a terminal the bar alone."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            self._show(done, total, told)
            return
        self.last = time.monotonic()
        parts = [self._amount(done, total), told or self._rate(done, total)]
        self.note(f"{self.label}: {', '.join(filter(None, parts))}")

    def note(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        if self.quiet:
            return
        if self._bar is not None:
            # names of models and cells hold square brackets, which rich takes for its markup
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _amount(self, done: int, total: int) -> str:
        if self.unit == STEPS:
            return f"step {done} of {total}"
        share = 100 * done / max(1, total)
        return f"{share:.0f} % of {f'{total} {self.unit}' if self.unit else size(total)}"

    def _rate(self, done: int, total: int) -> str:
        """What was done a second so far, and the time that is left at this rate."""
        elapsed = time.monotonic() - self.started
        if not done or elapsed <= 0:
            return ""
        rate = f"{done / elapsed:.0f}" if self.unit else size(done / elapsed)
        return f"{rate}/s, {elapsed / done * (total - done):.0f} s left"

    def _show(self, done: int, total: int, told: str) -> None:
        if self._bar is None:
            self._bar = rich_progress.Progress(
                *self._columns(), console=rich_console.Console(stderr=True), transient=True
            )
            self._bar.start()
            self._shown = self._bar.add_task(self.label, total=total, told=told)
        assert self._shown is not None
        self._bar.update(self._shown, completed=done, total=total, told=told)

    def _columns(self) -> list[rich_progress.ProgressColumn]:
        columns: list[rich_progress.ProgressColumn] = [
            rich_progress.TextColumn("{task.description}", markup=False), rich_progress.BarColumn()
        ]  # fmt: skip
        if self.unit:
            columns.append(rich_progress.MofNCompleteColumn())
        else:
            columns += [rich_progress.DownloadColumn(), rich_progress.TransferSpeedColumn()]
        columns.append(rich_progress.TextColumn("{task.fields[told]}", markup=False))
        return columns if self.unit == STEPS else [*columns, rich_progress.TimeRemainingColumn()]


@contextmanager
def shown(*, quiet: bool, label: str, unit: str = "", every_s: float | None = None) -> Iterator[Display]:
    """A display that is taken away whatever happens."""
    display = Display(quiet=quiet, label=label, unit=unit, every_s=every_s)
    try:
        yield display
    finally:
        display.close()
