"""Files that appear whole: written beside their place, with their digest, and renamed at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from chorus.checkpoints.output_place import PARTIAL
from chorus.checkpoints.writer import explained
from chorus.errors import OutputError
from chorus.export.values import Array
from chorus.files import present, shown
from chorus.identity import digest
from chorus.sizes import size


class Sink:
    """A new file that is written from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self.path, self._found = path, digest()
        with explained(path):
            self._file = path.open("xb")

    def write(self, data: bytes | Array) -> None:
        plain = data if isinstance(data, bytes) else np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
        view = memoryview(plain)
        with explained(self.path):
            self._file.write(view)
        self._found.update(view)

    @property
    def digest(self) -> str:
        """XXH3-128 of what was written."""
        return self._found.hexdigest()

    def __enter__(self) -> Sink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        with explained(self.path):
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()


@contextmanager
def appearing(
    places: Mapping[str, Path], ours: Callable[[Path], bool], *, overwrite: bool
) -> Iterator[dict[str, Path]]:
    """Places to write files to, each renamed to its own at the end; all go where the work fails.

    `ours` tells whether a file that is there may be replaced: `--overwrite` takes nobody else's.
    """
    for final in places.values():
        if final.is_symlink() or (present(final) and not final.is_file()):
            raise OutputError(f"{shown(final)}: a link or no file is in the way", "choose another name")
        if present(final) and not overwrite:
            raise OutputError(f"{shown(final)}: exists", "choose another name, or pass --overwrite")
        if present(final) and not ours(final):
            raise OutputError(
                f"{shown(final)}: no file of this format, so that --overwrite leaves it", "choose another name"
            )
    drafts = {kind: final.with_name(final.name + PARTIAL) for kind, final in places.items()}
    for draft in drafts.values():
        with explained(draft):
            draft.parent.mkdir(parents=True, exist_ok=True)
            draft.unlink(missing_ok=True)
    try:
        yield drafts
        # one after the other: a failure between two leaves whole files, each with its own name
        for kind, final in places.items():
            with explained(final):
                os.replace(drafts[kind], final)
    finally:
        for draft in drafts.values():
            draft.unlink(missing_ok=True)


def check_room(folder: Path, needed: int) -> None:
    """`OutputError` before the first byte where the disk has less room than the result needs."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(f"{folder}: the result needs {size(needed)}, the disk has {size(free)} free", "make room")
