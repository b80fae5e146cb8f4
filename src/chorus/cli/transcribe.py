"""`chorus transcribe`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from chorus.cli.flags import device_flag, json_flag, offline_flag, overwrite_flag, pickle_flag, quiet_flag
from chorus.cli.output import as_json, note, table
from chorus.cli.whisper_flags import OrNone, given_to_whisper, whisper_flags
from chorus.errors import ChorusError, UsageError
from chorus.files import printable
from chorus.files import shown as named
from chorus.progress import shown

if TYPE_CHECKING:
    from chorus.transcribe.listening import Listener, Transcription
    from chorus.transcribe.recordings import Recording
    from chorus.transcribe.writing import Writing

Flags = dict[str, Any]  # by the names of click's options
RULE = (
    "with --model all other names are recordings; else a recording is -, a file called as audio is, a folder that is "
    "no model's, or another file that is no model's; all else is a model"
)
EVERY = "all"
LAYOUT = ("max_line_width", "max_line_count", "max_words_per_line", "highlight_words")  # in the order of Subtitles


@click.command("transcribe")
@click.argument("names", nargs=-1, required=True, metavar="[MODEL...] AUDIO...")
@click.option(
    "--model", "models", multiple=True, metavar="MODEL", help="All names are recordings then; may be repeated."
)
@click.option(
    "-f", "--format", "--output-format", "--output_format", "form", default="txt", metavar="FORMAT,...",
    help="txt, srt, vtt, tsv, json, or all.  [default: txt]",
)  # fmt: skip
@click.option(
    "-o", "--out", "--output-dir", "--output_dir", "out", type=click.Path(), metavar="DIR",
    help="A file a recording goes here.  [default: standard output]",
)  # fmt: skip
@click.option(
    "--backend", default="auto", help="transformers, faster-whisper, openai-whisper ...  [default: as the model is]"
)
@device_flag("auto")
@click.option("--language", help="A code or a name.  [default: detect]")
@click.option("--task", help="asr (transcribe), or st (translate).  [default: asr]")
@click.option(
    "--timestamps/--no-timestamps", default=None, help="Whisper's own.  [default: where the format needs times]"
)
@click.option("--words", "--word-timestamps", is_flag=True, help="When each word was said.")
@click.option("--beam", "--beam-size", "--beam_size", type=OrNone(1), help="Beams.  [default: 1]")
@click.option("--prompt", "--initial-prompt", "--initial_prompt", help="What the decoder is told before.")
@click.option("--segments", type=click.Choice(["auto", "vad", "native"]), help="How long audio is decoded.")
@click.option("--batch-size", type=click.IntRange(1), help="Recordings at once.  [default: 16]")
@click.option("--max-new-tokens", type=click.IntRange(1), help="Of one window.  [default: as many as fit]")
@click.option("--dtype", type=click.Choice(["float32", "float16", "bfloat16", "int8"]), help="[default: float32]")
@click.option("--max-line-width", "--max_line_width", type=OrNone(1), help="Letters of a line, with --words.")
@click.option("--max-line-count", "--max_line_count", type=OrNone(1), help="Lines of a subtitle, with --words.")
@click.option("--max-words-per-line", "--max_words_per_line", type=OrNone(1), help="With --words.")
@click.option("--highlight-words", is_flag=True, help="Underline each word as it is said, with --words.")
@whisper_flags
@overwrite_flag("Replace transcripts that are there.")
@pickle_flag
@offline_flag
@json_flag("The same as --format json.")
@quiet_flag()
def command(names: tuple[str, ...], models: tuple[str, ...], **flags: Any) -> None:
    """Write down what is said in recordings, as each MODEL hears it.

    A MODEL is whatever evaluate takes (a directory, hub id, base+adapter, recipe.yml, a converted model), or one of
    openai-whisper's names. AUDIO is a file of any kind, a folder (what is called as audio is, below it), or - for
    standard input.

    With --model all other names are recordings. Else a recording is -, a file called as audio is, a folder that is no
    model's, or another file that is no model's; all else is a model. Several models are shown side by side, their
    differences marked.

    \b
    chorus transcribe merged talk.mp3
    chorus transcribe merged talks/ --format srt,vtt -o subtitles
    chorus transcribe base specialist merged talk.mp3
    chorus transcribe talk.mp3 --model large-v3 --language pt --output_format srt --output_dir .
    """
    from chorus.transcribe.recordings import STDIN, stems, with_stdin

    # first: it puts the values of whisper's flags where ours are
    told = given_to_whisper(flags)
    if told:
        note(told, quiet=flags["quiet"])
    chosen, audio = told_apart(names, models)
    forms = _forms("json" if flags["json_"] else flags["form"])
    _check(chosen, forms, flags)
    listeners = _listeners(chosen, forms, flags)
    # a terminal has no recording to give, and would look as if nothing happened
    if audio.count(STDIN) and sys.stdin.isatty():
        note("reading a recording from standard input", quiet=flags["quiet"])
    with with_stdin(audio, lambda: sys.stdin.buffer) as found:
        writing = _writing(listeners, stems(found), forms, flags)
        if writing is None and len(found) > 1 and forms[0] in ("srt", "vtt", "tsv"):
            raise UsageError(f"--format {forms[0]} of {len(found)} recordings on one standard output", "-o DIR")
        heard = {one.system.label: _hear(one, found, writing, forms, flags) for one in listeners}
    _show(heard, forms, writing, flags)
    _leave(heard)


def told_apart(names: Sequence[str], models: Sequence[str]) -> tuple[list[str], list[str]]:
    """(models, recordings) of a line; `UsageError` where either is missing."""
    from chorus.transcribe.naming import is_recording

    if models:
        return [*models], [*names]
    audio = [name for name in names if is_recording(name)]
    chosen = [name for name in names if name not in audio]
    for found, what in ((chosen, "model"), (audio, "recording")):
        if not found:
            raise UsageError(f"no {what} among {', '.join(map(printable, names))}", RULE)
    return chosen, audio


def _forms(text: str) -> list[str]:
    from chorus.errors import nearest
    from chorus.transcribe.formats import FORMATS

    forms = list(FORMATS) if text == EVERY else [part.strip().lower() for part in text.split(",")]
    for form in forms:
        if form not in FORMATS:
            raise UsageError(f'--format: unknown format "{form}"{nearest(form, [*FORMATS, EVERY])}')
    return list(dict.fromkeys(forms))


def _check(models: Sequence[str], forms: Sequence[str], flags: Flags) -> None:
    """What is wrong with the line whatever the recordings are."""
    if len(forms) > 1 and flags["out"] is None:
        raise UsageError(f"--format {','.join(forms)} on one standard output", "-o DIR")
    if len(models) > 1 and flags["out"] is None and forms[0] not in ("txt", "json"):
        raise UsageError(f"--format {forms[0]} of {len(models)} models on one standard output", "-o DIR")
    for name in LAYOUT:
        if flags[name] and not flags["words"]:
            raise UsageError(f"--{name.replace('_', '-')} without the times of words", "--words")


def _listeners(models: Sequence[str], forms: Sequence[str], flags: Flags) -> list[Listener]:
    """Every model, opened: a mistake in the last costs no hour of the others."""
    from chorus.checkpoints.model import OpenOptions
    from chorus.cli.evaluate import labelled
    from chorus.cli.evaluate import told_apart as apart
    from chorus.transcribe.api import listener_for
    from chorus.transcribe.decoding import decoding
    from chorus.transcribe.formats import TIMED
    from chorus.transcribe.naming import hub_name
    from chorus.transcribe.systems import open_system, unique_labels

    timed = any(form in TIMED for form in forms) or flags["words"]
    stamps = timed if flags["timestamps"] is None else flags["timestamps"]
    names = ("beam", "language", "task", "prompt", "segments", "batch_size", "max_new_tokens", "dtype")
    settings = decoding(settings={"timestamps": stamps, **{name: flags[name] for name in names}})
    options = OpenOptions(allow_pickle=flags["allow_pickle"], offline=flags["offline"])
    systems = []
    for text in models:
        label, name = labelled(text)
        systems.append(open_system(hub_name(name), label=label, options=options))
    systems = apart([hub_name(text) for text in models], systems)
    unique_labels(systems)
    return [
        listener_for(system, settings, words=flags["words"], backend=flags["backend"], device=flags["device"])
        for system in systems
    ]


def _writing(listeners: Sequence[Listener], names: Sequence[str], forms: Sequence[str], flags: Flags) -> Writing | None:
    """Where transcripts go; None for standard output. `OutputError` where they cannot, before anything is decoded."""
    from chorus.transcribe.formats import Subtitles
    from chorus.transcribe.writing import Writing

    if flags["out"] is None:
        return None
    layout = Subtitles(*(flags[name] for name in LAYOUT))
    made = Writing(Path(flags["out"]), names, forms, layout, overwrite=flags["overwrite"], several=len(listeners) > 1)
    for listener in listeners:
        made.check(listener.system.label)
    return made


def _hear(
    listener: Listener,
    found: Sequence[Recording],
    writing: Writing | None,
    forms: Sequence[str],
    flags: Flags,
) -> list[Transcription]:
    heard: list[Transcription] = []
    label = listener.system.label
    with shown(quiet=flags["quiet"], label=label, unit="recordings") as bar:
        for i, one in enumerate(listener.hear(found, bar)):
            heard.append(one)
            # even with --quiet: a file that is missing below must be told somewhere
            if one.failed:
                note(f"WARNING: {label}: {one.name}: {one.failed}")
            elif one.cut:
                note(f"WARNING: {label}: {one.name}: the text was cut at the limit of new tokens")
            if writing is not None and not one.failed:
                for place in writing.write(label, i, one):
                    bar.note(named(place))
    _note_language(listener, heard)
    return heard


def _note_language(listener: Listener, heard: Sequence[Transcription]) -> None:
    """That a language was asked for in vain."""
    from chorus.models.languages import language_code
    from chorus.transcribe.decoding import DETECT

    asked, told = language_code(listener.decoding.language), {one.language for one in heard if not one.failed}
    # a model for English alone tells English or nothing, and others no language at all
    if told and asked not in (DETECT, "en", *told):
        note(f"WARNING: {listener.system.label}: --language {asked} has no effect: it has no choice of languages")


def _show(heard: dict[str, list[Transcription]], forms: Sequence[str], writing: Writing | None, flags: Flags) -> None:
    """What goes to standard output: a table of several models, else what is not in files."""
    from chorus.transcribe.formats import FORMATS, Subtitles
    from chorus.transcribe.side_by_side import side_by_side

    several = len(heard) > 1
    if several and (writing is not None or forms[0] != "json"):
        table(side_by_side(heard))
        return
    if writing is not None:
        return
    layout = Subtitles(*(flags[name] for name in LAYOUT))
    every = [(label, one) for label, ones in heard.items() for one in ones]
    if forms[0] == "json" and len(every) > 1:
        as_json([{"model": label, **one.as_json()} for label, one in every])
        return
    for i, (_, one) in enumerate(every):
        if one.failed and forms[0] != "json":
            continue
        if len(every) > 1:  # texts of several, as `head` and `tail` show files
            click.echo(f"{chr(10) if i else ''}==> {printable(one.name)} <==")
        click.echo(printable(FORMATS[forms[0]](one, layout)), nl=False)


def _leave(heard: dict[str, list[Transcription]]) -> None:
    """Exit 1 where a recording failed and others did not; `ChorusError` where all did."""
    every = [one for ones in heard.values() for one in ones]
    failed = sum(bool(one.failed) for one in every)
    if failed == len(every):
        raise ChorusError("no recording could be transcribed", "see the reasons above")
    if failed:
        note(f"{failed} of {len(every)} transcripts failed")
        raise click.exceptions.Exit(1)
