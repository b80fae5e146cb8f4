"""Flags that several commands have, said once: each is a decorator, or makes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

import click

from chorus.errors import UsageError

F = TypeVar("F", bound=Callable[..., object])


class Flag(Protocol):
    """Adds an option to a command."""

    def __call__(self, command: F, /) -> F: ...


def normaliser_flag(what: str, default: str | None = None) -> Flag:
    """`--normaliser`, in either spelling; given twice it is refused, as click would take the last in silence."""

    def once(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> str | None:
        if len(values) > 1:
            raise UsageError(f"--normaliser is given twice: {', '.join(values)}", "rates are under one: leave one out")
        return values[0] if values else default

    return click.option("--normaliser", "--normalizer", multiple=True, callback=once, metavar="NAME", help=what)


def json_flag(what: str = "Print the result as JSON.") -> Flag:
    """`--json`, as `json_`: one document on stdout in the place of what people read."""
    return click.option("--json", "json_", is_flag=True, help=what)  # json is the module's name


def quiet_flag(what: str = "No progress and no notes.") -> Flag:
    """`-q`, as `quiet`: of notes and progress nothing, of warnings and errors everything."""
    return click.option("-q", "--quiet", is_flag=True, help=what)


def overwrite_flag(what: str = "Replace what is at DIR once the new result is whole.") -> Flag:
    """`--overwrite`."""
    return click.option("--overwrite", is_flag=True, help=what)


def device_flag(default: str, *, by_config: bool = False) -> Flag:
    """`--device`; where a configuration says it too (`by_config`) it is None unless it is given."""
    shown = f"auto, cpu, cuda, cuda:1, mps, xpu.  [default: {default}]"
    return click.option("--device", default=None if by_config else default, metavar="DEVICE", help=shown)


def jobs_flag(*names: str, what: str = "Threads.") -> Flag:
    """`-j`, as `jobs`; further names of it may be given."""
    return click.option("-j", "--jobs", *names, type=click.IntRange(1), help=f"{what}  [default: the cores, up to 8]")


def out_flag(what: str = "The result's directory.") -> Flag:
    """`-o`, as `out`, which must be given."""
    return click.option("-o", "--out", required=True, type=click.Path(), metavar="DIR", help=what)


def pickle_flag(command: F) -> F:
    """`--allow-pickle`."""
    return click.option("--allow-pickle", is_flag=True, help="Read .bin and .pt files (weights only).")(command)


def offline_flag(command: F) -> F:
    """`--offline`."""
    return click.option("--offline", is_flag=True, help="Use only what is on disk or in the hub's cache.")(command)


def push_flags(command: F) -> F:
    """`--push-to-hub` and what goes with it."""
    decorators = [
        click.option("--push-to-hub", metavar="ORG/NAME", help="Upload the result (hf) to this repository of the hub."),
        click.option("--private", is_flag=True, help="Make the repository private, where it is new."),
        click.option("--revision", "--branch", default="", metavar="BRANCH", help="Upload to this branch."),
        click.option("--commit-message", default="", metavar="TEXT", help="The upload's message."),
        click.option(
            "--results", multiple=True, type=click.Path(), metavar="DIR",
            help="Results of `chorus evaluate` for the card; may be given several times.",
        ),
    ]  # fmt: skip
    for decorate in reversed(decorators):
        command = decorate(command)
    return command


def columns_flags(command: F) -> F:
    """`--columns` and `--audio-dir`: how a manifest of others is read."""
    named = click.option(
        "--columns", multiple=True, metavar="OURS=THEIRS", help="What the file calls a column: text=sentence."
    )
    placed = click.option("--audio-dir", type=click.Path(), help="What paths count from.  [default: the file's folder]")
    # applied from below: --columns is listed before --audio-dir
    return named(placed(command))
