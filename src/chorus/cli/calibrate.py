"""`chorus calibrate`."""

from __future__ import annotations

from typing import Any

import click

from chorus.cli.flags import device_flag, json_flag, offline_flag, out_flag, overwrite_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError


@click.command("calibrate")
@click.argument("recipe", type=click.Path(dir_okay=False))
@click.option("--data", multiple=True, required=True, metavar="[NAME=]MANIFEST", help="Rows to learn on (split train).")
@click.option("--dev", multiple=True, required=True, metavar="[NAME=]MANIFEST", help="Rows to choose on (split dev).")
@click.option("--test", multiple=True, metavar="MANIFEST", help="Rows that must be among neither.")
@out_flag("Where recipe, facts and adapter go.")
@click.option(
    "--granularity", type=click.Choice(["scalar", "task", "component", "group"]), default="group", show_default=True,
    help="One weight in all, a model, a component, or a band of layers and kind.",
)  # fmt: skip
@click.option("--bands", type=click.IntRange(1), default=4, show_default=True, help="Bands of layers a component.")
@click.option(
    "--form", type=click.Choice(["free", "tanh", "simplex"]), default="free", show_default=True,
    help="How the weights are written while they are learnt.",
)  # fmt: skip
@click.option("--magnitude", type=float, default=2.0, show_default=True, help="tanh keeps weights within +- so much.")
@click.option("--start", type=float, help="Where all weights begin.  [default: at the recipe's]")
@click.option("--bound", type=float, default=10.0, show_default=True, help="A weight beyond it ends the calibration.")
@click.option(
    "--objective", type=click.Choice(["cross-entropy", "entropy"]), default="cross-entropy", show_default=True,
    help="What is lowered: of answers, or of labels that no row is known to have.",
)  # fmt: skip
@click.option(
    "--balance", type=click.Choice(["loss", "recovery"]), default="loss", show_default=True,
    help="How tasks' losses add up: alike, or by what each has to recover on dev.",
)  # fmt: skip
@click.option(
    "--rule", type=click.Choice(["mean", "minimum", "geometric", "l2"]), default="mean", show_default=True,
    help="How the tasks' recoveries on dev become one number.",
)  # fmt: skip
@click.option(
    "--measure", type=click.Choice(["loss", "wer", "cer", "entropy"]), default="loss", show_default=True,
    help="What is measured on dev.",
)  # fmt: skip
@click.option("--normaliser", "--normalizer", default="raw", show_default=True, help="Of error rates on dev.")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of decoding on dev.")
@click.option(
    "--by", metavar="COLUMN", help="The column that tells the tasks.  [default: task where rows name it, else domain]"
)
@click.option("--own", multiple=True, metavar="TASK=MODEL", help="A task's own model.  [default: the best on dev]")
@click.option("--task", default="asr", show_default=True, help="One of `chorus tasks`, or lm.")
@click.option("--updates", type=click.IntRange(1), default=200, show_default=True, help="At most so many.")
@click.option("--every", type=click.IntRange(1), default=20, show_default=True, help="Updates between two measures.")
@click.option("--patience", type=click.IntRange(1), default=5, show_default=True, help="Measures without a better one.")
@click.option("--batch-size", type=click.IntRange(1), default=4, show_default=True, help="Rows of each task an update.")
@click.option("--learning-rate", type=float, default=0.01, show_default=True, help="Adam's.")
@click.option("--limit", type=click.IntRange(1), help="Dev rows of each task, evenly taken.")
@click.option("--rank", type=click.IntRange(1), help="Full fine-tunes: cut their deltas to this rank.")
@click.option("--streamed", is_flag=True, help="Full fine-tunes: read deltas anew at each update, hold none.")
@click.option("--energy", type=float, help="Adapters: cut the merged one to this share of its energy.")
@click.option("--language", default="", metavar="CODE", help="Of rows that name none.")
@click.option("--prompt", metavar="TEXT", help="What a speech LLM is asked.  [default: the task's instruction]")
@click.option("--timestamps", type=float, default=0.5, show_default=True, help="Share of Whisper's targets with them.")
@click.option(
    "--window",
    "window_s",
    multiple=True,
    type=int,
    metavar="S",
    help="Whisper: seconds of a batch.  [default: 30]",
)
@click.option("--dtype", type=click.Choice(["auto", "float32", "bfloat16", "float16"]), default="auto", help="Base's.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the order of rows.")
@device_flag("auto")
@offline_flag
@click.option("--skip-bad", is_flag=True, help="Leave out rows that cannot be used, and count them.")
@click.option("--restart", is_flag=True, help="Begin again, whatever an earlier run has left.")
@overwrite_flag()
@json_flag()
@quiet_flag()
def command(recipe: str, data: tuple[str, ...], dev: tuple[str, ...], test: tuple[str, ...], **flags: Any) -> None:
    """Learn the weights of RECIPE's models by part of the network on rows of its tasks; write a recipe that says them.

    Give the same command again after a kill, and it goes on. Test rows are refused.

    \b
    chorus calibrate recipe.yml --data speech/manifest.csv --dev speech/manifest.csv -o calibrated
    chorus merge calibrated/recipe.yml -o merged
    """
    from chorus.calibrate.facts import dev_table
    from chorus.calibrate.run import calibrate
    from chorus.calibrate.settings import Calibration
    from chorus.settings import validated

    quiet, json_ = flags.pop("quiet"), flags.pop("json_")
    run = {name: flags.pop(name) for name in ("skip_bad", "restart", "overwrite", "offline")}
    out = flags.pop("out")
    flags["own"] = dict(_pair(text) for text in flags["own"])
    flags["window_s"] = list(flags["window_s"]) or [30]
    settings = validated(Calibration, flags, source="chorus calibrate")
    found = calibrate(
        recipe, data, dev, out, settings, test=test, note=lambda text: note(text, quiet=quiet), **run
    )  # fmt: skip
    if json_:
        as_json({"directory": str(found.directory), "adapter": str(found.adapter or "") or None, **found.facts})
        return
    if not quiet:
        table(dev_table(found.facts))
    click.echo(str(found.recipe))
    if found.adapter:
        click.echo(str(found.adapter))
    note(f"update {found.best_update} of {found.updates} is kept", quiet=quiet)


def _pair(text: str) -> tuple[str, str]:
    task, equals, model = text.partition("=")
    if not equals or not task or not model:
        raise UsageError(f"--own {text}: write TASK=MODEL")
    return task, model
