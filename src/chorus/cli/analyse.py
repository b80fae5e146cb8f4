"""`chorus analyse`: its group, and the commands that evaluate nothing; the others stand in analyse_grids.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from chorus.cli import analyse_grids
from chorus.cli.analysed import Flags, heard, home, named, open_options, recordings, tell
from chorus.cli.flags import (
    jobs_flag,
    json_flag,
    normaliser_flag,
    offline_flag,
    overwrite_flag,
    pickle_flag,
    quiet_flag,
)
from chorus.cli.output import note
from chorus.errors import UsageError
from chorus.progress import shown

if TYPE_CHECKING:
    from chorus.analyse.write import Analysis


@click.group("analyse")
def command() -> None:
    """What fine-tunes have learnt, how they interfere, and what a merge keeps of them."""


@command.command("weights")
@click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL...")
@click.option("--base", required=True, metavar="MODEL", help="What all of them were trained from.")
@click.option("--merge", "merges", multiple=True, metavar="[NAME=]MODEL", help="A merge of them; may be repeated.")
@click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there.")
@click.option("--density", type=float, default=0.2, help="The share of values that are the largest.  [default: 0.2]")
@click.option("--energy", type=float, default=0.9, help="The share of energy that a subspace holds.  [default: 0.9]")
@click.option("--no-spectra", is_flag=True, help="Decompose no matrix: neither ranks nor subspaces.")
@click.option("--encoder-only", is_flag=True, help="Only the encoder.")
@click.option("--decoder-only", is_flag=True, help="Only the decoder (or language model).")
@click.option("--include", multiple=True, metavar="REGEX", help="Only tensors with such names.")
@click.option("--exclude", multiple=True, metavar="REGEX", help="No tensors with such names.")
@jobs_flag()
@overwrite_flag()
@pickle_flag
@offline_flag
@json_flag("Print everything as JSON.")
@quiet_flag()
def weights(models: tuple[str, ...], base: str, merges: tuple[str, ...], **given: object) -> None:
    """Norms, spectra, cosines, sign conflicts and subspaces of what each MODEL has changed in the base.

    A MODEL is a directory, hub id, adapter or recipe.yml. What says of itself that it is a merge is projected on the
    others, as is what --merge names.

    \b
    chorus analyse weights digits german --base openai/whisper-tiny --merge merge.yml -o analysis
    """
    flags: Flags = given  # click knows the types
    from chorus.analyse.deltas import open_all
    from chorus.analyse.sums import Wanted
    from chorus.analyse.weights import analyse_opened
    from chorus.extract.pair import Selection
    from chorus.runtime import threads

    if flags["encoder_only"] and flags["decoder_only"]:
        raise UsageError("--encoder-only and --decoder-only exclude each other", "drop both to take all")
    part = "encoder" if flags["encoder_only"] else "decoder" if flags["decoder_only"] else "all"
    selection = Selection(part, flags["include"], flags["exclude"])
    wanted = Wanted(flags["density"], flags["energy"], not flags["no_spectra"], threads(flags["jobs"]))
    # opened before the analysis: the output must be none of their places, which is told first
    opened = open_all(named(models), base, named(merges), open_options(flags))
    for warning in opened.warnings:
        note(f"warning: {warning}")

    def found() -> Analysis:
        with shown(quiet=flags["quiet"], label="analysing", unit="tensors") as bar:
            return analyse_opened(opened, wanted, selection, bar)

    tell(found, opened.places, flags)


@command.command("interference")
@click.argument("results", nargs=-1, required=True, metavar="EVALUATION...")
@click.option("--base", metavar="LABEL", help="Which is the base.  [default: the one that says so]")
@click.option("--specialist", multiple=True, metavar="LABEL=ROW", help="Which is at home in a domain or task.")
@click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there.")
@click.option("--weights", type=click.Path(), metavar="DIR", help="What `analyse weights` wrote of the same models.")
@click.option("--by", default="domain", type=click.Choice(["domain", "language", "speaker"]), help="[default: domain]")
@click.option("--condition", help="Under which condition.  [default: the first]")
@normaliser_flag("Count again under another normaliser.")
@click.option("--common", is_flag=True, help="Compare the utterances that all have, where they differ.")
@overwrite_flag()
@json_flag("Print everything as JSON.")
@quiet_flag()
def interference(results: tuple[str, ...], **given: object) -> None:
    """What each specialist gains and loses on every task or domain, by finished evaluations of it and the base.

    \b
    chorus analyse interference evaluations/* -o analysis
    chorus analyse interference asr/* kws/* --specialist words=kws --specialist talks=asr
    """
    flags: Flags = given
    from chorus.analyse.correlation import with_correlations
    from chorus.analyse.facts import weights_at
    from chorus.analyse.interference import analyse_interference
    from chorus.evaluate.results import read_evaluation

    homes = dict(home(text) for text in flags["specialist"])
    evaluations = [read_evaluation(name) for name in results]

    geometry = weights_at(flags["weights"]) if flags["weights"] else None

    def found() -> Analysis:
        matrix = analyse_interference(
            evaluations, column=flags["by"], condition=flags["condition"], base=flags["base"], specialists=homes,
            normaliser=flags["normaliser"], common=flags["common"],
        )  # fmt: skip
        return matrix if geometry is None else with_correlations(matrix, geometry)

    tell(found, [one.directory for one in evaluations], flags)


@command.command("path")
@heard
@click.option("--points", type=click.IntRange(2), default=11, help="From 0 to 1.  [default: 11]")
@click.option("--until", type=float, default=1.0, help="How far beyond a model, from the base.  [default: 1]")
@click.option("--from-base-only", is_flag=True, help="Leave out the ways between models.")
def path(models: tuple[str, ...], base: str, points: int, until: float, from_base_only: bool, **flags: object) -> None:
    """The loss on the straight way from the base to each MODEL, and between each two: barriers, and the best weight.

    \b
    chorus analyse path radio phone merge.yml --base openai/whisper-tiny --data dev.csv --until 1.5 -o path
    """
    from chorus.analyse.deltas import open_all
    from chorus.analyse.path import check_points, path_of

    check_points(points, until)
    opened = open_all(named(models), base, (), open_options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="measuring", unit="points") as bar:
            return path_of(
                opened, base, recordings(flags), points=points, until=until,
                between=not from_base_only, progress=bar,
            )  # fmt: skip

    tell(found, opened.places, flags)


@command.command("cka")
@heard
@click.option("--merge", "merges", multiple=True, metavar="[NAME=]MODEL", help="A merge of them; may be repeated.")
def cka(models: tuple[str, ...], base: str, merges: tuple[str, ...], **flags: object) -> None:
    """How alike base, models and merges hear the same recordings, behind every layer that hears or writes.

    \b
    chorus analyse cka radio phone merge.yml --base openai/whisper-tiny --data dev.csv -o cka
    """
    from chorus.analyse.cka import cka_of
    from chorus.analyse.deltas import open_all

    opened = open_all(named(models), base, named(merges), open_options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="listening", unit="models") as bar:
            return cka_of(opened, base, recordings(flags), progress=bar)

    tell(found, opened.places, flags)


@command.command("coefficients")
@click.argument("recipe", type=click.Path())
@click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there.")
@overwrite_flag()
@pickle_flag
@offline_flag
@json_flag("Print everything as JSON.")
@quiet_flag()
def coefficients(recipe: str, **given: object) -> None:
    """Which model a weighted sum gives which weight in every layer: who dominates, by how much, how evenly.

    RECIPE is a recipe, or the directory of a calibration.

    \b
    chorus analyse coefficients calibrated -o coefficients
    """
    flags: Flags = given
    from chorus.analyse.coefficients import analyse_coefficients, plan_of
    from chorus.merge.options import Options

    options = Options(allow_pickle=flags["allow_pickle"], offline=flags["offline"])
    planned = plan_of(recipe, options)
    tell(lambda: analyse_coefficients(planned), planned.places, flags)


for one in analyse_grids.COMMANDS:
    command.add_command(one)
