"""`chorus apply`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from chorus.cli.flags import out_flag, overwrite_flag, quiet_flag
from chorus.cli.options import idle_note, merge_options, options_of
from chorus.cli.output import note
from chorus.progress import shown
from chorus.sizes import size


@click.command("apply")
@click.argument("model")
@click.argument("deltas", nargs=-1, required=True)
@click.option("-w", "--weight", "weights", type=float, multiple=True, help="For each, or one for all; may be negative.")
@out_flag()
@click.option("--out-dtype", type=click.Choice(["float32", "float16", "bfloat16"]), help="[default: the model's]")
@click.option("--resume", is_flag=True, help="Go on with one that was killed.")
@overwrite_flag()
@quiet_flag()
@merge_options
def command(
    model: str,
    deltas: tuple[str, ...],
    weights: tuple[float, ...],
    out: str,
    out_dtype: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Write MODEL + sum of weight times delta, each of DELTAS an adapter or a task vector directory.

    A negative weight takes away what the delta taught.

    \b
    chorus apply whisper-small vector --weight 0.5 -o model
    chorus apply whisper-small noisy clean --weight 1 --weight -1 -o model
    """
    from chorus.merge.api import apply_recipe, merge
    from chorus.merge.planning.planner import plan
    from chorus.merge.recipes.loading import load_recipe

    # one weight is for all, so that --weight 0.5 need not be repeated; how many there must be is the recipe's business
    each = weights if len(weights) > 1 else (*weights, 1.0)[0]
    recipe = load_recipe(apply_recipe(model, deltas, weights=each, out_dtype=out_dtype), "apply")
    note_text = idle_note(flags)
    if note_text:
        note(note_text, quiet=quiet)
    started = time.monotonic()
    # outside the display: what is wrong is told before a bar is drawn, and without one
    planned = plan(recipe, options_of(flags, resume=resume, overwrite=overwrite))
    with shown(quiet=quiet, label="applying") as bar:
        result = merge(planned, Path(out), progress=bar)
    for warning in [*planned.warnings, *result.warnings]:
        note(f"warning: {warning}", quiet=quiet)
    click.echo(str(result.directory))
    elapsed = time.monotonic() - started
    note(f"{result.tensors} tensors, {size(result.bytes_written)} written, {elapsed:.1f} s", quiet=quiet)
