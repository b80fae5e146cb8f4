"""`chorus analyse`: weights, interference, path, cka."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from chorus.cli.evaluate import labelled
from chorus.cli.flags import (
    Flag,
    device_flag,
    jobs_flag,
    json_flag,
    normaliser_flag,
    offline_flag,
    overwrite_flag,
    pickle_flag,
    quiet_flag,
)
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.progress import shown

if TYPE_CHECKING:
    from chorus.analyse.live import AnalysedRows
    from chorus.analyse.write import Analysis
    from chorus.checkpoints.model import OpenOptions
    from chorus.checkpoints.open import Source


Flags = Mapping[str, Any]  # as click gives them
F = TypeVar("F", bound=Callable[..., object])


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
def weights(models: tuple[str, ...], base: str, merges: tuple[str, ...], **flags: Any) -> None:
    """Norms, spectra, cosines, sign conflicts and subspaces of what each MODEL has changed in the base.

    A MODEL is a directory, hub id, adapter or recipe.yml. What says of itself that it is a merge is projected on the
    others, as is what --merge names.

    \b
    chorus analyse weights digits german --base openai/whisper-tiny --merge merge.yml -o analysis
    """
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
    opened = open_all(named(models), base, named(merges), _options(flags))
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
@click.option("--by", default="domain", type=click.Choice(["domain", "language", "speaker"]), help="[default: domain]")
@click.option("--condition", help="Under which condition.  [default: the first]")
@normaliser_flag("Count again under another normaliser.")
@click.option("--common", is_flag=True, help="Compare the utterances that all have, where they differ.")
@overwrite_flag()
@json_flag("Print everything as JSON.")
@quiet_flag()
def interference(results: tuple[str, ...], **flags: Any) -> None:
    """What each specialist gains and loses on every task or domain, by finished evaluations of it and the base.

    \b
    chorus analyse interference evaluations/* -o analysis
    chorus analyse interference asr/* kws/* --specialist words=kws --specialist talks=asr
    """
    from chorus.analyse.interference import analyse_interference
    from chorus.evaluate.results import read_evaluation

    homes = dict(_home(text) for text in flags["specialist"])
    evaluations = [read_evaluation(name) for name in results]

    def found() -> Analysis:
        return analyse_interference(
            evaluations, column=flags["by"], condition=flags["condition"], base=flags["base"], specialists=homes,
            normaliser=flags["normaliser"], common=flags["common"],
        )  # fmt: skip

    tell(found, [one.directory for one in evaluations], flags)


def heard(function: F) -> F:
    """The flags of what loads models and gives them recordings; they arrive as `flags`."""
    decorators: tuple[Flag, ...] = (
        click.argument("models", nargs=-1, required=True, metavar="[NAME=]MODEL..."),
        click.option("--base", required=True, metavar="MODEL", help="What all were trained from."),
        click.option("--data", multiple=True, required=True, metavar="[NAME=]MANIFEST", help="Recordings with texts."),
        click.option("-o", "--out", type=click.Path(), metavar="DIR", help="Write JSON, plots and a page there."),
        click.option("--split", help="Which split; all for every row.  [default: test where there is one]"),
        click.option("--limit", type=click.IntRange(1), help="The first so many rows of each manifest."),
        click.option("--language", default="", help="Of rows that name none."),
        click.option("--task", default="asr", help="[default: asr]"),
        click.option(
            "--window", "window_s", type=click.IntRange(1, 30), default=30, help="Whisper's seconds.  [default: 30]"
        ),
        click.option("--batch-size", type=click.IntRange(1), default=8, help="Utterances at once.  [default: 8]"),
        device_flag("auto", by_config=True),
        overwrite_flag(),
        pickle_flag,
        offline_flag,
        json_flag("Print everything as JSON."),
        quiet_flag(),
    )
    for decorate in reversed(decorators):
        function = decorate(function)
    return function


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
    opened = open_all(named(models), base, (), _options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="measuring", unit="points") as bar:
            return path_of(
                opened, base, _recordings(flags), points=points, until=until,
                between=not from_base_only, progress=bar,
            )  # fmt: skip

    tell(found, opened.places, flags)


@command.command("cka")
@heard
@click.option("--merge", "merges", multiple=True, metavar="[NAME=]MODEL", help="A merge of them; may be repeated.")
def cka(models: tuple[str, ...], base: str, merges: tuple[str, ...], **flags: object) -> None:
    """How alike base, models and merges hear the same recordings, behind every layer of a Whisper.

    \b
    chorus analyse cka radio phone merge.yml --base openai/whisper-tiny --data dev.csv -o cka
    """
    from chorus.analyse.cka import cka_of
    from chorus.analyse.deltas import open_all

    opened = open_all(named(models), base, named(merges), _options(flags))

    def found() -> Analysis:
        with shown(quiet=bool(flags["quiet"]), label="listening", unit="models") as bar:
            return cka_of(opened, base, _recordings(flags), progress=bar)

    tell(found, opened.places, flags)


def _options(flags: Flags) -> OpenOptions:
    from chorus.checkpoints.model import OpenOptions

    return OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"])


def _recordings(flags: Flags) -> AnalysedRows:
    from chorus.analyse.live import AnalysedRows

    names = ("split", "limit", "language", "task", "window_s", "batch_size")
    return AnalysedRows(flags["data"], device=flags["device"] or "auto", **{name: flags[name] for name in names})


def _home(text: str) -> tuple[str, str]:
    label, equals, row = text.partition("=")
    if not equals or not label or not row:
        raise UsageError(f"--specialist {text}: write LABEL=ROW")
    return label, row


def named(texts: Sequence[str]) -> dict[str, Source] | list[Source]:
    """`[NAME=]MODEL` of each; a plain list where nobody has a name."""
    pairs = [labelled(text) for text in texts]
    if not any(label for label, _ in pairs):
        return [model for _, model in pairs]
    if twice := {label for label, _ in pairs if [one for one, _ in pairs].count(label) > 1} - {""}:
        raise UsageError(f'two models are called "{sorted(twice)[0]}"', "give each a name of its own")
    from chorus.analyse.deltas import name_of
    from chorus.checkpoints.open import reference_to

    return {label or name_of(reference_to(model)): model for label, model in pairs}


def tell(find: Callable[[], Analysis], inputs: Sequence[Path], flags: Flags) -> None:
    """Analyse, write it where it is to be, and print it."""
    from chorus.analyse.page import REPORT, place_for, publish
    from chorus.analyse.write import report_of

    # as it was typed: what a reader of the page can run again
    line = [shlex.join(["chorus", *sys.argv[1:]])]
    if flags["out"]:
        with place_for(flags["out"], inputs, overwrite=flags["overwrite"]) as place:
            report = report_of(find(), command=line)
            publish(report, place)
    else:
        report = report_of(find(), command=line)
    if flags["json_"]:
        as_json(report.document)
    else:
        for number, one in enumerate(report.tables):
            if number:
                click.echo()
            table(one)
    if flags["out"]:
        note(f"page: {Path(flags['out']) / REPORT}", quiet=flags["quiet"])
