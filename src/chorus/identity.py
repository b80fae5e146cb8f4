"""What a thing is by content: hashes of facts, of files and of bytes, and numbers made from text.

XXH3-128 where much is read (files, tensors, samples), BLAKE2b where a few facts make a key. Neither keeps anybody
from forging: who needs that asks for the SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from chorus.files import opened
from chorus.lazy import lazy

if TYPE_CHECKING:
    import numpy as np
    import xxhash
    from numpy.typing import NDArray
    from typing_extensions import Buffer

    Data = Buffer | NDArray[np.generic]  # before Python 3.12 type checkers do not know that arrays are buffers
else:
    xxhash = lazy("xxhash")

PIECE = 1 << 18  # bytes of a file at a time, which stay in the processor's cache
_known: dict[tuple[str, int, int], str] = {}  # (path, bytes, time of change) -> hash


class Digest(Protocol):
    """A hash that is fed piece by piece."""

    def update(self, data: Any, /) -> None: ...

    def hexdigest(self) -> str: ...


def digest() -> Digest:
    """XXH3-128 of nothing yet."""
    made: Digest = xxhash.xxh3_128()
    return made


def bytes_hash(data: Data) -> str:
    """XXH3-128 of bytes, or of a contiguous array's.

    >>> bytes_hash(b"")
    '99aa06d3014798d86001c324468d497f'
    """
    found = digest()
    found.update(data)
    return found.hexdigest()


def file_hash(path: Path) -> str:
    """XXH3-128 of a file's bytes; read once for as long as its size and time of change stay the same."""
    status = path.stat()
    key = (str(path), status.st_size, status.st_mtime_ns)
    if key not in _known:  # two threads may both read a file; they find the same
        _known[key] = _read_into(digest(), path)
    return _known[key]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as the hub tells it too."""
    return _read_into(hashlib.sha256(), path)


def _read_into(found: Digest, path: Path) -> str:
    # the same room again and again: what is asked for anew is cleared first
    room = memoryview(bytearray(PIECE))
    with opened(path) as file:
        while count := file.readinto(room):
            found.update(room[:count])
    return found.hexdigest()


def fingerprint(**facts: object) -> str:
    """One key for facts that JSON can tell; equal facts make equal keys in whatever order they come.

    >>> fingerprint(a=1, b=[2]) == fingerprint(b=(2,), a=1) != fingerprint(a=1, b=[3])
    True
    """
    text = json.dumps(facts, sort_keys=True, default=_plain)  # floats by their shortest repr, which is exact
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    # never str(): an object's text holds its address, and a set's order changes with the process: keys that never match
    # again
    raise TypeError(f"{value!r} has no lasting text to be a part of a key")


def number_of(text: str) -> int:
    """64 bits from a text, the same on every machine: the seed of what is drawn for it."""
    # not hash(), which Python salts anew in every process; the order of the bytes is said, not the machine's
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")
