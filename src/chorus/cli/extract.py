"""`chorus extract lora` and `chorus extract task-vector`."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from chorus.cli.adapters import print_adapter, print_energies, rank_options, rank_rule
from chorus.cli.flags import Flag, jobs_flag, json_flag, offline_flag, out_flag, overwrite_flag, pickle_flag, quiet_flag
from chorus.cli.output import as_json, note
from chorus.errors import UsageError
from chorus.progress import shown
from chorus.sizes import size

F = TypeVar("F", bound=Callable[..., object])


@click.group("extract")
def command() -> None:
    """Take what a fine-tune learnt out of it."""


def shared(function: F) -> F:
    """The flags of both commands; they arrive as `flags`."""
    options: tuple[Flag, ...] = (
        click.option("--model", required=True, help="The fine-tune: a directory or hub id."),
        click.option("--base", required=True, help="What it was trained from."),
        out_flag(),
        click.option("--encoder-only", is_flag=True, help="Only the encoder."),
        click.option("--decoder-only", is_flag=True, help="Only the decoder (or language model)."),
        click.option("--include", multiple=True, metavar="REGEX", help="Only tensors with such names."),
        click.option("--exclude", multiple=True, metavar="REGEX", help="No tensors with such names."),
        click.option(
            "--dtype", type=click.Choice(["float32", "float16", "bfloat16"]), default="float32", help="To write."
        ),
        overwrite_flag(),
        pickle_flag,
        offline_flag,
        json_flag(),
        quiet_flag(),
    )
    for option in reversed(options):  # the last to be applied stands first in --help
        function = option(function)
    return function


def common(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags as arguments of the functions."""
    from chorus.checkpoints.model import OpenOptions
    from chorus.extract.pair import Selection

    if flags["encoder_only"] and flags["decoder_only"]:
        raise UsageError("--encoder-only and --decoder-only exclude each other", "drop both to take all")
    # two flags where the library has one word: those of the Whisper merging guide, kept for its readers
    part = "encoder" if flags["encoder_only"] else "decoder" if flags["decoder_only"] else "all"
    return {
        "model": flags["model"],
        "base": flags["base"],
        "output": flags["out"],
        "selection": Selection(part, tuple(flags["include"]), tuple(flags["exclude"])),
        "dtype": flags["dtype"],
        "overwrite": flags["overwrite"],
        "options": OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"]),
    }


@command.command("lora", short_help="A PEFT adapter that holds most of a fine-tune.")
@shared
@rank_options
@click.option("--save-full", type=click.Choice(["vectors"]), help="Keep norms and biases whole.")
@click.option("--embeddings", is_flag=True, help="Decompose embeddings and heads as well.")
@click.option("--distribute-scale/--no-distribute-scale", default=True, help="Singular values evenly in both factors.")
@jobs_flag()
@click.option("--energies", is_flag=True, help="Print rank and retained energy of every module.")
def lora(
    max_rank: int | None,
    energy: float | None,
    budget: int | None,
    save_full: str | None,
    embeddings: bool,
    distribute_scale: bool,
    jobs: int | None,
    energies: bool,
    **flags: Any,
) -> None:
    """Write the adapter whose merge into the base is as near to the fine-tune as its ranks allow.

    \b
    chorus extract lora --model tuned --base whisper-small -o adapter --max-rank 64
    """
    from chorus.extract.lora import extract_lora

    rule = rank_rule(max_rank, energy, budget)
    started = time.monotonic()
    with shown(quiet=flags["quiet"], label="extracting") as bar:
        result = extract_lora(
            **common(flags),
            # without any of the three the library's own default rank, not a rule without a limit
            ranks=rule if rule.given else None,
            embeddings=embeddings,
            save_vectors=save_full == "vectors",
            distribute_scale=distribute_scale,
            jobs=jobs,
            progress=bar,
        )
    # the JSON holds them anyway, and must stay one document
    if energies and not flags["json_"]:
        print_energies(result)
    print_adapter(result, json_=flags["json_"], quiet=flags["quiet"], elapsed_s=time.monotonic() - started)


@command.command("task-vector", short_help="The differences to the base, as safetensors.")
@shared
def task_vector(**flags: Any) -> None:
    """Write every difference of the fine-tune to its base; `chorus apply` adds them to a model.

    \b
    chorus extract task-vector --model tuned --base whisper-small -o vector
    """
    from chorus.extract.task_vector import extract_task_vector

    with shown(quiet=flags["quiet"], label="extracting") as bar:
        result = extract_task_vector(**common(flags), progress=bar)
    if flags["json_"]:
        as_json({**vars(result), "directory": str(result.directory)})
        return
    for warning in result.warnings:
        note(f"warning: {warning}", quiet=flags["quiet"])
    click.echo(str(result.directory))
    note(f"{result.tensors} tensors, {size(result.bytes_written)}, norm {result.norm:.4g}", quiet=flags["quiet"])
