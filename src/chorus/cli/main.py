"""`chorus`: a group whose commands are imported when they are called, and the only place that ends the process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from chorus._version import __version__
from chorus.errors import ChorusError, UsageError, nearest
from chorus.files import printable, shown

# what each is for is said here and not read from the command: `chorus --help` imports none of them
SECTIONS = {  # in the order of the line: name -> (module, what it is for)
    "Data and training": {
        "data": ("chorus.cli.data", "Manifests: make, check, split, describe; synthetic speech."),
        "train": ("chorus.cli.train", "Fine-tune a model into a specialist, or one for each domain."),
    },
    "Merging": {
        "merge": ("chorus.cli.merge", "Merge models by a recipe into a model directory."),
        "plan": ("chorus.cli.plan", "Show what a recipe would do, without reading a weight."),
        "continual": ("chorus.cli.continual", "Add one more model to a merge made earlier."),
        "calibrate": ("chorus.cli.calibrate", "Learn a merge's weights by layer on labelled rows."),
        "methods": ("chorus.cli.methods", "List the merge methods, or explain one."),
        "extract": ("chorus.cli.extract", "Take an adapter or a task vector out of a fine-tune."),
        "apply": ("chorus.cli.apply", "Add adapters or task vectors to a model, at a weight."),
        "extract-whisper-lora": ("chorus.cli.extract_whisper", "extract lora, with the flags of the Whisper guide."),
    },
    "Evaluation": {
        "evaluate": ("chorus.cli.evaluate", "Error rates of models, adapters and recipes on recordings."),
        "compare": ("chorus.cli.compare", "Base, specialists, joint and merges in one table."),
        "analyse": ("chorus.cli.analyse", "What models have learnt, how they interfere, what a merge keeps."),
        "gate": ("chorus.cli.gate", "Exit 1 where an evaluation is not good enough."),
        "tasks": ("chorus.cli.tasks", "List the tasks that models are trained on and evaluated by."),
    },
    "Shipping": {
        "transcribe": ("chorus.cli.transcribe", "Write down what is said in recordings."),
        "export": ("chorus.cli.export", "Write a model in the form of another runtime."),
        "verify": ("chorus.cli.verify", "Hold an export against the model that it was made of."),
        "import": ("chorus.cli.import_model", "Make a model directory of a file of another runtime."),
    },
    "The whole line": {
        "experiment": ("chorus.cli.experiment", "From one file: train, merge, choose on dev, test, report."),
    },
    "Tools": {
        "cache": ("chorus.cli.cache", "Show or clear the cache of spectra, bases and features."),
        "doctor": ("chorus.cli.doctor", "Show versions, devices, extras and caches."),
        "completion": ("chorus.cli.completion", "Print the shell completion script."),
    },
}
COMMANDS = {name: module for section in SECTIONS.values() for name, (module, _) in section.items()}


class LazyGroup(click.Group):
    """Knows its commands by name and purpose; imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(COMMANDS[cmd_name]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            # click names what may have been meant in its newest versions alone, and 8.1 is enough here
            raise click.UsageError(f'no command "{args[0]}"{nearest(args[0], COMMANDS)}', ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))  # of the first column, the same in every section
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), purpose) for name, (_, purpose) in commands.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="chorus")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def cli(debug: bool) -> None:
    """One speech or language model out of many fine-tuned ones: merged, measured, shipped."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and leave with its exit code (see docs/cli.md)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # looked for by hand: click knows a group's flag only before the command's name, and people add it at the end
    debug = "--debug" in given or os.environ.get("CHORUS_DEBUG") == "1"
    sys.exit(run([a for a in given if a != "--debug"], debug=debug))


def run(arguments: list[str], *, debug: bool = False) -> int:
    """The exit code of a command line; nothing but `--debug` shows a traceback."""
    try:
        if any("\0" in argument for argument in arguments):  # from Python: no shell could pass it
            raise UsageError("an argument holds a NUL, which no name may")
        if "_CHORUS_COMPLETE" in os.environ:  # the shell asks what may follow; click answers and leaves
            cli.main(arguments, prog_name="chorus")  # the name decides the name of the variable
        # not cli.main, which prints errors in click's form and ends the process itself
        with cli.make_context("chorus", arguments) as context:
            cli.invoke(context)
        sys.stdout.flush()  # here, where a broken pipe still has its handler
        return 0
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        return 130  # the shell's number for SIGINT
    except BrokenPipeError:  # the reader of our output has gone: `chorus plan ... | head`
        # Python flushes stdout once more when it ends, and would complain there where nothing catches it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except click.UsageError as error:
        if debug:
            raise
        where = error.ctx.command_path if error.ctx else "chorus"
        _tell(error.format_message(), f"{where} --help")
        return 2
    except ChorusError as error:
        if debug:
            raise
        _tell(error.message, error.hint)
        return error.exit_code
    # what the system says of a file is a fact about the file, wherever it was met
    except OSError as error:
        if debug or not error.filename:
            return _fault(error, debug=debug)
        _tell(f"{shown(error.filename)}: {error.strerror}", "check this file and the folders that it is in")
        return 4
    except MemoryError:
        if debug:
            raise
        _tell("out of memory", "use a smaller --memory-budget or fewer --jobs")
        return 4
    # whatever is left is ours: never a traceback for a user, who cannot read it, unless it is asked for
    except Exception as error:
        return _fault(error, debug=debug)


def _tell(message: str, hint: str) -> None:
    """An error for people. Names in it come from files: nothing in them may steer the terminal."""
    click.echo(f"error: {printable(message)}", err=True)
    if hint:
        click.echo(f"  hint: {printable(hint)}", err=True)


def _fault(error: Exception, *, debug: bool) -> int:
    if debug:
        raise error
    _tell(
        f"{type(error).__name__}: {error}",
        "this is a fault of Chorus; please report it with the output of the same command and --debug",
    )
    return 4
