"""Flags that several commands have: the same words for the same thing, wherever they stand."""

from __future__ import annotations

from collections import defaultdict
from importlib import import_module

import click

from chorus.cli.main import COMMANDS

SHARED = ("--json", "--quiet", "--overwrite", "--device", "--offline", "--allow-pickle", "--jobs", "--columns")


def options_by_flag():
    """Flag -> the options of all commands that have it, groups' commands too."""
    found = defaultdict(list)
    commands = [import_module(module).command for module in COMMANDS.values()]
    commands += [inner for one in commands if isinstance(one, click.Group) for inner in one.commands.values()]
    for command in commands:
        for option in command.params:
            for flag in option.opts:
                found[flag].append(option)
    return len(commands), found


def test_a_shared_flag_is_one_thing():
    count, found = options_by_flag()
    assert count == 39
    assert {flag: len(found[flag]) for flag in SHARED if len(found[flag]) < 2} == {}
    for flag in SHARED:
        assert len({(o.name, type(o.type), o.is_flag, o.multiple) for o in found[flag]}) == 1, flag
    assert len({o.help.split("  [")[0] for o in found["--device"]}) == 1
    assert {o.name for o in found["--json"]} == {"json_"}
    assert len(found["--json"]) > 10


def test_every_flag_says_what_it_does():
    _, found = options_by_flag()
    assert len(found) > 100
    assert [
        f for f, options in found.items() if f.startswith("--") for o in options if not o.help and not o.hidden
    ] == []


def test_what_must_be_given_stands_first_in_the_help_of_extract():
    command = import_module("chorus.cli.extract").command
    for one in command.commands.values():
        assert [o.name for o in one.params[:3]] == ["model", "base", "out"]
        assert [o.name for o in one.params if o.required] == ["model", "base", "out"]
