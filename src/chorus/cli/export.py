"""`chorus export`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from chorus.cli.flags import offline_flag, overwrite_flag, pickle_flag, push_flags, quiet_flag
from chorus.cli.options import Size
from chorus.cli.output import note
from chorus.errors import UsageError
from chorus.export.hf.upload import Upload
from chorus.progress import shown
from chorus.sizes import size

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from chorus.checkpoints.open import Source
    from chorus.merge.plan import Plan


def _show_formats(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    """Every format, its models, its types (that which is meant where none is named first), and nothing else."""
    if not value or context.resilient_parsing:
        return
    from chorus.export.registry import EXPORTERS
    from chorus.tables import Table

    rows = []
    for name in EXPORTERS.names():
        one = EXPORTERS.get(name)
        rows.append((name, one.covers, " ".join(dict.fromkeys([one.default, *one.types]))))
    click.echo(Table("", ("format", "what", "types"), rows).render("text"), nl=False)
    context.exit()


@click.command("export")
@click.argument("model")
@click.option("--to", required=True, metavar="FORMAT", help="ggml (whisper.cpp) or another of --formats.")
@click.option(
    "--formats", is_flag=True, is_eager=True, expose_value=False, callback=_show_formats, help="List them, and exit."
)
@click.option("--type", "types", default="", metavar="TYPE,...", help="Number types, such as f16,q5_0.")
@click.option("-o", "--out", required=True, type=click.Path(), metavar="PATH", help="The file or directory to write.")
@click.option("--tokenizer", type=click.Path(), metavar="DIR", help="Where the tokenizer is, for models without one.")
@click.option("--into", metavar="WHOLE", help="Write WHOLE with MODEL as its part: Qwen2.5-Omni with a thinker.")
@click.option("--trim-vocab", is_flag=True, help="Leave out rows of the vocabulary that are untouched padding.")
@click.option("--max-shard-size", type=Size(), help="Largest weight file, where there are several.")
@click.option("--adapter", is_flag=True, help="Write the LoRA adapter that MODEL is, not the merged model (gguf).")
@click.option("--modelfile", is_flag=True, help="Write Ollama's Modelfile beside it (gguf).")
@click.option("--pre-tokenizer", default="", metavar="NAME", help="GGUF's name of it, where not the model's usual.")
@push_flags
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
    into: str | None,
    trim_vocab: bool,
    max_shard_size: int | None,
    adapter: bool,
    modelfile: bool,
    pre_tokenizer: str,
    push_to_hub: str | None,
    private: bool,
    revision: str,
    commit_message: str,
    results: tuple[str, ...],
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
    chorus export merged --to hf --type float16 -o small --push-to-hub org/small
    chorus export thinker --to hf --into Qwen/Qwen2.5-Omni-3B -o omni
    """
    from chorus.checkpoints.model import OpenOptions
    from chorus.export.api import export, source_of
    from chorus.export.hf.upload import check_upload, upload
    from chorus.export.protocol import ExportOptions

    options = OpenOptions(allow_pickle=allow_pickle, offline=offline, cache_dir=cache_dir)
    destination = Upload(push_to_hub or "", private, revision, commit_message)
    _refuse(to, types, destination, results, adapter=adapter)
    if push_to_hub:
        check_upload(destination, offline=offline)
    source = source_of(model, options, tokenizer) if results else model
    settings = ExportOptions(
        trim_vocabulary=trim_vocab,
        max_shard_bytes=max_shard_size,
        modelfile=modelfile,
        pre_tokenizer=pre_tokenizer,
        measured=tuple(entry for one in results for entry in _measured(one, source)),
    )
    started = time.monotonic()
    with shown(quiet=quiet, label="exporting", unit="values") as bar:
        done = export(
            source, out, f"{to}-adapter" if adapter else to, types=types, tokenizer=tokenizer, into=into,
            overwrite=overwrite, settings=settings, options=options, progress=bar,
        )  # fmt: skip
    for warning in done.warnings:
        note(f"warning: {warning}", quiet=quiet)
    for place in done.places.values():
        click.echo(str(place))
    note(f"{size(done.nbytes)} written, {time.monotonic() - started:.1f} s", quiet=quiet)
    if push_to_hub:
        click.echo(upload(out, destination))


def _refuse(to: str, types: str, destination: Upload, results: tuple[str, ...], *, adapter: bool) -> None:
    """`UsageError` where flags are given that go with another format, or with an upload."""
    if adapter and to != "gguf":
        raise UsageError(f"--adapter: {to} has no adapters by themselves, gguf has", "leave it out: they are merged")
    if to != "hf" and (destination.repository or results):
        raise UsageError("--push-to-hub and --results are for --to hf", "the hub's readers know model directories")
    if not destination.repository and destination != Upload(""):
        raise UsageError("--private, --revision and --commit-message go with --push-to-hub", "name it: org/name")
    if destination.repository and len(types.split(",")) > 1:
        raise UsageError("--push-to-hub: several types for one repository", "push one at a time, each with its --type")


def _measured(directory: str, source: Source) -> list[EvalResult]:
    from chorus.checkpoints.open import open_model
    from chorus.evaluate.published import results_of

    return results_of(directory, open_model(source))


def wished(exports: Sequence[str], planned: Plan) -> list[tuple[str, list[str]]]:
    """(format, types) of each `--export FORMAT[:TYPE,...]`; what stands in its way is told before the merge begins."""
    if not exports:
        return []
    from chorus.export.api import chosen_types, refuse
    from chorus.export.protocol import ExportOptions
    from chorus.export.registry import EXPORTERS

    found = []
    for text in exports:
        to, _, types = text.partition(":")
        exporter = EXPORTERS.get(to)
        kinds = chosen_types(exporter, to, types)
        # the plan is a model already: what cannot be exported need not be merged first
        for variant in planned.variants:
            model = planned.model(variant.name)
            refuse(to, model, exporter.check(model, kinds, ExportOptions()))
        found.append((to, kinds))
    return found


def export_result(
    directory: Path,
    variants: Sequence[str],
    wishes: Sequence[tuple[str, list[str]]],
    *,
    overwrite: bool,
    quiet: bool,
) -> list[Path]:
    """Export what a merge has written, each form into the result's own directory; their places."""
    places: list[Path] = []
    for to, kinds in wishes:
        from chorus.export.api import export
        from chorus.export.registry import EXPORTERS

        for name in variants or [""]:
            model = directory / name
            whole = not EXPORTERS.get(to).suffix
            with shown(quiet=quiet, label=f"exporting to {to}", unit="values") as bar:
                done = export(model, model / to if whole else model, to, types=kinds, overwrite=overwrite, progress=bar)
            for warning in done.warnings:
                note(f"warning: {warning}", quiet=quiet)
            places += done.places.values()
    return places
