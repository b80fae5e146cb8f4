"""Output by offset into a directory that gets its final name when it is whole."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, cast

from chorus.checkpoints.output_place import PARTIAL, REPLACED, list_contents, place_of, refuse_foreign
from chorus.errors import CheckpointError, OutputError
from chorus.files import present, read_text, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from typing_extensions import Buffer

WORK = ".chorus-work"  # a file of a directory that is not whole yet: what is being written there
AGAIN = "then run it again (a merge goes on with --resume)"


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into `OutputError`s that say what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OutputError(f"{path}: the disk is full", f"make room, {AGAIN}") from error
        if error.errno == errno.EFBIG:
            raise OutputError(
                f"{path}: larger than files may be here (disk quota or ulimit -f)",
                f"raise the limit, {AGAIN}; or use a smaller --max-shard-size, where there are shards",
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise OutputError(
                f"{path}: cannot be written (no permission)", "choose another output directory"
            ) from error
        if error.errno in (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP, errno.ENOENT):
            raise OutputError(f"{shown(path)}: {error.strerror}", "choose another output directory") from error
        raise OutputError(f"{path}: {error.strerror or error}", f"check the disk, {AGAIN}") from error


class PartialDirectory:
    """`DIR.partial`, locked while it is written, renamed to `DIR` at the end."""

    def __init__(
        self, final: Path, *, resume: bool, overwrite: bool, parts: Sequence[str] = (), work: str = ""
    ) -> None:
        """`parts` are the names of the directories that a result of several models has.

        `work` tells what is written: what a kill left of the same is begun again without being asked.
        """
        final = place_of(final)
        self.final, self.overwrite = final, overwrite
        self.path, self._aside = (final.with_name(final.name + ending) for ending in (PARTIAL, REPLACED))
        if final.exists() and not final.is_dir():
            raise OutputError(f"{final}: exists and is no directory", "choose another directory")
        if final.exists() and any(final.iterdir()) and not overwrite:
            raise OutputError(f"{final}: exists and is not empty", "choose another directory, or pass --overwrite")
        # a link would have another directory written to, and cleared
        for path in (self.path, self._aside) if overwrite else (self.path,):
            if present(path) and (path.is_symlink() or not path.is_dir()):
                raise OutputError(f"{path}: is in the way, and is no unfinished result", "take it away")
        for path in (final, self._aside) if overwrite else ():
            refuse_foreign(path, parts)
        existed = self.path.exists()
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            # the directory itself is locked: a file for it would have to be taken away before the name is final
            self._lock = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # goes with the process, however that ends
        except BlockingIOError:
            os.close(self._lock)
            raise OutputError(
                f"{final}: another command is writing it", "wait for it, or choose another directory"
            ) from None
        except OSError:  # a file system that cannot lock directories: go without
            pass
        if existed and not resume:
            if not overwrite and any(self.path.iterdir()) and not self._is_of(work):
                self.release()
                raise OutputError(
                    f"{self.path}: an unfinished result is there",
                    "start again with --overwrite, or go on with --resume where it is a merge",
                )
            self._clear()
        if work:
            with explained(self.path):
                (self.path / WORK).write_text(work, encoding="utf-8")

    def _is_of(self, work: str) -> bool:
        """Whether the directory is what the same work has left, by the file that it writes first."""
        path = self.path / WORK
        if not work or path.is_symlink() or not present(path):
            return False
        try:
            return read_text(path, len(work)) == work
        except CheckpointError:  # longer, or no text: not written here
            return False

    def _clear(self) -> None:
        with explained(self.path):
            for item in self.path.iterdir():
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()

    def refuse_others(self, known: Iterable[str]) -> None:
        """`OutputError` where anything lies in the directory but these files: a result holds what the plan wrote.

        Nobody's file is taken away for it. A link is none of ours: what is written to it lands elsewhere.
        """
        names = set(known)
        for folder, folders, files in os.walk(self.path):
            links = [name for name in folders if (Path(folder) / name).is_symlink()]
            for path in (Path(folder) / name for name in [*links, *files]):
                status = path.lstat()
                ours = str(path.relative_to(self.path)) in names
                if not ours or not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                    raise OutputError(
                        f"{path}: {'not as the merge wrote it' if ours else 'no file of this merge'}",
                        "take it out of there, then go on with --resume; or start again with --overwrite",
                    )

    def check_space(self, needed: int) -> None:
        """Refuse before the first byte where the disk has less room than the result needs."""
        # blocks, not sizes: output files are made at full size with nothing in them (`ftruncate`)
        there = sum(p.stat().st_blocks * 512 for p in self.path.rglob("*") if p.is_file())
        free = shutil.disk_usage(self.path).free
        if needed - there > free:
            raise OutputError(
                f"{self.final}: the result needs {needed / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free",
                "make room",
            )

    def discard(self) -> None:
        """Take away what cannot be resumed."""
        self._clear()
        with explained(self.path):
            self.path.rmdir()
        self.release()

    def release(self) -> None:
        os.close(self._lock)

    def finish(self, hidden: tuple[str, ...]) -> None:
        """Take the files of the work out of the directory, list the others, and give it its final name."""
        with explained(self.final):
            for name in hidden:
                (self.path / name).unlink(missing_ok=True)
            list_contents(self.path)
            _sync(self.path)
            if self.final.exists() and any(self.final.iterdir()):
                # renaming over a directory that is not empty fails: the old result moves aside, and goes last
                shutil.rmtree(self._aside, ignore_errors=True)
                os.rename(self.final, self._aside)
                os.rename(self.path, self.final)
                shutil.rmtree(self._aside)
            else:
                os.rename(self.path, self.final)
        self.release()


@contextmanager
def appearing_whole(
    final: Path, *, overwrite: bool, parts: Sequence[str] = (), work: str = ""
) -> Iterator[PartialDirectory]:
    """A partial directory for work that cannot be resumed: it gets its final name at the end, or goes.

    `parts` are the names of the directories that a result of several has; `work` is as `PartialDirectory` has it.
    """
    partial = PartialDirectory(final, resume=False, overwrite=overwrite, parts=parts, work=work)
    try:
        yield partial
    # an interrupt as well: nothing half made is left behind where it could not be resumed
    except BaseException:
        partial.discard()
        raise
    partial.finish((WORK,))


class OutputFile:
    """A file of known size, written by offset from any thread."""

    def __init__(self, path: Path, header: bytes, size: int) -> None:
        self.path = path
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            # the full size at once, so that threads may write any part; the file system gives blocks only to what is
            # written
            os.ftruncate(self._fd, size)
            self.write(header, 0)

    def write(self, data: Buffer | NDArray[np.uint8], offset: int) -> None:
        """Write all of `data` at `offset`."""
        view = memoryview(cast("Buffer", data)).cast("B")  # arrays are, which their types say from Python 3.12 on
        with explained(self.path):
            while len(view):
                # by offset: no shared position to lock. One call writes at most 2 GiB on Linux, and less where the disk
                # is full
                written = os.pwrite(self._fd, view, offset)
                view, offset = view[written:], offset + written

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def close(self) -> None:
        with explained(self.path):
            # before the rename, or a power cut could leave the final name on empty files
            os.fsync(self._fd)
            os.close(self._fd)


def _sync(directory: Path) -> None:
    """Make the directory's entries durable."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a small file whole."""
    with explained(path):
        path.write_text(text, encoding="utf-8")
