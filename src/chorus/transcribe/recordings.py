"""What is to be heard: files, folders, standard input; and what the transcript of each is called."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from chorus.data.audio import SUFFIXES
from chorus.data.containers import SUFFIXES as CONTAINERS
from chorus.errors import DataError, UsageError
from chorus.files import expanded, shown

AUDIO = (*SUFFIXES, *CONTAINERS)
STDIN, STDIN_NAME = "-", "stdin"
BLOCK = 1 << 20  # bytes that are read at once
MOST_BYTES = 2_000_000_000  # of standard input: two hours of 16-bit stereo at 96 kHz are not more


@dataclass(frozen=True)
class Recording:
    """A file and what it is called where people read of it."""

    name: str
    path: Path


def recordings(given: Sequence[str | Path]) -> list[Recording]:
    """Files as they are named, and of folders every file below that is called as audio is; each file once.

    `UsageError` where a folder has none. Whether a file is there, and is audio, is seen when it is read.
    """
    found: dict[str, Recording] = {}
    for one in given:
        path = expanded(one)
        for file in _below(path) if path.is_dir() else [path]:
            # by the way that leads to it, links resolved: a folder and a file in it may both be named
            found.setdefault(os.path.realpath(file), Recording(str(file), file))
    return list(found.values())


def _below(folder: Path) -> list[Path]:
    # sorted: a file system lists in an order of its own
    found = sorted(p for p in folder.rglob("*") if is_audio(p) and p.is_file())
    if not found:
        raise UsageError(
            f"{shown(folder)}: no recordings below it", f"what ends in {', '.join(AUDIO)} is taken for one"
        )
    return found


def is_audio(path: Path) -> bool:
    """Whether a file is called as audio is."""
    return path.suffix.lower() in AUDIO and not path.name.startswith(".")


@contextmanager
def with_stdin(given: Sequence[str], stream: Callable[[], BinaryIO]) -> Iterator[list[Recording]]:
    """The recordings; `-` is what the stream has, kept in a file for as long as it is needed."""
    if given.count(STDIN) > 1:
        raise UsageError("standard input is named twice", "give - once")
    if STDIN not in given:
        yield recordings(given)
        return
    with tempfile.TemporaryDirectory(prefix="chorus-") as folder:
        kept = Path(folder) / STDIN_NAME
        _keep(stream(), kept)
        at = given.index(STDIN)
        yield [*recordings(given[:at]), Recording(STDIN_NAME, kept), *recordings(given[at + 1 :])]


def _keep(stream: BinaryIO, place: Path) -> None:
    with place.open("wb") as file:
        left = MOST_BYTES
        while left > 0 and (data := stream.read(min(left, BLOCK))):
            file.write(data)
            left -= len(data)
        if left <= 0 and stream.read(1):
            raise DataError(
                f"standard input: more than {MOST_BYTES:,} bytes, the limit", "give it as a file, or in parts"
            )
        if left == MOST_BYTES:
            raise DataError("standard input: nothing in it", "pipe a recording in")


def stems(found: Sequence[Recording]) -> list[str]:
    """What the transcript of each is called, without its ending: as its recording, as `whisper` has it.

    Of recordings that would be called alike the ending stays, or the folder goes before it, or they are numbered.

    >>> stems([Recording("", Path(p)) for p in ("a/x.wav", "b/y.mp3", "b/y.wav", "a/z.wav", "b/z.wav")])
    ['x', 'y.mp3', 'y.wav', 'a-z.wav', 'b-z.wav']
    """
    ways: list[Callable[[Path], str]] = [
        lambda path: path.stem, lambda path: path.name, lambda path: f"{path.absolute().parent.name}-{path.name}"
    ]  # fmt: skip
    names = [ways[0](one.path) for one in found]
    # only where it is needed: `talk.srt` is what people and players look for beside `talk.mp3`
    for way in ways[1:]:
        alike = _alike(names)
        names = [way(one.path) if name.casefold() in alike else name for one, name in zip(found, names, strict=True)]
    taken: set[str] = set()
    numbered = []
    for name in names:
        count, free = 1, name
        while free.casefold() in taken:
            count += 1
            free = f"{name}-{count}"
        taken.add(free.casefold())
        numbered.append(free)
    return numbered


def _alike(names: Sequence[str]) -> set[str]:
    # on some disks names that differ in case alone are one
    return {name for name, count in Counter(name.casefold() for name in names).items() if count > 1}
