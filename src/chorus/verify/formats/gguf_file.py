"""llama.cpp's file by the `gguf` package's reader, which is kept from reading on behind its end."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.errors import CheckpointError, MissingExtraError
from chorus.export.ggml.layout import BY_TENSOR, NumberType, count_of
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.writer import MAGIC
from chorus.files import regular
from chorus.plain import JsonObject

ADAPTER = "adapter"  # what general.type says of one


@dataclass(frozen=True)
class GgufEntry:
    """A tensor: its type, its shape as numpy has it, and the byte of the file where its values begin."""

    kind: NumberType
    shape: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class GgufHeld:
    """What a file says; nothing of it is checked against anything."""

    file: MappedFile
    keys: JsonObject
    entries: dict[str, GgufEntry]
    size: int

    def raw(self, name: str, start: int, stop: int) -> NDArray[np.uint8]:
        """The bytes of a tensor's values so and so, whole blocks."""
        entry = self.entries[name]
        first = entry.start + entry.kind.nbytes(start)
        return self.file.bytes()[first : first + entry.kind.nbytes(stop - start)].copy()


def takes(path: Path, what: str) -> bool:
    """Whether a path is llama.cpp's file of a model, or of an adapter (`what`); a damaged one passes for a model."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return False
    try:
        said = read(path).keys.get("general.type")
    except (CheckpointError, MissingExtraError):
        said = None
    return (said == ADAPTER) == (what == ADAPTER)


def read(path: Path) -> GgufHeld:
    """All but the values; `CheckpointError` where the file ends too early or cannot be followed."""
    found = regular(path, what="GGUF file")
    return _read(path, found.st_size, found.st_mtime_ns)


# a vocabulary takes the package seconds, and a file is asked what it is before it is read
@lru_cache(maxsize=1)
def _read(path: Path, size: int, changed: int) -> GgufHeld:
    gguf = package()

    def bounded(self: Keys, offset: int, dtype: type, count: int = 1, *more: object, **named: object) -> object:
        # its own slices end with the file and are then too short, or empty: an array would be counted on for ever
        if int(offset) + int(count) * np.dtype(dtype).itemsize > len(self.data):
            raise ValueError(f"it ends at byte {len(self.data):,}, in the middle of what it announces")
        return gguf.GGUFReader._get(self, offset, dtype, count, *more, **named)

    try:
        reader = type("BoundedReader", (gguf.GGUFReader,), {"_get": bounded})(path)
        keys = {name: field.contents() for name, field in reader.fields.items()}
        entries = {one.name: _entry(one) for one in reader.tensors}
    except Exception as error:  # of what does not fit the package raises anything
        raise CheckpointError(f"{path}: no whole GGUF file: {error}", "export or download it again") from None
    return GgufHeld(MappedFile(path), keys, entries, size)


def _entry(one: Keys) -> GgufEntry:
    kind = BY_TENSOR.get(int(one.tensor_type))
    shape = tuple(int(n) for n in reversed(one.shape.tolist()))
    if kind is None or not shape or not count_of(shape) or shape[-1] % kind.values:
        raise ValueError(f"{one.name} is of the type {one.tensor_type.name} and the shape {list(shape)}")
    return GgufEntry(kind, shape, int(one.data_offset))
