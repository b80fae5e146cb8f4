"""Where a result may not go: onto what it is made from, around it, or where no directory can be made."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from chorus.checkpoints.lineage import PROVENANCE
from chorus.errors import CheckpointError, OutputError, UsageError
from chorus.files import expanded, read_json, shown

ANOTHER = "choose another directory"
PARTIAL, REPLACED = ".partial", ".replaced"
CONTENTS = "contents"  # the key of a result's facts that lists its files
BESIDE = (PARTIAL, REPLACED)  # what the writer clears beside an output is as lost as what is in it


def place_of(output: Path) -> Path:
    """Where an output directory is to be, the last link resolved; `UsageError`, before any work, where none can be."""
    place = _real(output)
    # not Path.home, which fails for a user whom the system does not know
    homes = (Path.cwd(), _real(expanded("~")))
    if any(place in (home, *home.parents) for home in homes):
        raise UsageError(f"{output}: the working directory or your home, or around one of them", ANOTHER)
    try:
        # those beside it have longer names
        for path in (place, *(place.with_name(place.name + ending) for ending in BESIDE)):
            _exists(path)
    except OSError as error:
        raise UsageError(f"{shown(output)}: {error.strerror}", ANOTHER) from None
    plain = output.name not in ("", "..") and not output.is_symlink()
    return output if plain else place


def _real(output: Path) -> Path:
    try:
        return Path(os.path.realpath(output))  # not Path.resolve, which fails on a link to itself
    except ValueError:
        raise UsageError(f"{shown(output)}: no name of a directory", ANOTHER) from None


def _exists(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return False
    return True


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """`UsageError` where an output directory is one of the inputs, or holds one: `--overwrite` would take it away.

    Inputs are files and directories, as they are named and as links resolve.
    """
    place = _real(output)
    places = [output, *(place.with_name(place.name + ending) for ending in BESIDE if place.name)]
    for found in dict.fromkeys(inputs):
        for place in places:
            if _holds(place, found):
                what = "is one of the inputs" if _same(place, found) else f"holds an input, {found}"
                raise UsageError(f"{place}: {what}, which the result would replace", ANOTHER)


def refuse_foreign(place: Path, parts: Sequence[str] = ()) -> None:
    """`OutputError` where a directory holds anything and is no result of ours: `--overwrite` replaces those alone.

    Each of ours has its facts in it, or in every one of its `parts`. Whoever runs as root may name any directory. What
    somebody has put into one of ours is as lost: files that its facts do not list, but for exports of it.
    """
    found = [] if not place.exists() else sorted(path.name for path in place.iterdir())
    ours = PROVENANCE in found or all(name in parts and (place / name / PROVENANCE).is_file() for name in found)
    if not ours:
        more = f" and {len(found) - 1:,} more" if found[1:] else ""
        raise OutputError(
            f"{place}: no result of Chorus ({shown(found[0])}{more} in it, no {PROVENANCE})",
            f"--overwrite replaces results alone: {ANOTHER}, or take away what is there",
        )
    if strange := [path for one in _results(place) for path in _unlisted(one)]:
        more = f" and {len(strange) - 1:,} more files" if strange[1:] else ""
        raise OutputError(
            f"{place}: {shown(str(strange[0].relative_to(place)))}{more} in it, which Chorus did not write there",
            f"--overwrite would take it away: {ANOTHER}, or put it elsewhere",
        )


def list_contents(place: Path) -> None:
    """Name a result's files in its facts, where these do not yet: what is put there later is known by it."""
    for result in _results(place):
        facts = read_json(result / PROVENANCE)
        if CONTENTS not in facts:
            names = sorted(path.relative_to(result).as_posix() for path in _files(result))
            told = json.dumps({**facts, CONTENTS: names}, indent=2, ensure_ascii=False)
            (result / PROVENANCE).write_text(told + "\n", encoding="utf-8")


def _results(place: Path) -> list[Path]:
    """A directory with facts in it, or those of its parts that have some."""
    if (place / PROVENANCE).is_file():
        return [place]
    return [path.parent for path in sorted(place.glob(f"*/{PROVENANCE}"))] if place.is_dir() else []


def _unlisted(result: Path) -> list[Path]:
    """Files in a result that its facts do not list; none where they list nothing, as those of older versions."""
    listed = read_json(result / PROVENANCE).get(CONTENTS)
    if not isinstance(listed, list | dict):
        return []
    return [path for path in _files(result) if path.relative_to(result).as_posix() not in listed and not _made(path)]


def _files(result: Path) -> list[Path]:
    return [path for path in sorted(result.rglob("*")) if path.name != PROVENANCE and not path.is_dir()]


def _made(path: Path) -> bool:
    """Whether this is an export in a model's folder, or the facts beside one: those can be made again."""
    sidecar = path if path.suffix == ".json" else path.with_name(f"{path.name}.json")
    try:
        return sidecar.is_file() and {"chorus", "format", "checks"} <= set(read_json(sidecar))
    except CheckpointError:  # somebody's own, and nothing of ours
        return False


def _holds(place: Path, found: Path) -> bool:
    """Whether a path is this place, or lies in it, by whatever name."""
    # both: a link in the output's own folder is lost with it, and so is what a link elsewhere leads into it
    return any(_same(place, one) for path in (found.absolute(), _real(found)) for one in (path, *path.parents))


def _same(one: Path, other: Path) -> bool:
    # by the file system's word where both are there: links, bind mounts, and names that differ in case alone
    try:
        return one.samefile(other)
    except OSError:
        return _real(one) == _real(other)
