"""The header of a safetensors file, parsed and distrusted.

Format: 8 bytes little-endian length, that many bytes of JSON, then the data; each entry gives dtype, shape and
`data_offsets` relative to the data. A file that lies here would make a reader reach outside the mapping, so
everything is checked before a byte of data is touched.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from chorus.checkpoints.dtypes import BY_CODE, QUANTISED, itemsize
from chorus.checkpoints.kinds import UNQUANTISED
from chorus.errors import CheckpointError
from chorus.files import LFS, opened, printable, refuse_pointer, shown
from chorus.plain import JsonObject

MAX_HEADER_BYTES = 100_000_000  # the limit of the reference implementation
# without the padding; headers of the largest models stay below 1 MB and 10,000 tensors
MAX_JSON_BYTES, MAX_TENSORS, MAX_DIMENSIONS, MAX_NAME = 25_000_000, 200_000, 64, 1000
MAX_NUMBER = 2**63  # as in every other reader: what is larger is no place in a file
REDOWNLOAD = "download or save the file again; nothing was read from it"


@dataclass(frozen=True)
class Entry:
    """One tensor in a file; `start` and `stop` count bytes from the beginning of the file."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """All tensors of a file, in file order, and its metadata."""

    entries: dict[str, Entry]
    metadata: dict[str, str]
    raw: bytes


def read_header(path: Path) -> Header:
    """Parse and check the header of a file on disk; `CheckpointError` names file, tensor and fault."""
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        return parse_header(lambda start, stop: _read_range(file, start, stop), size, str(path))


def _read_range(file: BinaryIO, start: int, stop: int) -> bytes:
    file.seek(start)
    return file.read(stop - start)


def parse_header(read: Callable[[int, int], bytes], file_size: int, where: str) -> Header:
    """Parse a header through `read(start, stop)`, a local file or an HTTP range."""

    def fail(fault: str, remedy: str = REDOWNLOAD) -> NoReturn:
        raise CheckpointError(f"{where}: {fault}", remedy)

    if file_size < 8:
        fail(f"the file has {file_size} bytes, too few for a safetensors header")
    head = read(0, min(len(LFS), file_size))  # at once: on the hub every read is a request
    refuse_pointer(head, where)
    length = int.from_bytes(head[:8], "little")
    # before it is read: eight bytes of garbage would ask for exabytes of memory
    if length > MAX_HEADER_BYTES:
        fail(f"the header says it has {length:,} bytes; the limit is {MAX_HEADER_BYTES:,}")
    if 8 + length > file_size:
        fail(f"the header says it has {length:,} bytes, but the file ends after {file_size:,}")
    raw = read(8, 8 + length).rstrip(b" ")
    if len(raw) > MAX_JSON_BYTES:
        fail(f"the header holds {len(raw):,} bytes of names and numbers; the limit is {MAX_JSON_BYTES:,}")
    try:
        # json keeps the last of two equal keys without a word
        document = json.loads(raw, object_pairs_hook=lambda pairs: _without_duplicates(pairs, fail))
    except (ValueError, RecursionError) as error:
        fail(f"the header is not JSON ({error})")
    if not isinstance(document, dict):
        fail("the header is not a JSON object")
    if len(document) > MAX_TENSORS:
        fail(f"the header names {len(document):,} tensors; the limit is {MAX_TENSORS:,}")
    metadata = document.pop("__metadata__", {})
    data_start = 8 + length
    entries = [_entry(name, fields, data_start, fail) for name, fields in document.items()]
    # the JSON may list them in any order; empty tensors start where the next one does, hence the stop
    entries.sort(key=lambda e: (e.start, e.stop))
    position = data_start
    for entry in entries:
        if entry.stop > file_size:
            fail(f"tensor {entry.name} ends at byte {entry.stop:,}, but the file ends after {file_size:,}")
        if entry.start < position:
            fail(f"tensor {entry.name} overlaps the tensor before it")
        if entry.start > position:  # refused by the format, against files that are two things at once
            fail(f"{entry.start - position:,} bytes before tensor {entry.name} belong to no tensor")
        position = entry.stop
    if position != file_size:
        fail(f"{file_size - position:,} bytes at the end belong to no tensor")
    return Header({e.name: e for e in entries}, metadata if isinstance(metadata, dict) else {}, raw)


def _without_duplicates(pairs: list[tuple[str, Any]], fail: Callable[[str], NoReturn]) -> JsonObject:
    result = dict(pairs)
    if len(result) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        fail(f"the header names {shown(next(n for n, count in counts.items() if count > 1))} twice")
    return result


def _entry(name: str, fields: Any, data_start: int, fail: Callable[..., NoReturn]) -> Entry:
    # names stand in tables and messages, and are keys of the result's header
    if not name or len(name) > MAX_NAME or printable(name) != name or "\n" in name or "\t" in name:
        fail(f"{shown(repr(name))} is no name of a tensor (1 to {MAX_NAME} characters, none of them for control)")
    try:
        code, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        if len(shape) > MAX_DIMENSIONS:
            fail(f"tensor {name} has {len(shape):,} dimensions; the limit is {MAX_DIMENSIONS}")
        # True is an int in Python
        numbers_ok = isinstance(code, str) and all(type(n) is int and 0 <= n < MAX_NUMBER for n in (*shape, begin, end))
    except (KeyError, TypeError, ValueError):
        numbers_ok = False
    if not numbers_ok:
        fail(f"the entry of tensor {name} lacks a proper dtype, shape or data_offsets")
    if code in QUANTISED:
        fail(f"tensor {name} holds {code}, which is for quantised weights", UNQUANTISED)
    if code not in BY_CODE:
        fail(f"tensor {name} has the unknown dtype {shown(code)}")
    dtype = BY_CODE[code]
    expected = math.prod(shape) * itemsize(dtype)  # Python's integers do not overflow; elsewhere this is an attack
    if end - begin != expected:
        fail(f"tensor {name} of shape {list(shape)} in {dtype} needs {expected:,} bytes, its offsets {end - begin:,}")
    return Entry(name, dtype, tuple(shape), data_start + begin, data_start + end)


def build_header(tensors: list[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, dict[str, int]]:
    """The bytes before the data for these (name, dtype, shape), and the byte at which each tensor starts.

    Data start at a multiple of 8, as the reference implementation writes them.
    """
    from chorus.checkpoints.dtypes import DTYPES

    # transformers 4 refuses a file whose metadata name no format that it knows
    document: JsonObject = {"__metadata__": {"format": "pt"}}
    position, starts = 0, {}
    for name, dtype, shape in tensors:
        code, size = DTYPES[dtype]
        stop = position + math.prod(shape) * size
        document[name] = {"dtype": code, "shape": list(shape), "data_offsets": [position, stop]}
        starts[name] = position
        position = stop
    # compact, in the order given: the same tensors give the same bytes
    raw = json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
    raw += b" " * (-len(raw) % 8)  # JSON ignores them
    head = len(raw).to_bytes(8, "little") + raw
    return head, {name: len(head) + start for name, start in starts.items()}
