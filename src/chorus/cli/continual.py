"""`chorus continual`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chorus.cli.evaluate import labelled
from chorus.cli.flags import (
    device_flag,
    jobs_flag,
    json_flag,
    normaliser_flag,
    offline_flag,
    out_flag,
    overwrite_flag,
    pickle_flag,
    quiet_flag,
)
from chorus.cli.output import as_json, note, table
from chorus.plain import JsonObject
from chorus.progress import shown
from chorus.settings import validated

if TYPE_CHECKING:
    from chorus.continual.run import Continued


@click.command("continual")
@click.argument("state")
@click.argument("new", metavar="[NAME=]NEW")
@out_flag("Where the merge with NEW in it goes.")
@click.option("--base", metavar="MODEL", help="The base, where STATE does not say where it is.")
@click.option("--count", type=click.IntRange(1), help="How many models are in STATE, where it does not say it.")
@click.option(
    "--method", type=click.Choice(["fta", "weighted", "opcm"]), default="fta", show_default=True,
    help="Running average, weighted sum, or NEW off the directions of STATE.",
)  # fmt: skip
@click.option("--weight", type=float, multiple=True, metavar="L", help="weighted: what STATE counts, NEW 1 - L.")
@click.option("--dev", multiple=True, metavar="NAME=MANIFEST", help="weighted: choose among the weights on these rows.")
@click.option(
    "--rule", type=click.Choice(["mean", "minimum"]), default="mean", show_default=True,
    help="How the figures on several dev sets become one.",
)  # fmt: skip
@click.option("--alpha", type=float, default=1.0, show_default=True, help="weighted: factor of the sum.")
@click.option("--protect", type=float, default=0.5, show_default=True, help="opcm: share of values that is kept.")
@click.option(
    "--as", "form", type=click.Choice(["auto", "adapter", "model"]), default="auto",
    help="What is written.  [default: an adapter where STATE and NEW are]",
)  # fmt: skip
@click.option("--energy", type=float, default=0.99, show_default=True, help="Adapters: share that is kept; 1 is all.")
@click.option(
    "--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True,
    help="Of what is written.",
)  # fmt: skip
@click.option("--test", multiple=True, metavar="NAME=MANIFEST", help="Measure on these rows; NAME is a model's.")
@click.option("--results", type=click.Path(), metavar="DIR", help="Evaluations go here.  [default: DIR.evaluations]")
@click.option("--task", help="Of all sets.  [default: each set's own, as its rows say, else asr]")
@click.option("--language", help="A code, column (the manifest's), or detect.  [default: column]")
@click.option("--limit", type=click.IntRange(1), help="So many rows of each set, evenly taken.")
@click.option("--batch-size", type=click.IntRange(1), help="Utterances at once.  [default: 16]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of one hypothesis.  [default: as many as fit]")
@click.option(
    "--window", "window_s", type=click.IntRange(1, 30), multiple=True,
    help="Whisper: seconds that it is given of shorter utterances; may be repeated.  [default: 30]",
)  # fmt: skip
@normaliser_flag("raw, basic, english, marks, arabic[:OPTIONS].  [default: marks]", default="marks")
@click.option("--skip-bad", is_flag=True, help="Leave out recordings that cannot be read, and count them.")
@device_flag("auto")
@jobs_flag()
@pickle_flag
@offline_flag
@overwrite_flag()
@json_flag()
@quiet_flag()
def command(state: str, new: str, out: str, json_: bool, quiet: bool, **flags: object) -> None:
    """Add one more model, NEW, to STATE, a merge made earlier, without the models that are in it.

    STATE is what this command has written, a merge or adapter (with --base), or the base to begin with. The result
    says which models are in it, in which order and at which weight. Give the same command again after a kill, and it
    goes on.

    \b
    chorus continual openai/whisper-small radio-lora -o one --test radio-lora=radio.csv
    chorus continual one phone=phone-lora -o two --base openai/whisper-small \\
        --test radio-lora=radio.csv --test phone=phone.csv
    """
    found = _continued(state, new, out, flags, quiet=quiet)
    tell(found, json_=json_, quiet=quiet)


def _continued(state: str, new: str, out: str, flags: JsonObject, *, quiet: bool) -> Continued:
    from chorus.continual.run import continual
    from chorus.continual.sets import Measuring
    from chorus.continual.settings import Continuing
    from chorus.merge.options import Options

    def of(*names: str) -> JsonObject:
        # what may be repeated and is not given is an empty tuple
        given = {name: flags[name] for name in names}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in given.items() if v not in (None, ())}

    asked = of("method", "weight", "rule", "alpha", "protect", "form", "energy", "dtype")
    settings = validated(Continuing, asked, source="chorus continual")
    decoding = of("language", "batch_size", "max_new_tokens", "window_s")
    measuring = Measuring(decoding, **of("task", "normaliser", "device", "limit", "skip_bad"))
    options = Options(**of("jobs", "allow_pickle", "offline", "overwrite"))
    name, model = labelled(new)
    with shown(quiet=quiet, label="merging") as bar:
        return continual(
            state, model, out, settings, name=name, tests=flags["test"], measuring=measuring, options=options,
            **of("base", "count", "dev", "results"), progress=bar,
            bars=lambda label: shown(quiet=quiet, label=label, unit="utterances"),
            note=lambda text: note(text, quiet=quiet),
        )  # fmt: skip


def tell(found: Continued, *, json_: bool, quiet: bool) -> None:
    """Where it is and what is in it; the tables where it was measured."""
    from chorus.continual.tables import dev_table, models, stages_table, standing_table

    for warning in found.warnings:
        note(f"warning: {warning}", quiet=quiet)
    if json_:
        as_json(found.document())
        return
    facts = found.facts
    if not quiet and (chosen := dev_table(facts)) is not None:
        table(chosen)
        click.echo()
    if facts.stages[-1].figures and not quiet:
        table(standing_table(facts))
        click.echo()
        table(stages_table(facts))
        click.echo()
    click.echo(str(found.directory))
    shares = facts.shares()
    told = f"{models(facts.count)} in it"
    if shares is not None:
        counted = [f"{name or 'those before'} {share:.3g}" for name, share in shares.items()]
        told += f": {', '.join(counted)}"
    note("; ".join(filter(None, [told, found.written])), quiet=quiet)
