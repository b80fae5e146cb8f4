"""`chorus verify`."""

from __future__ import annotations

import shlex
from typing import Any

import click

from chorus.cli.flags import json_flag, offline_flag, pickle_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError


@click.command("verify")
@click.argument("export")
@click.argument("audio", nargs=-1)
@click.option("--against", metavar="MODEL", help="The model that it was made of.")
@click.option("--ready", metavar="FORMAT", help="Before an export: would this model convert, and what is missing?")
@click.option("--type", "types", default="", metavar="TYPE,...", help="With --ready: the number types that are meant.")
@click.option("--data", multiple=True, metavar="MANIFEST", help="Recordings with their texts; may be repeated.")
@click.option("--split", help="Which split; all for every row.  [default: test where there is one]")
@click.option("--limit", type=click.IntRange(1), help="So many rows of each manifest, evenly taken.")
@click.option("--language", default="", metavar="CODE", help="Of recordings that do not say it.  [default: detected]")
@click.option("--runtime", multiple=True, metavar="NAME", help="whisper.cpp, ...; may be repeated.  [default: all]")
@click.option("--level", type=click.IntRange(0, 5), default=5, help="The last that is looked at.  [default: 5]")
@click.option("--no-timestamps", is_flag=True, help="It is used without timestamps alone.")
@click.option(
    "--max-wer-increase", type=float, default=0.5, metavar="POINTS",
    help="What a quantised export may have more than its source.  [default: 0.5]",
)  # fmt: skip
@click.option("--strict", is_flag=True, help="Exit 1 for what is skipped or flagged, too.")
@click.option("--format", "form", default="", metavar="FORMAT", help="What a damaged file should be.")
@click.option("--tokenizer", type=click.Path(), metavar="DIR", help="Where the tokenizer is, for models without one.")
@pickle_flag
@offline_flag
@json_flag()
@quiet_flag("No notes.")
@click.pass_context
def command(context: click.Context, /, export: str, audio: tuple[str, ...], **flags: Any) -> None:
    """Hold EXPORT against the model that it was made of: structure, tensors, front end, logits, transcripts, cost.

    Exit code 1 where something does not hold, 3 where a runtime that was asked for is not installed.

    \b
    chorus verify ggml-mine-q5_0.bin --against merged --data test.csv
    chorus verify merged --ready ggml --type q5_0
    """
    # two questions of one command: with neither there is nothing to answer, with both not one exit code
    if bool(flags["against"]) == bool(flags["ready"]):
        raise UsageError("either --against MODEL or --ready FORMAT", "chorus verify EXPORT --against MODEL")
    context.exit(_ready(export, audio, flags) if flags["ready"] else _verify(export, audio, flags))


def _ready(model: str, audio: tuple[str, ...], flags: dict[str, Any]) -> int:
    from chorus.checkpoints.model import OpenOptions
    from chorus.verify.ready import ready

    given = [name for name in ("data", "runtime", "strict", "form", "split", "limit", "language") if flags[name]]
    if audio or given:
        raise UsageError(f"{audio[0] if audio else '--' + given[0]} has no meaning with --ready", "leave it out")
    options = OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"])
    found = ready(model, flags["ready"], types=flags["types"], tokenizer=flags["tokenizer"], options=options)
    if flags["json_"]:
        as_json(found.as_dict())
    else:
        table(found.table())
    if found.ok:
        kind = f" --type {flags['types']}" if flags["types"] else ""
        note(f"next: chorus export {shlex.quote(model)} --to {flags['ready']}{kind} -o ...", quiet=flags["quiet"])
    return 0 if found.ok else 1


def _verify(export: str, audio: tuple[str, ...], flags: dict[str, Any]) -> int:
    from chorus.checkpoints.model import OpenOptions
    from chorus.verify.api import verify
    from chorus.verify.options import VerifyOptions

    if flags["types"]:
        raise UsageError("--type goes with --ready: an export says its own", "leave it out")
    settings = VerifyOptions(
        level=flags["level"], runtimes=flags["runtime"], timestamps=not flags["no_timestamps"],
        max_wer_increase=flags["max_wer_increase"], language=flags["language"], split=flags["split"],
        limit=flags["limit"],
    )  # fmt: skip
    found = verify(
        export, flags["against"], audio, data=flags["data"], form=flags["form"], tokenizer=flags["tokenizer"],
        settings=settings, options=OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"]),
    )  # fmt: skip
    if flags["json_"]:
        as_json({**found.as_dict(), "exit_code": found.exit_code(strict=flags["strict"])})
    else:
        table(found.table())
    # told apart from the table, whose rows read as results
    for one in found.missing:
        note(f"{one} was asked for and is not installed", quiet=flags["quiet"])
    return found.exit_code(strict=flags["strict"])
