"""`chorus evaluate`."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from chorus.cli.data import mapping
from chorus.cli.flags import (
    columns_flags,
    device_flag,
    json_flag,
    normaliser_flag,
    overwrite_flag,
    pickle_flag,
    quiet_flag,
)
from chorus.cli.output import as_json, note, table
from chorus.errors import UsageError
from chorus.files import printable
from chorus.progress import shown

if TYPE_CHECKING:
    from chorus.evaluate.confusion import Confusion
    from chorus.evaluate.results import Evaluation
    from chorus.transcribe.systems import System


SHOWING = ("by", "worst", "confusion", "json_", "quiet")  # flags that a finished evaluation answers to


@click.command("evaluate")
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.option("--data", multiple=True, metavar="[NAME=]MANIFEST", help="Recordings with their texts; may be repeated.")
@click.option("-o", "--out", default="evaluations", metavar="DIR", help="Results go here.  [default: evaluations]")
@click.option("--split", help="Which split; all for every row.  [default: test where there is one]")
@click.option("--where", multiple=True, metavar="COLUMN=VALUE", help="Only these rows; may be repeated.")
@columns_flags
@click.option("--limit", type=click.IntRange(1), help="So many rows of each manifest, evenly taken.")
@click.option(
    "--backend", default="auto",
    help="transformers, faster-whisper, whisper.cpp, openai-whisper, onnxruntime, sherpa-onnx.  [default: by its form]",
)  # fmt: skip
@device_flag("auto")
@click.option("--preset", default="default", help="default, or paper (cut by voice activity, beam 5).")
@click.option("--beam", type=click.IntRange(1), help="Beams.  [default: 1]")
@click.option("--language", help="A code, column (the manifest's), or detect.  [default: column]")
@click.option("--task", help="asr, st, kws, langid, speaker_ver ...: chorus tasks.  [default: asr]")
@click.option("--prompt", help="What the decoder is told before; the question of a speech LLM.")
# None and not False where it is not given: then the preset says it
@click.option("--timestamps", is_flag=True, default=None, help="Decode with Whisper's timestamps.")
@click.option("--segments", type=click.Choice(["auto", "vad", "native"]), help="How long audio is decoded.")
@click.option("--batch-size", type=click.IntRange(1), help="Utterances at once.  [default: 16]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of one hypothesis.  [default: as many as fit]")
@click.option(
    "--window", "--window-s", "window_s", type=click.IntRange(1, 30), multiple=True,
    help="Whisper: seconds that it is given of shorter utterances; may be repeated.  [default: 30]",
)  # fmt: skip
@click.option("--labels", type=click.Choice(["both", "free"]), help="Tasks of labels: how likely each is too, or not.")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16", "int8"]), help="[default: float32]")
@normaliser_flag("raw, basic, english, marks, arabic[:OPTIONS].  [default: marks]", default="marks")
@click.option("--unit", type=click.Choice(["words", "characters"]), help="What is counted.  [default: by language]")
@click.option("--condition", multiple=True, help="noise:10db, telephone, reverb:0.4, codec:opus ...; may be repeated.")
@click.option("--only-conditions", is_flag=True, help="Leave out the clean recordings.")
@click.option("--by", multiple=True, type=click.Choice(["domain", "language", "speaker"]), help="Tables by a column.")
@click.option("--worst", type=click.IntRange(1), metavar="N", help="Show the alignments of the N worst utterances.")
@click.option("--confusion", metavar="DIR", help="Tasks of labels: show what was answered with what, draw it there.")
@click.option("--parquet", is_flag=True, help="Write rows as Parquet instead of JSON lines.")
@click.option("--skip-bad", is_flag=True, help="Leave out recordings that cannot be read, and count them.")
@pickle_flag
@overwrite_flag("Replace what is at the output.")
@json_flag("Print the summaries as JSON.")
@quiet_flag()
def command(models: tuple[str, ...], **flags: Any) -> None:
    """Transcribe recordings with each MODEL and count the errors.

    A MODEL is a directory, hub id, base+adapter, recipe.yml, what was converted for another runtime, or a finished
    evaluation.

    \b
    chorus evaluate openai/whisper-small specialists/radio merge.yml --data speech/manifest.csv
    chorus evaluate mine=merged --data test.csv --condition noise:10db --condition telephone
    """
    from chorus.evaluate.results import SUMMARY, read_evaluation

    # told by its summary: a directory of the same name may be a model
    finished = [m for m in models if (Path(m) / SUMMARY).exists()]
    if finished and (flags["data"] or len(finished) < len(models)):
        raise UsageError(f"{finished[0]} is a finished evaluation", "name models with --data, or evaluations without")
    if not finished and not flags["data"]:
        raise UsageError("no recordings", "--data MANIFEST")
    if finished:
        _refuse_unused(finished[0])
    # the same tables again without a model: --by, --worst and --json of what is there
    evaluations = [read_evaluation(m) for m in finished] or _evaluate(models, flags)
    # refused before anything is shown, where answers are no labels
    found = _confusions(evaluations, Path(flags["confusion"])) if flags["confusion"] else []
    if flags["json_"]:
        more = [{"confusion": asdict(one)} for one in found] or [{}] * len(evaluations)
        as_json([{"directory": str(e.directory), **e.summary, **m} for e, m in zip(evaluations, more, strict=True)])
        return
    _print(evaluations, found, flags)


def _refuse_unused(finished: str) -> None:
    """Of a finished evaluation nothing can be asked but how it is shown: a flag that changed nothing would mislead."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is ParameterSource.COMMANDLINE and parameter.name not in ("models", *SHOWING):
            raise UsageError(
                f"{parameter.opts[0]} has no effect: {finished} is a finished evaluation",
                "give the model with --data again (another normaliser decodes nothing anew), or only "
                "--by, --worst, --json",
            )


def _evaluate(models: tuple[str, ...], flags: dict[str, Any]) -> list[Evaluation]:
    from chorus.evaluate.run import evaluate
    from chorus.transcribe.decoding import decoding
    from chorus.transcribe.systems import folder_of, unique_labels
    from chorus.transcribe.test_sets import load_test_set

    names = (
        "beam", "language", "task", "prompt", "timestamps", "segments", "batch_size", "max_new_tokens", "window_s",
        "dtype", "labels",
    )  # fmt: skip
    # `or None`: an option that may be repeated and is not given is an empty tuple
    settings = decoding(flags["preset"], {name: flags[name] or None for name in names})
    test = load_test_set(
        flags["data"], split=flags["split"], where=conditions_on(flags["where"]),
        columns=mapping(flags["columns"]), audio_dir=flags["audio_dir"], limit=flags["limit"],
        skip_bad=flags["skip_bad"], task=settings.task,
    )  # fmt: skip
    for reason, left in test.left_out.items():
        note(f"left out: {len(left)} {reason}", quiet=flags["quiet"])
    # all of them before the first is decoded: a mistake in the last costs no hour
    systems = told_apart(models, [opened(m, allow_pickle=flags["allow_pickle"]) for m in models])
    # before the first recording: two models under one label would write into one folder
    unique_labels(systems)
    # clean unless it is left out: what a condition costs is told against it
    conditions = [*([] if flags["only_conditions"] else ["clean"]), *flags["condition"]]
    if not conditions:
        raise UsageError("--only-conditions without a --condition", "name one")
    made = []
    for system in systems:
        with shown(quiet=flags["quiet"], label=system.label, unit="utterances") as bar:
            made.append(
                evaluate(
                    system, test, Path(flags["out"]) / folder_of(system.label), decoding=settings,
                    conditions=conditions, normaliser=flags["normaliser"], unit=flags["unit"],
                    backend=flags["backend"], device=flags["device"], overwrite=flags["overwrite"],
                    parquet=flags["parquet"], progress=bar,
                )
            )  # fmt: skip
        failed = made[-1].summary["all"]["failed"]
        if failed:
            # even with --quiet: a rate with failed decodes in it is not what it seems to be
            note(f"WARNING: {system.label}: {failed} decodes failed; they count as empty hypotheses")
        cut = made[-1].summary["all"]["cut"]
        if cut:
            limit = f"--max-new-tokens {settings.max_new_tokens}" if settings.max_new_tokens else "the model's own"
            note(f"WARNING: {system.label}: {cut} transcripts were cut at the limit of new tokens ({limit})")
    return made


def conditions_on(pairs: Sequence[str]) -> dict[str, list[str]]:
    """`speaker=ana`, `speaker=rui` as {speaker: [ana, rui]}."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        column, equals, value = pair.partition("=")
        if not equals or not column:
            raise UsageError(f"--where {pair}: write COLUMN=VALUE, as in speaker=ana")
        found.setdefault(column, []).append(value)
    return found


def opened(text: str, *, allow_pickle: bool) -> System:
    """`[NAME=]MODEL` as a system."""
    from chorus.checkpoints.model import OpenOptions
    from chorus.transcribe.systems import open_system

    label, name = labelled(text)
    return open_system(name, label=label, options=OpenOptions(allow_pickle=allow_pickle))


def told_apart(texts: Sequence[str], systems: Sequence[System]) -> list[System]:
    """Systems that nobody has named, and that would be called alike, under as much of their paths as it takes."""
    from chorus.checkpoints.open import reference_to
    from chorus.checkpoints.reference import labelled as by_path

    taken = Counter(system.label for system in systems)
    names = [one.name for one in by_path([reference_to(labelled(text)[1]) for text in texts])]
    free = [taken[s.label] > 1 and not labelled(text)[0] for text, s in zip(texts, systems, strict=True)]
    return [replace(s, label=name) if change else s for s, name, change in zip(systems, names, free, strict=True)]


def labelled(text: str) -> tuple[str, str]:
    """`[NAME=]MODEL` in two."""
    label, equals, name = text.partition("=")
    # a path may hold a = of its own
    return ("", text) if not equals or Path(text).exists() else (label, name)


def _print(evaluations: list[Evaluation], confusions: Sequence[Confusion], flags: dict[str, Any]) -> None:
    from chorus.evaluate import describe
    from chorus.evaluate.confusion import as_table

    groups = flags["by"] or ("domain",)
    shown_before = False
    for part in describe.by_task(evaluations):
        for made in (
            describe.main_table(part), describe.condition_table(part), describe.metrics_table(part),
            *(describe.group_table(part, column) for column in groups),
        ):  # fmt: skip
            if made is not None:
                if shown_before:
                    click.echo()
                table(made)
                shown_before = True
    if flags["worst"]:
        for one in evaluations:
            click.echo(f"\n{one.label}: the worst utterances\n")
            click.echo(printable("\n".join(describe.worst(one, flags["worst"]))))
    for one, found in zip(evaluations, confusions, strict=False):
        click.echo()
        table(as_table(found, one.label))
    every = evaluations[0].summary["all"]
    note(describe.clusters_note(every), quiet=flags["quiet"])
    if every["empty_references"]:
        told = f"{every['empty_references']} references are empty after normalisation"
        note(f"{told}: what is decoded there counts as insertions", quiet=flags["quiet"])
    for told in describe.unit_notes(evaluations[0]):
        note(f"WARNING: {told}", quiet=flags["quiet"])
    for one in evaluations:
        note(f"results: {one.directory}", quiet=flags["quiet"])
    if len(evaluations) > 1 and len(describe.by_task(evaluations)) == 1:
        named = shlex.join(str(one.directory) for one in evaluations)
        note(f"next: chorus compare {named}", quiet=flags["quiet"])


def _confusions(evaluations: Sequence[Evaluation], place: Path) -> list[Confusion]:
    """What was answered with what, drawn into a directory."""
    from chorus.evaluate.confusion import confusion
    from chorus.report import plots
    from chorus.transcribe.systems import folder_of

    every = [confusion(one) for one in evaluations]
    place.mkdir(parents=True, exist_ok=True)
    for one, found in zip(evaluations, every, strict=True):
        stem = place / f"confusion-{folder_of(one.label)}"
        for path in plots.confusion(found.labels, found.answers, found.shares(), stem, title=one.label):
            note(str(path))
    return every
