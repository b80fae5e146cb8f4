"""`chorus merge`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.cli.adapters import print_adapter, rank_options, rank_rule
from chorus.cli.options import idle_note, merge_options, options_of
from chorus.cli.output import as_json, note, progress, size
from chorus.errors import UsageError

if TYPE_CHECKING:
    from chorus.merge.engine import Result


@click.command("merge", short_help="Merge models by a recipe into a model directory.")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.argument("out", required=False, type=click.Path())
@click.option("-o", "--out", "--out_dir", "--out-dir", "out_flag", metavar="DIR", help="The result's directory.")
@click.option("--resume", is_flag=True, help="Go on with a merge that was killed.")
@click.option("--overwrite", is_flag=True, help="Replace what is at DIR once the new result is whole.")
@click.option("--copy-tokenizer/--no-copy-tokenizer", default=True, help="Copy tokenizer and processor files.")
@click.option("--write-model-card/--no-write-model-card", default=True, help="Write README.md.")
@click.option("--sha256", is_flag=True, help="Note the inputs' SHA-256 as well (costs more than a merge).")
@click.option("--as", "form", type=click.Choice(["model", "adapter"]), default="model", help="What to write.")
@rank_options
@click.option("--json", "json_", is_flag=True, help="Print the result as JSON.")
@click.option("-q", "--quiet/--no-quiet", help="No progress and no notes.")
@merge_options
def command(
    recipe: str,
    out: str | None,
    out_flag: str | None,
    resume: bool,
    overwrite: bool,
    copy_tokenizer: bool,
    write_model_card: bool,
    sha256: bool,
    form: str,
    max_rank: int | None,
    energy: float | None,
    budget: int | None,
    json_: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Merge the models of RECIPE (mergekit's YAML works as it is) into the directory DIR.

    The directory appears when it is whole. Until then the work lies in DIR.partial, from where --resume goes on.

    \b
    chorus merge recipe.yml -o merged
    """
    from chorus.merge.api import merge, merge_into_adapter
    from chorus.merge.planner import plan

    if out and out_flag:
        raise UsageError("the output directory is given twice", "chorus merge RECIPE -o DIR")
    target = out or out_flag
    if not target:
        raise UsageError("no output directory", f"chorus merge {recipe} -o DIR")
    ranks = rank_rule(max_rank, energy, budget)
    if ranks.given and form == "model":
        raise UsageError("a rank, an energy or a budget is for adapters", "add --as adapter")
    if resume and form == "adapter":
        raise UsageError("--resume is for models; an adapter is merged again from the start", "drop --resume")
    note_text = idle_note(flags)
    if note_text:
        note(note_text, quiet=quiet)
    options = options_of(
        flags,
        resume=resume,
        overwrite=overwrite,
        copy_tokenizer=copy_tokenizer,
        model_card=write_model_card,
        sha256=sha256,
    )
    started = time.monotonic()
    planned = plan(recipe, options)
    load_kernels()
    for warning in [*planned.warnings, *(f"generation: {d}" for d in planned.generation_differences)]:
        note(f"warning: {warning}", quiet=quiet)
    if form == "adapter":
        with progress(quiet=quiet, label="merging") as bar:
            made = merge_into_adapter(planned, Path(target), ranks=ranks, progress=bar)
        print_adapter(made, json_=json_, quiet=quiet, elapsed_s=time.monotonic() - started)
        return
    with progress(quiet=quiet, label="merging") as bar:
        result = merge(planned, Path(target), progress=bar)
    elapsed = time.monotonic() - started
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)
    if json_:
        facts = asdict(result)
        as_json({**facts, "directory": str(result.directory), "warnings": [*planned.warnings, *result.warnings]})
    elif not quiet:
        _print(result, elapsed)


def _print(result: Result, elapsed_s: float) -> None:
    """The directories on stdout, what was done on stderr."""
    for name in result.variants or [""]:
        click.echo(str(result.directory / name))
    resumed = f" ({result.resumed} from before)" if result.resumed else ""
    note(f"{result.tensors} tensors{resumed}, {size(result.bytes_written)} written, {elapsed_s:.1f} s")


def load_kernels() -> None:
    """Import the compiled kernels, and numba with them, without all of scipy.linalg.

    numba imports that (0.3 s of CPU) only to see whether its BLAS is there for code that multiplies matrices, of
    which there is none in this process.
    """
    hidden = "scipy" not in sys.modules and "numba" not in sys.modules
    if hidden:
        sys.modules["scipy"] = None  # type: ignore[assignment]  # an import of it fails, and numba does without
    try:
        import chorus.linalg.kernels  # noqa: F401
    finally:
        if hidden:
            del sys.modules["scipy"]
