"""`chorus completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    eval "$(chorus completion bash)"      # in ~/.bashrc
    eval "$(chorus completion zsh)"       # in ~/.zshrc
    chorus completion fish > ~/.config/fish/completions/chorus.fish
    """
    from chorus.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "chorus", "_CHORUS_COMPLETE").source())  # click derives the same name when it answers
