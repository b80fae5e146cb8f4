"""`chorus import`."""

from __future__ import annotations

import time

import click

from chorus.cli.flags import out_flag, overwrite_flag, pickle_flag, quiet_flag
from chorus.cli.options import Size
from chorus.cli.output import note
from chorus.progress import shown
from chorus.sizes import size


@click.command("import")
@click.argument("path", type=click.Path())
@out_flag()
@click.option("--type", "types", default="", metavar="TYPE,...", help="own (default), float32, float16, bfloat16.")
@click.option("--tokenizer", type=click.Path(), metavar="PATH", help="A tokenizer's directory or file, or a .tiktoken.")
@click.option("--max-shard-size", type=Size(), help="Largest weight file.  [default: 5GB]")
@overwrite_flag()
@pickle_flag
@quiet_flag()
def command(
    path: str,
    out: str,
    types: str,
    tokenizer: str | None,
    max_shard_size: int | None,
    overwrite: bool,
    allow_pickle: bool,
    quiet: bool,
) -> None:
    """Make a Hugging Face directory of a model in another runtime's form.

    PATH is a ggml file of whisper.cpp (of any type), a directory of CTranslate2, or openai-whisper's .pt. What such
    files lack is made: the tokenizer, the features' settings, the generation settings.

    \b
    chorus import ggml-base-q5_0.bin -o base
    chorus import tuned.pt --allow-pickle --tokenizer openai/whisper-small -o tuned
    """
    from chorus.checkpoints.model import OpenOptions
    from chorus.export.imported import import_model

    started = time.monotonic()
    with shown(quiet=quiet, label="importing", unit="values") as bar:
        done = import_model(
            path, out, types=types, tokenizer=tokenizer, overwrite=overwrite, max_shard_bytes=max_shard_size,
            options=OpenOptions(allow_pickle=allow_pickle), progress=bar,
        )  # fmt: skip
    for warning in done.warnings:
        note(f"warning: {warning}", quiet=quiet)
    for place in done.places.values():
        click.echo(str(place))
    note(f"{size(done.nbytes)} written, {time.monotonic() - started:.1f} s", quiet=quiet)
