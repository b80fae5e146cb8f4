"""Where a result may not go: onto what it is made from, or around it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from chorus.errors import UsageError

BESIDE = (".partial", ".replaced")  # what the writer clears beside an output is as lost as what is in it


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """`UsageError` where an output directory is one of the inputs, or holds one: `--overwrite` would take it away.

    Inputs are files and directories, as they are named and as links resolve.
    """
    places = [output, *(output.with_name(output.name + ending) for ending in BESIDE if output.name)]
    for found in dict.fromkeys(inputs):
        for place in places:
            if _holds(place, found):
                what = "is one of the inputs" if _same(place, found) else f"holds an input, {found}"
                raise UsageError(f"{place}: {what}, which the result would replace", "choose another directory")


def _holds(place: Path, found: Path) -> bool:
    """Whether a path is this place, or lies in it, by whatever name."""
    # both: a link in the output's own folder is lost with it, and so is what a link elsewhere leads into it
    return any(_same(place, one) for path in (found.absolute(), found.resolve()) for one in (path, *path.parents))


def _same(one: Path, other: Path) -> bool:
    # by the file system's word where both are there: links, bind mounts, and names that differ in case alone
    try:
        return one.samefile(other)
    except OSError:
        return one.resolve() == other.resolve()
