"""`chorus extract-whisper-lora`: `chorus extract lora` under the flags of the Whisper merging guide."""

from __future__ import annotations

import time

import click

from chorus.cli.adapters import print_adapter, rank_rule
from chorus.cli.flags import overwrite_flag
from chorus.errors import UsageError
from chorus.progress import shown


@click.command("extract-whisper-lora")
@click.option("--model", required=True, help="The fine-tune.")
@click.option("--base-model", required=True, help="What it was trained from.")
@click.option("--out-path", required=True, type=click.Path(), help="The adapter's directory.")
# the guide's defaults, not ours: rank 128, and singular values in one factor
@click.option("--max-rank", type=int, default=128, show_default=True, help="Largest rank of a module.")
@click.option("--encoder-only", is_flag=True, help="Only the encoder.")
@click.option("--decoder-only", is_flag=True, help="Only the decoder.")
@click.option("--sv-epsilon", type=float, default=0.0, show_default=True, help="Drop singular values up to this.")
@click.option("--distribute-scale/--no-distribute-scale", default=False, help="Singular values in both factors.")
@overwrite_flag("Replace what is at the path.")
def command(
    model: str,
    base_model: str,
    out_path: str,
    max_rank: int,
    encoder_only: bool,
    decoder_only: bool,
    sv_epsilon: float,
    distribute_scale: bool,
    overwrite: bool,
) -> None:
    """Write a LoRA adapter of a Whisper fine-tune.

    \b
    chorus extract-whisper-lora --model tuned --base-model whisper-small --out-path adapter --max-rank 64
    """
    from chorus.extract.lora import extract_lora
    from chorus.extract.pair import Selection

    if encoder_only and decoder_only:
        raise UsageError("--encoder-only and --decoder-only exclude each other", "drop both to take all")
    if sv_epsilon < 0:
        raise UsageError("--sv-epsilon must not be negative", "0 keeps every singular value up to the rank")
    started = time.monotonic()
    with shown(quiet=False, label="extracting") as bar:
        result = extract_lora(
            model,
            base_model,
            out_path,
            ranks=rank_rule(max_rank, None, None),
            smallest=sv_epsilon,
            selection=Selection("encoder" if encoder_only else "decoder" if decoder_only else "all"),
            distribute_scale=distribute_scale,
            overwrite=overwrite,
            progress=bar,
        )
    print_adapter(result, json_=False, quiet=False, elapsed_s=time.monotonic() - started)
