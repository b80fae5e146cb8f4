"""A bounded cache on disk of computed tensors (spectra, bases, features), by the content that they come from.

    CHORUS_CACHE         its directory (default: chorus in XDG_CACHE_HOME or ~/.cache)
    CHORUS_CACHE_LIMIT   its size, as 20GB (the default); 0 turns it off

Entries are safetensors files, each with a digest of its key and values that is checked as it is read: what is damaged
is computed anew, for no result may depend on what has become of the cache. Beside them lie models converted for
faster-whisper, whisper.cpp and openai-whisper. What was not used for longest goes first, but never what this very run
has used or made; and a merge that needs more than the whole cache takes only the room that is free, so that no run
chases out what the last one kept.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Protocol

from chorus.errors import CheckpointError, UsageError
from chorus.files import expanded, present, regular
from chorus.identity import digest, fingerprint
from chorus.lazy import lazy
from chorus.sizes import parse_size

if TYPE_CHECKING:
    import safetensors.torch as safetensors
    import torch
    from torch import Tensor
else:
    safetensors, torch = lazy("safetensors.torch"), lazy("torch")

DEFAULT_LIMIT = 20_000_000_000
SUFFIX = ".safetensors"
CONVERTED, GGML, ONNX, OPENAI = "ctranslate2", "ggml", "onnx", "openai"
# of models in the forms of faster-whisper, whisper.cpp, sherpa-onnx, openai-whisper
FOLDERS = (CONVERTED, GGML, ONNX, OPENAI)
DIGEST = "xxh3"  # the key of an entry's metadata
FORMAT = 2  # of keys and entries; another number forgets everything


class TensorCache(Protocol):
    """Keeps named tensors under keys that say what they depend on: this cache, or what a search keeps in memory."""

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The tensors under a key; None where there are none."""

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, if there is room."""


@dataclass(frozen=True)
class Usage:
    """How full a cache is."""

    directory: Path
    entries: int
    bytes: int
    limit_bytes: int


def directory() -> Path:
    """Where the cache is."""
    named = os.environ.get("CHORUS_CACHE")
    if named:
        return expanded(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chorus"


def limit_bytes() -> int:
    """How large it may grow; 0 is off."""
    written = os.environ.get("CHORUS_CACHE_LIMIT")
    if not written:
        return DEFAULT_LIMIT
    try:
        return parse_size(written)
    except ValueError:
        raise UsageError(f"CHORUS_CACHE_LIMIT={written} is not a size", "write 20GB, or 0 to turn it off") from None


def cache_key(**facts: object) -> str:
    """The key of everything that an entry depends on."""
    return fingerprint(format=FORMAT, **facts)


class Cache:
    """The cache as one run uses it; safe for threads, and for several processes at once."""

    def __init__(self, place: Path | None = None, limit: int | None = None, *, needed: int = 0) -> None:
        """`needed`: the bytes that this run would like to keep; where they exceed the limit, nothing makes room."""
        self.place = directory() if place is None else place
        self.limit = limit_bytes() if limit is None else limit
        self.evicts = needed <= self.limit  # see the top: a run that needs more than all makes no room
        self.hits = self.misses = self.refused = self.damaged = 0
        self._mine: set[Path] = set()
        self._lock = Lock()
        self._sizes: dict[Path, tuple[float, int]] | None = None  # path -> (last use, bytes)
        self._used = 0

    def get(self, key: str) -> dict[str, Tensor] | None:
        """The entry's tensors; None where there is none, or it is not as it was written."""
        path = self._path(key)
        found: dict[str, Tensor] | None = None
        try:
            regular(path)
            found = _read(path, key)
        # absent, cut off, no file, taken away by another process: whatever the reader makes of it, it is computed again
        except Exception:
            found = None
        if found is None and present(path):
            self._tell_damaged(path)
        if found is None:
            with self._lock:
                self.misses += 1
            return None
        with suppress(OSError):  # another's cache may be read only
            os.utime(path)  # file systems mount with noatime: the time of change says when it was used
        with self._lock:
            self.hits += 1
            self._mine.add(path)
        return found

    def _tell_damaged(self, path: Path) -> None:
        with self._lock:
            self.damaged += 1
            if self.damaged > 1:  # of a disk that fails there may be thousands
                return
        print(
            f"warning: {path}: an entry of the cache that is damaged or cannot be read; it, and others like it, are "
            "computed anew", file=sys.stderr,
        )  # fmt: skip

    def put(self, key: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors, if there is room for them or can be made; a full disk is no error."""
        path = self._path(key)
        # and a kilobyte for the header, whose length shows only in the file
        size = sum(t.numel() * t.element_size() for t in tensors.values()) + 1024
        with self._lock:
            if not self._make_room(size):
                self.refused += 1
                return
            self._mine.add(path)
            assert self._sizes is not None
            self._used += size - self._sizes.get(path, (0.0, 0))[1]
            # the newest of all: its own time is known only when it is written, and other threads may look for room
            # before
            self._sizes[path] = (float("inf"), size)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # in the same folder: a rename replaces only within one file system
            handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".part")
            os.close(handle)
            written = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
            safetensors.save_file(written, draft, {DIGEST: _digest(key, written)})
            try:
                os.replace(draft, path)  # whole or not at all, whoever reads meanwhile
            except OSError:  # a folder stands there
                os.unlink(draft)
                raise
        except OSError:
            with self._lock:
                self._used -= self._sizes.pop(path, (0.0, 0))[1]

    def _path(self, key: str) -> Path:
        return self.place / key[:2] / f"{key}{SUFFIX}"

    def _make_room(self, size: int) -> bool:
        if self._sizes is None:
            self._sizes = {p: (s.st_mtime, s.st_size) for p, s in self._files()}
            self._used = sum(n for _, n in self._sizes.values())
        if self._used + size <= self.limit:
            return True
        old = sorted((when, path) for path, (when, _) in self._sizes.items() if path not in self._mine)
        # looked at before anything goes: entries must not be lost for one that does not fit after all
        if not self.evicts or self._used - sum(self._sizes[p][1] for _, p in old) + size > self.limit:
            return False
        for _, path in old:
            self._used -= self._sizes.pop(path)[1]
            path.unlink(missing_ok=True)
            if self._used + size <= self.limit:
                break
        return True

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        found = []
        for path in self.place.glob(f"??/*{SUFFIX}"):
            try:
                found.append((path, regular(path)))
            except CheckpointError:  # another process has taken it away, or nothing of ours stands there
                continue
        return found

    def usage(self) -> Usage:
        """Entries and converted models, and their bytes."""
        files = self._files()
        converted = [p for folder in FOLDERS for p in (self.place / folder).glob("*/")]
        size = sum(s.st_size for _, s in files) + sum(_size(p) for p in converted)
        return Usage(self.place, len(files) + len(converted), size, self.limit)

    def clear(self) -> int:
        """Take all entries away; returns how many bytes that were."""
        freed = 0
        for path, status in self._files():
            path.unlink(missing_ok=True)
            freed += status.st_size
        # drafts of processes that were killed while they wrote
        for part in self.place.glob("??/*.part"):
            part.unlink(missing_ok=True)
        for folder in FOLDERS:
            freed += _size(self.place / folder)
            shutil.rmtree(self.place / folder, ignore_errors=True)
        return freed


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    """The tensors of a file whose digest is theirs."""
    with safetensors.safe_open(path, "pt") as file:
        names: list[str] = file.keys()
        tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in names}
        stored = (file.metadata() or {}).get(DIGEST)
    return tensors if stored == _digest(key, tensors) else None


def _digest(key: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the key, so that an entry is none of another's; and of names, types, shapes and values."""
    found = digest()
    found.update(key.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _size(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
