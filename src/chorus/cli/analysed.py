"""What the commands of `chorus analyse` share: their flags, how models are named, how an analysis is told."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chorus.cli.evaluate import labelled
from chorus.cli.flags import (
    Flag,
    device_flag,
    json_flag,
    normaliser_flag,
    offline_flag,
    overwrite_flag,
    pickle_flag,
    quiet_flag,
)
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError

if TYPE_CHECKING:
    from chorus.analyse.evaluated import EvaluatedRows
    from chorus.analyse.live import AnalysedRows
    from chorus.analyse.write import Analysis
    from chorus.checkpoints.model import OpenOptions
    from chorus.checkpoints.open import Source


Flags = Mapping[str, Any]  # as click gives them
F = TypeVar("F", bound=Callable[..., object])
T = TypeVar("T")


def heard(function: F) -> F:
    """The flags of what loads models and gives them recordings; they arrive as `flags`."""
    decorators: tuple[Flag, ...] = (
        click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL..."),
        click.option("--base", required=True, metavar="MODEL", help="What all were trained from."),
        click.option("--data", multiple=True, required=True, metavar="[NAME=]MANIFEST", help="Recordings with texts."),
        click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there."),
        click.option("--split", help="Which split; all for every row.  [default: test where there is one]"),
        click.option("--limit", type=click.IntRange(1), help="So many rows of each manifest, evenly taken."),
        click.option("--language", default="", help="Of rows that name none."),
        by_flag(),
        task_flag(),
        click.option(
            "--window", "window_s", type=click.IntRange(1, 30), default=30, help="Whisper's seconds.  [default: 30]"
        ),
        click.option("--batch-size", type=click.IntRange(1), default=8, help="Utterances at once.  [default: 8]"),
        device_flag("auto", by_config=True),
        overwrite_flag(),
        pickle_flag,
        offline_flag,
        json_flag("Print everything as JSON."),
        quiet_flag(),
    )
    return _with(function, decorators)


def evaluated(function: F) -> F:
    """The flags of what evaluates models on recordings; they arrive as `flags`, and `rows_of` reads them."""
    decorators: tuple[Flag, ...] = (
        click.option("--data", multiple=True, required=True, metavar="[NAME=]MANIFEST", help="Recordings with texts."),
        click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there."),
        click.option(
            "--evaluations", type=click.Path(), metavar="DIR",
            help="Keep evaluations there: the same command goes on from them.",
        ),
        by_flag(),
        task_flag(),
        click.option("--split", help="Which split; all for every row.  [default: test where there is one]"),
        click.option("--limit", type=click.IntRange(1), help="So many rows of each manifest, evenly taken."),
        click.option("--language", default="", help="Of rows that name none."),
        click.option("--beam", type=click.IntRange(1), help="Beams.  [default: 1]"),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Of one hypothesis.  [default: as many as fit]"),
        click.option(
            "--window", "window_s", type=click.IntRange(1, 30), multiple=True,
            help="Whisper: seconds that it is given of shorter utterances; may be repeated.  [default: 30]",
        ),
        click.option("--batch-size", type=click.IntRange(1), help="Utterances at once.  [default: 16]"),
        normaliser_flag("raw, basic, english, marks, arabic[:OPTIONS].  [default: marks]", default="marks"),
        device_flag("auto"),
        overwrite_flag(),
        pickle_flag,
        offline_flag,
        json_flag("Print everything as JSON."),
        quiet_flag(),
    )  # fmt: skip
    return _with(function, decorators)


def by_flag() -> Flag:
    """The column that makes the rows of the tables."""
    names = click.Choice(["domain", "language", "speaker"])
    return click.option("--by", default="domain", type=names, help="What a row of the tables is.  [default: domain]")


def task_flag() -> Flag:
    """The one task that is asked about."""
    return click.option("--task", help="Rows of this task alone.  [default: of all that rows name, else asr]")


def _with(function: F, decorators: Sequence[Flag]) -> F:
    """The flags in the order in which --help tells them."""
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


def rows_of(flags: Flags) -> EvaluatedRows:
    """What `evaluated` says of recordings."""
    from chorus.analyse.evaluated import EvaluatedRows

    names = ("beam", "max_new_tokens", "window_s", "batch_size")
    # an option that may be repeated and is not given is an empty tuple
    settings = {name: flags[name] for name in names if flags[name]}
    asked = ("data", "task", "by", "split", "limit", "language", "normaliser", "device")
    return EvaluatedRows(decoding=settings, kept=flags["evaluations"], **{name: flags[name] for name in asked})


def homes(texts: Sequence[str]) -> dict[str, list[str]]:
    """Every `--specialist LABEL=ROW`, by label."""
    found: dict[str, list[str]] = {}
    for label, row in map(home, texts):
        found.setdefault(label, []).append(row)
    return found


def numbers(text: str, flag: str, kind: Callable[[str], T]) -> list[T]:
    """`1,4,16`; `UsageError` names the flag."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UsageError(f"{flag} {text}: write numbers with commas between", f"{flag} 1,4") from None


def open_options(flags: Flags) -> OpenOptions:
    """How models are opened."""
    from chorus.checkpoints.model import OpenOptions

    return OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"])


def recordings(flags: Flags) -> AnalysedRows:
    """What `heard` says of them."""
    from chorus.analyse.live import AnalysedRows

    names = ("split", "limit", "language", "by", "task", "window_s", "batch_size")
    return AnalysedRows(flags["data"], device=flags["device"] or "auto", **{name: flags[name] for name in names})


def home(text: str) -> tuple[str, str]:
    """`--specialist LABEL=ROW` in two."""
    label, equals, row = text.partition("=")
    if not equals or not label or not row:
        raise UsageError(f"--specialist {text}: write LABEL=ROW")
    return label, row


def named(texts: Sequence[str]) -> dict[str, Source] | list[Source]:
    """`[NAME=]MODEL` of each; a plain list where nobody has a name."""
    pairs = [labelled(text) for text in texts]
    if not any(label for label, _ in pairs):
        return [model for _, model in pairs]
    if twice := {label for label, _ in pairs if [one for one, _ in pairs].count(label) > 1} - {""}:
        raise UsageError(f'two models are called "{sorted(twice)[0]}"', "give each a name of its own")
    from chorus.analyse.deltas import name_of
    from chorus.checkpoints.open import reference_to

    return {label or name_of(reference_to(model)): model for label, model in pairs}


def tell(find: Callable[[], Analysis], inputs: Sequence[Path], flags: Flags) -> None:
    """Analyse, write it where it is to be, and print it."""
    from chorus.analyse.page import REPORT, place_for, publish
    from chorus.analyse.write import report_of

    # as it was typed: what a reader of the page can run again
    line = [shlex.join(["chorus", *sys.argv[1:]])]
    if flags["out"]:
        with place_for(flags["out"], inputs, overwrite=flags["overwrite"]) as place:
            report = report_of(find(), command=line)
            publish(report, place)
    else:
        report = report_of(find(), command=line)
    if flags["json_"]:
        as_json(report.document)
    else:
        for number, one in enumerate(report.tables):
            if number:
                click.echo()
            table(one)
    if flags["out"]:
        note(f"page: {Path(flags['out']) / REPORT}", quiet=flags["quiet"])
