"""`chorus export`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from chorus.cli.flags import offline_flag, overwrite_flag, pickle_flag, quiet_flag
from chorus.cli.options import Size
from chorus.cli.output import note
from chorus.progress import shown
from chorus.sizes import size


@click.command("export")
@click.argument("model")
@click.option("--to", required=True, metavar="FORMAT", help="ggml (whisper.cpp); `chorus export --formats` lists all.")
@click.option("--type", "types", default="", metavar="TYPE,...", help="Number types, such as f16,q5_0.")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="PATH", help="The file or directory to write.")
@click.option("--tokenizer", type=click.Path(), metavar="DIR", help="Where the tokenizer is, for models without one.")
@click.option("--trim-vocab", is_flag=True, help="Leave out rows of the vocabulary that are untouched padding.")
@click.option("--max-shard-size", type=Size(), help="Largest weight file, where there are several.")
@click.option("--adapter", is_flag=True, help="Write the LoRA adapter that MODEL is, not the merged model (gguf).")
@click.option("--modelfile", is_flag=True, help="Write Ollama's Modelfile beside it (gguf).")
@click.option("--pre-tokenizer", default="", metavar="NAME", help="GGUF's name of it, where not the model's usual.")
@overwrite_flag("Replace a file or result that is there.")
@pickle_flag
@offline_flag
@click.option("--cache-dir", metavar="DIR", help="The hub's cache.")
@quiet_flag()
def command(
    model: str,
    to: str,
    types: str,
    out: str,
    tokenizer: str | None,
    trim_vocab: bool,
    max_shard_size: int | None,
    adapter: bool,
    modelfile: bool,
    pre_tokenizer: str,
    overwrite: bool,
    allow_pickle: bool,
    offline: bool,
    cache_dir: str | None,
    quiet: bool,
) -> None:
    """Write MODEL in the form of another runtime.

    MODEL is a directory, a hub id, base+adapter, an adapter, a recipe (merged while it is written), or a .pt file.

    \b
    chorus export merged --to ggml --type f16,q5_0 -o whisper.cpp/models/
    chorus export recipe.yml --to ggml --type q5_0 -o ggml-mine.bin
    """
    from chorus.checkpoints.model import OpenOptions
    from chorus.export.api import export
    from chorus.export.protocol import ExportOptions

    settings = ExportOptions(
        trim_vocabulary=trim_vocab,
        max_shard_bytes=max_shard_size,
        modelfile=modelfile,
        pre_tokenizer=pre_tokenizer,
    )
    options = OpenOptions(allow_pickle=allow_pickle, offline=offline, cache_dir=cache_dir)
    started = time.monotonic()
    with shown(quiet=quiet, label="exporting", unit="values") as bar:
        done = export(
            model, Path(out), f"{to}-adapter" if adapter else to, types=types, tokenizer=tokenizer,
            overwrite=overwrite, settings=settings, options=options, progress=bar,
        )  # fmt: skip
    for warning in done.warnings:
        note(f"warning: {warning}", quiet=quiet)
    for place in done.places.values():
        click.echo(str(place))
    note(f"{size(done.nbytes)} written, {time.monotonic() - started:.1f} s", quiet=quiet)
