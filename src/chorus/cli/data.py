"""`chorus data`: manifest, check, split, describe, synth."""

from __future__ import annotations

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import click

from chorus.cli.flags import columns_flags, jobs_flag, json_flag, out_flag, overwrite_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.files import printable
from chorus.progress import shown
from chorus.tables import Table

if TYPE_CHECKING:
    from chorus.data.check import Report
    from chorus.data.manifest import Row

SHOWN = 5  # rows of a finding that the table spells out
TABLES = ("metadata.csv", "metadata.tsv", "transcripts.csv", "transcripts.tsv", "transcript.txt")  # usual names


@click.group("data")
def command() -> None:
    """From recordings to a checked manifest."""


class Reading(TypedDict):
    """How a manifest of others is read: `columns_flags`."""

    columns: tuple[str, ...]
    audio_dir: str | None


class Paired(TypedDict):
    """What `data manifest` tells: rows, how many each rule matched, what was skipped and why."""

    rows: int
    matched: dict[str, int]
    classes: dict[str, int]
    skipped: dict[str, list[str]]
    written: list[str]


def free(*paths: Path, overwrite: bool) -> None:
    """Refuse to replace what is there."""
    from chorus.errors import OutputError

    for path in paths:
        if path.exists() and not overwrite:
            raise OutputError(f"{path}: is there already", "choose another name, or pass --overwrite")


def mapping(pairs: tuple[str, ...]) -> dict[str, str]:
    """`text=sentence` and so on, also several behind commas."""
    found = {}
    for pair in (one for group in pairs for one in group.split(",")):
        ours, equals, theirs = pair.partition("=")
        if not equals or not ours or not theirs:
            raise UsageError(f"--columns {pair}: write OURS=THEIRS, as in text=sentence")
        found[ours] = theirs
    return found


def read_all(manifests: tuple[str, ...], reading: Reading, *, quiet: bool, needs: tuple[str, ...]) -> list[Row]:
    """The rows of several manifests; columns that were taken for others are told once."""
    from chorus.data.choices import read_asked
    from chorus.errors import DataError

    columns = mapping(reading["columns"])
    rows = []
    for name in manifests:
        found = read_asked(name, needs, columns=columns, audio_dir=reading["audio_dir"])
        for ours, theirs in found.renamed.items():  # a guess that is right is still a guess
            note(f"{name}: column {theirs} is read as {ours}", quiet=quiet)
        rows += found.rows
    if not rows:
        raise DataError(f"{', '.join(manifests)}: no rows", "is it the right file?")
    return rows


@command.command("manifest", short_help="Pair recordings with transcripts.")
@click.argument("audio_dir", required=False, type=click.Path())
@click.option("-o", "--out", type=click.Path(), help="The manifest.  [default: AUDIO_DIR/manifest.csv]")
@click.option(
    "--rule",
    type=click.Choice(["auto", "table", "kaldi", "librispeech", "sidecar", "token"]),
    default="auto",
    help="How transcripts are found.  [default: the first that fits]",
)
@click.option("--table", "table_file", type=click.Path(), help="One file with names and texts.")
@click.option("--texts", "--texts-root", type=click.Path(), help="Folder of f01.txt, f02.txt: tokens in file names.")
@click.option("--language", default="", help="Language of every row, as ISO 639-1.")
@click.option("--domain", default="", help="Domain of every row.")
@click.option(
    "--speaker-from",
    type=click.Choice(["none", "folder", "prefix"]),
    default="none",
    help="First folder, or the name up to - or _.",
)
@click.option(
    "--extensions", multiple=True, metavar="EXT", help="Audio files' endings.  [default: all that can be read]"
)
# --audio-root, --texts-root, --outdir, --val-fraction and the seed 13 are whisper.cpp-finetuning's, whose users need
# not learn a second set
@click.option("--audio-root", type=click.Path(), help="As AUDIO_DIR.")
@click.option("--outdir", type=click.Path(), help="Write train.csv and val.csv here, split by folder.")
@click.option(
    "--val-fraction", type=click.FloatRange(0, 1, max_open=True), default=0.1, help="Share of val.csv.  [default: 0.1]"
)
@click.option("--seed", default=13, help="Of the split.  [default: 13]")
@overwrite_flag("Replace manifests that are there.")
@json_flag("Print what was matched as JSON.")
@quiet_flag("No notes.")
def manifest(**flags: Any) -> None:
    """Write a manifest of the recordings below AUDIO_DIR; say what matched by which rule, and what was skipped.

    \b
    chorus data manifest recordings --language pt -o recordings/manifest.csv
    """
    from dataclasses import replace

    from chorus.data.audio import SUFFIXES
    from chorus.data.manifest import write_manifest
    from chorus.data.pairing import pair
    from chorus.errors import DataError

    folder = flags["audio_dir"] or flags["audio_root"]
    if not folder or (flags["audio_dir"] and flags["audio_root"]):
        raise UsageError("name the folder of the recordings once: AUDIO_DIR or --audio-root")
    outdir = Path(flags["outdir"]) if flags["outdir"] else None
    target = Path(flags["out"] or Path(folder) / "manifest.csv")
    # before a recording is looked for: a refusal at the end would have cost the whole walk
    planned = [outdir / "train.csv", outdir / "val.csv"] if outdir else [target]
    free(*planned, overwrite=flags["overwrite"])
    extensions = tuple(e for group in flags["extensions"] for e in group.replace(",", " ").split()) or SUFFIXES
    found = pair(
        Path(folder),
        rule=flags["rule"],
        table=Path(flags["table_file"]) if flags["table_file"] else None,
        texts_dir=Path(flags["texts"]) if flags["texts"] else None,
        extensions=extensions,
        language=flags["language"],
        speaker_from=flags["speaker_from"],
    )
    if flags["domain"]:
        found.rows = [replace(row, domain=flags["domain"]) for row in found.rows]
    written = []
    if found.rows and outdir:
        written = _write_train_and_val(found.rows, outdir, flags["val_fraction"], flags["seed"])
    elif found.rows:
        written = [write_manifest(found.rows, target)]
    facts: Paired = {
        "rows": len(found.rows),
        "matched": dict(found.matched),
        "classes": dict(sorted(found.classes.items())),
        "skipped": found.skipped,
        "written": [str(path) for path in written],
    }
    if flags["json_"]:
        as_json(facts)
    else:
        _print_pairing(facts, quiet=flags["quiet"])
    # after the printing: what was skipped, and why, is the answer to this error
    if not found.rows:
        named = next((name for name in TABLES if (Path(folder) / name).is_file()), None)
        hint = f"is it --table {Path(folder) / named}?" if named else "see what was skipped; name a --rule or a --table"
        raise DataError(f"{folder}: no recording has a transcript", hint)


def _write_train_and_val(rows: list[Row], outdir: Path, fraction: float, seed: int) -> list[Path]:
    """train.csv and val.csv by whole folders; by the names' prefixes where there is one folder only."""
    import re
    from dataclasses import replace

    from chorus.data.manifest import write_manifest
    from chorus.data.split import split_rows

    # by folder first: a session's recordings lie together, and their rooms and microphones must not be on both sides
    several = len({row.audio.parent for row in rows}) > 1

    def group(row: Row) -> str:
        return str(row.audio.parent) if several else re.split(r"[-_. ]", row.audio.stem)[0]

    named = [replace(row, extra={**row.extra, "group": group(row)}) for row in rows]
    divided = split_rows(named, dev=fraction, test=0, by="group", seed=seed)  # no group on both sides
    written = []
    for split, name in (("train", "train.csv"), ("dev", "val.csv")):
        # without the column that was only for dividing
        part = [
            replace(r, extra={k: v for k, v in r.extra.items() if k != "group"}) for r in divided if r.split == split
        ]
        written.append(write_manifest(part, outdir / name))
    return written


def _print_pairing(facts: Paired, *, quiet: bool) -> None:
    for rule, count in facts["matched"].items():
        click.echo(f"matched by {rule}: {count}")
    for name, count in facts["classes"].items():
        click.echo(printable(f"  {name}: {count}"))
    for reason, names in facts["skipped"].items():
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        click.echo(printable(f"skipped, {reason}: {len(names)} ({shown})"))
    for path in facts["written"]:
        click.echo(path)
    if facts["written"]:
        note(f"next: chorus data check {shlex.quote(str(facts['written'][0]))}", quiet=quiet)


@command.command("check", short_help="Find what would spoil a training.")
@click.argument("manifests", nargs=-1, required=True, type=click.Path())
@click.option("--task", default="asr", show_default=True, help="Of rows that name none: chorus tasks.")
@click.option("--model", help="Check texts against this model's tokenizer, decoder and languages.")
@click.option("--strict", is_flag=True, help="Exit 1 on warnings too.")
@jobs_flag(what="Files at once.")
@columns_flags
@json_flag("Print the report as JSON, every row named.")
@quiet_flag()
def check_(
    manifests: tuple[str, ...],
    task: str,
    model: str | None,
    strict: bool,
    jobs: int | None,
    json_: bool,
    quiet: bool,
    **reading: Unpack[Reading],
) -> None:
    """Decode every recording; look at audio, texts, answers, splits. Leaves with 1 where training would be spoilt."""
    from chorus.data.check import check
    from chorus.data.choices import needs_of
    from chorus.models.loading import limits_of
    from chorus.tasks.registry import TASKS, parse_task

    task = parse_task(task)
    rows = read_all(manifests, reading, quiet=quiet, needs=needs_of(TASKS.get(task)))
    limits = limits_of(model) if model else None
    with shown(quiet=quiet, label="checking", unit="rows") as bar:
        report = check(rows, task=task, limits=limits, jobs=jobs, progress=bar)
    if json_:
        as_json(report.as_dict())
    else:
        _print_report(report, model)
    if report.errors or (strict and report.warnings):  # after the report: a finding is no failure of the command
        raise click.exceptions.Exit(1)


def _print_report(report: Report, model: str | None) -> None:
    click.echo(f"{report.rows} rows, {report.hours:.3f} h, {_rates(report.rates)}")
    for column, hours in report.hours_by.items():
        # corpora have thousands of speakers
        items = [f"{name} {value:.3f}" for name, value in list(hours.items())[:12]]
        more = f", and {len(hours) - 12} more" if len(hours) > 12 else ""
        click.echo(printable(f"hours by {column}: {', '.join(items)}{more}"))
    click.echo("")
    if not report.findings:
        click.echo("nothing found" + ("" if model else " (texts were not checked against a model: --model)"))
        return
    rows = []
    for finding in report.findings:
        for i, text in enumerate(finding.rows[:SHOWN]):
            first = (
                ("error" if finding.error else "warning", finding.kind, str(len(finding.rows)))
                if i == 0
                else ("", "", "")
            )
            rows.append((*first, text))
        if len(finding.rows) > SHOWN:
            rows.append(("", "", "", f"... {len(finding.rows) - SHOWN} more (--json names all)"))
    table(Table("", ["", "finding", "rows", "which"], rows))
    click.echo(f"\n{report.errors} errors, {report.warnings} warnings")


def _rates(rates: dict[int, int]) -> str:
    return ", ".join(f"{count} at {rate / 1000:g} kHz" for rate, count in sorted(rates.items())) or "no readable audio"


@command.command("split", short_help="Divide into train, dev and test by speaker or group.")
@click.argument("manifest_file", metavar="MANIFEST", type=click.Path())
@click.option("-o", "--out", type=click.Path(), required=True, help="The manifest with a column split.")
@click.option("--by", default="speaker", help="Column that stays whole, or folder, or row.  [default: speaker]")
@click.option("--stratify", default="", help="Column within whose values the shares hold, such as domain.")
@click.option("--dev", default=0.1, help="Share of dev.  [default: 0.1]")
@click.option("--test", default=0.1, help="Share of test.  [default: 0.1]")
@click.option("--seed", default=0, help="Another division.  [default: 0]")
@columns_flags
@overwrite_flag("Replace what is at OUT.")
@quiet_flag("No notes.")
def split(
    manifest_file: str,
    out: str,
    by: str,
    stratify: str,
    dev: float,
    test: float,
    seed: int,
    overwrite: bool,
    quiet: bool,
    **reading: Unpack[Reading],
) -> None:
    """Write the manifest again with a split for every row; no group stands on two sides."""
    from chorus.data.manifest import groups, write_manifest
    from chorus.data.split import SPLITS, split_rows

    rows = read_all((manifest_file,), reading, quiet=quiet, needs=("path",))
    free(Path(out), overwrite=overwrite)
    divided = split_rows(rows, dev=dev, test=test, by=by, stratify=stratify, seed=seed)
    click.echo(str(write_manifest(divided, out)))
    found = groups(divided, "split")
    # as split_rows weighs them: a row of unknown length counts as a second
    total = sum(row.length_s or 1.0 for row in divided)
    lines = []
    for name in SPLITS:
        part = found.get(name, [])
        lines.append(
            (
                name,
                str(len(part)),
                f"{100 * sum(r.length_s or 1.0 for r in part) / total:.1f} %",
                str(len(groups(part, by))),
            )
        )
    table(Table("", ["split", "rows", "share", by if by != "row" else "rows apart"], lines))


@command.command("describe", short_help="Durations, domains, languages, speakers.")
@click.argument("manifests", nargs=-1, required=True, type=click.Path())
@click.option("--plot", "plot_file", type=click.Path(), help="Draw durations and hours by domain (PNG, SVG, PDF).")
@columns_flags
@json_flag("Print as JSON.")
@quiet_flag("No notes.")
def describe_(
    manifests: tuple[str, ...],
    plot_file: str | None,
    json_: bool,
    quiet: bool,
    **reading: Unpack[Reading],
) -> None:
    """Say what manifests hold."""
    from chorus.data.describe import describe, plot

    facts = describe(read_all(manifests, reading, quiet=quiet, needs=("path",)))
    if plot_file:
        plot(facts, Path(plot_file), ", ".join(Path(m).parent.name or Path(m).name for m in manifests))
    if json_:
        # one number a row, for the plot: no reader of the JSON wants it
        as_json({k: v for k, v in facts.items() if k != "durations"})
        return
    seconds = facts["duration_s"]
    click.echo(f"{facts['rows']} rows, {facts['hours']:.3f} h; {facts['distinct_texts']} distinct texts, "
               f"{facts['words_per_row']:g} words a row, {facts['characters']} characters")  # fmt: skip
    click.echo(
        f"seconds: shortest {seconds['min']:g}, median {seconds['median']:g}, 95 % {seconds['p95']:g}, "
        f"longest {seconds['max']:g}"
    )
    for column, values in facts["by"].items():
        click.echo("")
        lines = [(k, str(v["rows"]), f"{v['hours']:.3f}") for k, v in list(values.items())[:20]]  # the most rows first
        table(Table("", [column, "rows", "hours"], lines))
    if plot_file:
        click.echo(f"\n{plot_file}")


@command.command("synth", short_help="Synthetic speech from a recipe.")
@click.argument("recipe", type=click.Path())
@out_flag("Recordings and manifest.csv.")
@overwrite_flag("Replace what is at DIR.")
@quiet_flag()
def synth(recipe: str, out: str, overwrite: bool, quiet: bool) -> None:
    """Speak a recipe: domains by texts, voices, speed, pitch and line. The same recipe gives the same bytes."""
    from chorus.checkpoints.output_place import refuse_input
    from chorus.checkpoints.writer import appearing_whole
    from chorus.data.synth import synthesise

    refuse_input(Path(out), [Path(recipe)])
    started = time.monotonic()
    with (
        shown(quiet=quiet, label="speaking", unit="utterances") as bar,
        # whole or not at all: a manifest of half the recordings would be trained on without a word
        appearing_whole(Path(out), overwrite=overwrite) as partial,
    ):
        rows = synthesise(recipe, partial.path, progress=bar)
    seconds = sum(row.duration or 0 for row in rows)
    click.echo(str(Path(out) / "manifest.csv"))
    note(f"{len(rows)} utterances, {seconds / 60:.1f} min of speech in {time.monotonic() - started:.1f} s", quiet=quiet)
