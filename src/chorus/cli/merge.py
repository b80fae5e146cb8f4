"""`chorus merge`."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.cli.adapters import print_adapter, rank_options, rank_rule
from chorus.cli.export import export_result, wished
from chorus.cli.flags import json_flag, overwrite_flag
from chorus.cli.options import idle_note, merge_options, options_of
from chorus.cli.output import as_json, note
from chorus.errors import UsageError
from chorus.progress import shown
from chorus.sizes import size

if TYPE_CHECKING:
    from chorus.linalg.ranks import RankRule
    from chorus.merge.plan import Plan
    from chorus.merge.runs.engine import Result


@click.command("merge")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.argument("out", required=False, type=click.Path())  # mergekit-yaml's place for it
@click.option("-o", "--out", "--out_dir", "--out-dir", "out_flag", metavar="DIR", help="The result's directory.")
@click.option("--resume", is_flag=True, help="Go on with a merge that was killed.")
@overwrite_flag()
@click.option(
    "--copy-tokenizer/--no-copy-tokenizer",
    default=True,
    help="Carry tokenizer, processor and what else lies beside the weights.",
)
@click.option("--write-model-card/--no-write-model-card", "model_card", default=True, help="Write README.md.")
@click.option("--sha256", is_flag=True, help="Note the inputs' SHA-256 as well (costs more than a merge).")
@click.option("--as", "form", type=click.Choice(["model", "adapter"]), default="model", help="What to write.")
@click.option(
    "--export", "exports", multiple=True, metavar="FORMAT[:TYPE,...]", help="Export the result too: ggml:f16,q5_0."
)
@rank_options
@json_flag()
# mergekit-yaml writes its flags in pairs, and scripts give the negative ones
@click.option("-q", "--quiet/--no-quiet", help="No progress and no notes.")
@merge_options
def command(
    recipe: str,
    out: str | None,
    out_flag: str | None,
    resume: bool,
    overwrite: bool,
    form: str,
    exports: tuple[str, ...],
    json_: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Merge the models of RECIPE (mergekit's YAML works as it is) into the directory DIR.

    The directory appears when it is whole. Until then the work lies in DIR.partial, from where --resume goes on.
    With --as adapter it holds a PEFT adapter on the recipe's base instead of a whole model.

    \b
    chorus merge recipe.yml -o merged
    chorus merge recipe.yml -o adapter --as adapter --max-rank 32
    chorus merge recipe.yml -o merged --export ggml:q5_0
    """
    from chorus.checkpoints.beside import told
    from chorus.merge.api import merge
    from chorus.merge.planning.planner import plan

    target = _target(recipe, out, out_flag)
    # before planning, which opens every model: flags that contradict each other are told at once
    ranks = _ranks(form, resume, flags)
    if exports and form == "adapter":
        raise UsageError("--export is for models", "chorus export ADAPTER --to FORMAT, once it is written")
    note_text = idle_note(flags)
    if note_text:
        note(note_text, quiet=quiet)
    more = {name: flags.pop(name) for name in ("copy_tokenizer", "model_card", "sha256")}
    options = options_of(flags, resume=resume, overwrite=overwrite, **more)
    started = time.monotonic()
    planned = plan(recipe, options)
    wishes = wished(exports, planned)
    # after the plan: a recipe that is refused need not wait for numba
    load_kernels()
    for warning in [*planned.warnings, *(f"generation: {d}" for d in planned.generation_differences)]:
        note(f"warning: {warning}", quiet=quiet)
    left = told(planned.beside.left)
    if left:
        note(left, quiet=quiet)
    if ranks is not None:
        _adapter(planned, target, ranks, json_, quiet)
        return
    with shown(quiet=quiet, label="merging") as bar:
        result = merge(planned, target, progress=bar)
    elapsed = time.monotonic() - started
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=quiet)
    places = export_result(result.directory, result.variants, wishes, overwrite=overwrite, quiet=quiet)
    if json_:
        facts = asdict(result) | ({"exports": list(map(str, places))} if wishes else {})
        # with the warnings of the plan, which otherwise went to stderr before
        as_json({**facts, "directory": str(result.directory), "warnings": [*planned.warnings, *result.warnings]})
    elif not quiet:
        _print(result, elapsed)
        for place in places:
            click.echo(str(place))


def _target(recipe: str, out: str | None, out_flag: str | None) -> Path:
    # mergekit-yaml takes it as its second argument, the Whisper merging guide as --out_dir
    if out and out_flag:
        raise UsageError("the output directory is given twice", "chorus merge RECIPE -o DIR")
    target = out or out_flag
    if not target:
        raise UsageError("no output directory", f"chorus merge {recipe} -o DIR")
    return Path(target)


def _ranks(form: str, resume: bool, flags: dict[str, Any]) -> RankRule | None:
    """The rule for an adapter's ranks; None where a model is written."""
    ranks = rank_rule(*(flags.pop(name) for name in ("max_rank", "energy", "budget")))
    # its factors are thrown away with an unfinished directory
    if form == "adapter" and resume:
        raise UsageError("--resume is for models; an adapter is merged again from the start", "drop --resume")
    if form == "model" and ranks.given:
        raise UsageError("a rank, an energy or a budget is for adapters", "add --as adapter")
    return ranks if form == "adapter" else None


def _adapter(planned: Plan, target: Path, ranks: RankRule, json_: bool, quiet: bool) -> None:
    from chorus.merge.api import merge_into_adapter

    started = time.monotonic()
    with shown(quiet=quiet, label="merging") as bar:
        result = merge_into_adapter(planned, target, ranks=ranks, progress=bar)
    print_adapter(result, json_=json_, quiet=quiet, elapsed_s=time.monotonic() - started)


def _print(result: Result, elapsed_s: float) -> None:
    """The directories on stdout, what was done on stderr."""
    for name in result.variants or [""]:  # "" is the directory itself
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
        import chorus.linalg.kernels  # noqa: F401 - brings numba in
    finally:
        if hidden:
            del sys.modules["scipy"]
