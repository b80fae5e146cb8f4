"""The analyses of `chorus analyse` that evaluate many models: overfitting, leave-one-out, disentanglement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chorus.cli.analysed import evaluated, homes, named, numbers, open_options, rows_of, tell
from chorus.progress import shown

if TYPE_CHECKING:
    from chorus.analyse.write import Analysis


@click.command("overfitting")
@click.argument("models", nargs=-1, required=True, metavar="[NAME[@RANK]=]MODEL...")
@click.option("--base", required=True, metavar="MODEL", help="What all were trained from.")
@click.option("--specialist", multiple=True, metavar="NAME=ROW", help="Which is at home where; may be repeated.")
@click.option("--ranks", default="1,4,16", help="To cut differences to; the whole is always among them.")
@click.option("--weights", default="0.5,1,1.5", help="To scale them by.  [default: 0.5,1,1.5]")
@evaluated
def overfitting(
    models: tuple[str, ...], base: str, specialist: tuple[str, ...], ranks: str, weights: str, **flags: object
) -> None:
    """What each MODEL recovers of its own task, and costs the others, by rank and merge weight.

    A MODEL is an adapter, or a full fine-tune. Adapters that were trained at several ranks are NAME@RANK=MODEL each.

    \b
    chorus analyse overfitting kws=adapters/kws asr=adapters/asr --base org/model --data kws.csv --data asr.csv \\
        --specialist kws=kws --specialist asr=asr --ranks 1,4,16,64 --weights 0.25,0.5,1,1.5 -o overfitting
    """
    from chorus.analyse.deltas import open_all
    from chorus.analyse.overfitting import RankAndWeights, overfitting_of

    grid = RankAndWeights(numbers(ranks, "--ranks", int), numbers(weights, "--weights", float))
    opened = open_all(named(models), base, (), open_options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="evaluating", unit="models") as bar:
            return overfitting_of(opened, rows_of(flags), grid, homes(specialist), bar)

    tell(found, opened.places, flags)


@click.command("leave-one-out")
@click.argument("recipe", type=click.Path(dir_okay=False))
@evaluated
def leave_one_out(recipe: str, **flags: object) -> None:
    """What each row loses or gains where the merge of RECIPE is made without each of its models.

    \b
    chorus analyse leave-one-out merge.yml --data test.csv -o left-out
    """
    from chorus.analyse.leave_out import leave_one_out_of, plans_without
    from chorus.merge.options import Options

    options = Options(allow_pickle=bool(flags["allow_pickle"]), offline=bool(flags["offline"]))
    plans = plans_without(recipe, options)

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="evaluating", unit="merges") as bar:
            return leave_one_out_of(plans, rows_of(flags), bar)

    tell(found, plans.all.places, flags)


@click.command("disentanglement")
@click.argument("models", nargs=2, metavar="[NAME=]MODEL [NAME=]MODEL")
@click.option("--base", required=True, metavar="MODEL", help="What both were trained from.")
@click.option("--specialist", multiple=True, metavar="NAME=ROW", help="Which is at home where; may be repeated.")
@click.option("--weights", default="0.5,1", help="Of either; 0 is always among them.  [default: 0.5,1]")
@evaluated
def disentanglement(
    models: tuple[str, ...], base: str, specialist: tuple[str, ...], weights: str, **flags: object
) -> None:
    """How often two models change each other's answers when both are added to the base, on a grid of weights.

    \b
    chorus analyse disentanglement radio phone --base openai/whisper-tiny --data test.csv -o disentanglement
    """
    from chorus.analyse.deltas import open_all
    from chorus.analyse.disentanglement import check_grid, disentanglement_of

    grid = check_grid(numbers(weights, "--weights", float))
    opened = open_all(named(models), base, (), open_options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="evaluating", unit="sums") as bar:
            return disentanglement_of(opened, rows_of(flags), grid, homes(specialist), bar)

    tell(found, opened.places, flags)


COMMANDS: tuple[click.Command, ...] = (overfitting, leave_one_out, disentanglement)
