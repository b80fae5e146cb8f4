"""openai-whisper's `.pt` read back without torch: its dimensions, and where each tensor's bytes lie in the file."""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.checkpoints.pickled import DIMS
from chorus.errors import CheckpointError
from chorus.export.openai.archive import KNOWN, MOST, PICKLE, STORAGES
from chorus.files import regular

LOCAL = 30  # bytes before a record's name: zip's local header (APPNOTE 4.3.7)
TYPES = {f"torch {storage}": dtype for dtype, storage in STORAGES.items()}


@dataclass(frozen=True)
class PtEntry:
    """A tensor: its type, its shape, and the byte of the file where its values begin."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class PtFile:
    """What a file says; nothing of it is checked against anything."""

    file: MappedFile
    dims: dict[str, int]
    entries: dict[str, PtEntry]

    def raw(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of a tensor's values so and so."""
        entry = self.entries[name]
        size = np.dtype(entry.dtype).itemsize
        return self.file.bytes()[entry.start + size * start : entry.start + size * stop]


def read(path: Path) -> PtFile:
    """All but the values; `CheckpointError` where the file ends too early or is no such checkpoint."""
    regular(path, what="checkpoint")
    file = MappedFile(path)
    try:
        with zipfile.ZipFile(path) as archive:
            records = dict(_records(archive, file))
            (name,) = [name for name in records if name.rpartition("/")[2] == PICKLE]
            start, size = records[name]
            if size > MOST:
                _damaged(path, f"a pickle of {size:,} bytes")
            told = _Followed(io.BytesIO(file.bytes()[start : start + size].tobytes())).load()
    except CheckpointError:
        raise
    except Exception as error:  # a damaged zip or pickle may raise anything
        _damaged(path, f"{type(error).__name__}: {error}")
    if not isinstance(told, dict) or not isinstance(told.get("dims"), dict):
        _damaged(path, "no dims in it")
    dims, state = told["dims"], told.get("model_state_dict")
    if set(dims) != set(DIMS) or not all(type(value) is int and 0 < value < 10**6 for value in dims.values()):
        _damaged(path, f"not the dimensions of openai-whisper ({', '.join(DIMS)})")
    if not isinstance(state, dict) or not all(isinstance(one, _Rebuilt) for one in state.values()):
        _damaged(path, "no tensors in it")
    root = name.removesuffix(PICKLE)
    return PtFile(file, dims, {str(key): _entry(path, str(key), one, records, root) for key, one in state.items()})


def _damaged(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{path}: no whole openai-whisper checkpoint: {why}", "export or download it again")


def _records(archive: zipfile.ZipFile, file: MappedFile) -> Iterator[tuple[str, tuple[int, int]]]:
    """(name, (first byte, bytes)) of every record that lies in the file as it is."""
    data = file.bytes()
    for one in archive.infolist():
        if one.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"{file.path}: a compressed archive", "torch does not write such: save it again")
        # the local header's own lengths: its extra field is another than the directory's
        lengths = struct.unpack("<2H", data[one.header_offset + LOCAL - 4 : one.header_offset + LOCAL].tobytes())
        start = one.header_offset + LOCAL + sum(lengths)
        if start + one.file_size > len(data):
            raise CheckpointError(f"{file.path}: {one.filename} goes on behind its end", "export or download it again")
        yield one.filename, (start, one.file_size)


@dataclass(frozen=True)
class _Storage:
    dtype: str
    key: str
    count: int


@dataclass
class _Rebuilt:
    """The arguments that torch would rebuild a tensor of."""

    storage: object
    offset: object
    shape: object
    strides: object


def _rebuilt(storage: object, offset: object, shape: object, strides: object, *_: object) -> _Rebuilt:
    return _Rebuilt(storage, offset, shape, strides)


class _Followed(pickle.Unpickler):
    """Follows a pickle of tensors by Python's own machine, which may call nothing but the two things below."""

    # weights_only of torch would be as safe, and would hold the values; here a file of any size is followed
    def find_class(self, module: str, name: str) -> object:
        called = f"{module} {name}"
        if called not in KNOWN:
            raise pickle.UnpicklingError(f"it calls {called}")
        return OrderedDict if name == "OrderedDict" else TYPES.get(called, _rebuilt)

    def persistent_load(self, told: object) -> _Storage:
        match told:
            case ("storage", str(dtype), str(key), _, int(count)) if dtype in TYPES.values():
                return _Storage(dtype, key, count)
        raise pickle.UnpicklingError("a reference to what is no values")


def _entry(path: Path, name: str, one: _Rebuilt, records: dict[str, tuple[int, int]], root: str) -> PtEntry:
    match one:
        case _Rebuilt(_Storage() as storage, int(offset), tuple(shape), tuple(strides)) if all(
            type(n) is int and 0 < n < 10**9 for n in shape
        ):
            # what torch calls contiguous: a view that is turned or repeats its values has other strides
            plain = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
            size = np.dtype(storage.dtype).itemsize
            start, nbytes = records.get(f"{root}data/{storage.key}", (0, 0))
            if strides != plain:
                _damaged(path, f"{name} is no row after the other")
            if offset < 0 or size * (offset + math.prod(shape)) > nbytes:
                _damaged(path, f"{name} needs more values than its record has")
            return PtEntry(storage.dtype, shape, start + size * offset)
    _damaged(path, f"{name} is no tensor of values")
