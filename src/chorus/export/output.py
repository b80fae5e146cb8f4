"""Files that appear whole: written beside their place, with their digest, and renamed at the end."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from chorus.checkpoints.output_place import PARTIAL
from chorus.checkpoints.writer import explained
from chorus.errors import OutputError
from chorus.export.values import Array
from chorus.files import present, shown
from chorus.identity import digest
from chorus.sizes import size


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is not there yet, on the disk when it is left: the name that it gets must not outlive its content."""
    with explained(path):
        file = path.open("x+b")
    try:
        with suppress(OSError):  # a file system that cannot lock: go without
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        yield file
        with explained(path):
            file.flush()
            os.fsync(file.fileno())
    finally:
        with explained(path):
            file.close()


def write_bytes(file: BinaryIO, path: Path, data: bytes | Array) -> memoryview:
    """Write all of them, an array's as they lie in memory; `path` is what a message calls the file."""
    plain = data if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    view = memoryview(plain)
    with explained(path):
        file.write(view)
    return view


class Sink:
    """A new file that is written from its beginning to its end, with its digest."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path, self._file, self._found = path, file, digest()

    def write(self, data: bytes | Array) -> None:
        self._found.update(write_bytes(self._file, self.path, data))

    @property
    def digest(self) -> str:
        """XXH3-128 of what was written."""
        return self._found.hexdigest()


@contextmanager
def appearing(finals: Sequence[Path], ours: Callable[[Path], bool], *, overwrite: bool) -> Iterator[dict[Path, Path]]:
    """Place -> where to write its file, each renamed at the end in their order; all go where the work fails.

    `ours` tells whether a file that is there may be replaced: `--overwrite` takes nobody else's.
    """
    for final in reversed(finals):  # the last is what was asked for
        if final.is_symlink() or (present(final) and not final.is_file()):
            raise OutputError(f"{shown(final)}: a link or no file is in the way", "choose another name")
        if present(final) and not overwrite:
            raise OutputError(f"{shown(final)}: exists", "choose another name, or pass --overwrite")
        if present(final) and not ours(final):
            raise OutputError(
                f"{shown(final)}: no file of this format, so that --overwrite leaves it", "choose another name"
            )
    drafts = {final: final.with_name(final.name + PARTIAL) for final in finals}
    for draft in drafts.values():
        with explained(draft):
            draft.parent.mkdir(parents=True, exist_ok=True)
            _take_away(draft)
    try:
        yield drafts
        # one after the other: a failure between two leaves whole files, each with its own name
        for final, draft in drafts.items():
            with explained(final):
                os.replace(draft, final)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def _take_away(draft: Path) -> None:
    """What a killed command left of a file; what another one writes stays."""
    if not present(draft):
        return
    if draft.is_symlink() or not draft.is_file():
        raise OutputError(f"{shown(draft)}: is in the way, and is no unfinished file", "take it away")
    with draft.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(
                f"{shown(draft)}: another command is writing it", "wait for it, or choose another name"
            ) from None
        except OSError:  # a file system that cannot lock: go without
            pass
        draft.unlink(missing_ok=True)


def check_room(folder: Path, needed: int) -> None:
    """`OutputError` before the first byte where the disk has less room than the result needs."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"{folder}: the result needs {size(needed)}, the disk has {size(free)} free", "make room")
