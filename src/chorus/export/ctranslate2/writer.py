"""A Whisper into CTranslate2's `model.bin`, in as many types as are wanted from one read."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.model import Model
from chorus.checkpoints.writer import explained
from chorus.errors import CheckpointError
from chorus.export.ctranslate2.layout import (
    BINARY,
    BYTES,
    DTYPES,
    EMBEDDING,
    FLOATS,
    HEAD,
    REVISION,
    SPECIFICATION,
    TYPES,
    Part,
    StoredType,
    Variable,
    constants,
    variables,
)
from chorus.export.output import new_file, write_bytes
from chorus.export.values import BLOCK, Array, as_bfloat16, as_float16, as_float32, blocks
from chorus.export.whisper import tensor_of
from chorus.identity import digest
from chorus.plain import JsonMap
from chorus.progress import Progress

CASTS: dict[str, Callable[[Array, str], Array]] = {
    "float32": as_float32, "float16": as_float16, "bfloat16": as_bfloat16
}  # fmt: skip
INT16_BITS = 10  # of CTranslate2's 16: products of two then have 20, and leave 12 for their sum


def write(model: Model, places: Mapping[str, Path], size: int, progress: Progress) -> None:
    """Write `model.bin` of every type to its place. `size` is that of the vocabulary.

    Variables that are equal are stored once, as CTranslate2 does: the first of them by name, the others as its aliases.
    """
    config = {**model.config, "vocab_size": size}
    own, plain = own_type(model), constants(config)
    entries: dict[str, Variable | None] = {**dict.fromkeys(plain), **{one.name: one for one in variables(config)}}
    done, total = 0, sum(one.count for one in entries.values() if one is not None)
    seen: dict[str, str] = {}  # content -> the variable that has it
    with ExitStack() as stack:
        files = [_Weights(stack, path, TYPES[kind], own) for kind, path in places.items()]
        for name, variable in sorted(entries.items()):
            if variable is None:
                dtype, value = plain[name]
                for file in files:
                    file.scalar(name, dtype, value)
                continue
            if name == HEAD and _tied(model):
                found = EMBEDDING
            else:
                for file in files:
                    file.begin(variable)
                content = digest()
                content.update(repr(variable.shape).encode())
                for part, values in _blocks(model, variable):
                    content.update(values if variable.matrix else _of_one_zero(values))
                    for file in files:
                        file.values(values, part.tensor or name)
                    done += len(values)
                    progress(done, total)
                found = seen.setdefault(content.hexdigest(), name)
            for file in files:
                file.end(name, found)
        for file in files:
            file.finish()


def nbytes(config: JsonMap, kind: StoredType, own: str) -> int:
    """Bytes of `model.bin`, all variables different but the head."""
    total = 64
    for one in variables(config):
        dtype = kind.of(one, own)
        scales = 4 * one.shape[0] if dtype == "int8" else 4
        total += (one.name != HEAD) * (one.count * BYTES[dtype] + scales) + len(one.name) + 24
    return total


def own_type(model: Model) -> str:
    """The source's own type. Of several what its config states (quantised tensors are read as float32), or float32."""
    found = {tensor.dtype for tensor in model.checkpoint.values()}
    stated = model.config.get("dtype") or model.config.get("torch_dtype")
    own = found.pop() if len(found) == 1 else stated
    return str(own) if own in FLOATS else "float32"


def _tied(model: Model) -> bool:
    """Whether there is no head but the embedding; one that is stored is compared with it as everything is."""
    return model.spelling.get("proj_out.weight", "proj_out.weight") not in model.checkpoint


def _of_one_zero(values: Array) -> Array:
    """The values without a sign before zeros: biases are compared as numbers, not as bits."""
    found = values.copy()
    found[found == 0] = 0
    return found


def _blocks(model: Model, variable: Variable) -> Iterator[tuple[Part, Array]]:
    for part in variable.parts:
        if not part.tensor:
            yield part, np.zeros(part.count, np.float32)
            continue
        tensor = tensor_of(model, part.tensor)
        # of a vocabulary that is cut the last rows stay out
        if tensor.shape[1:] != part.shape[1:] or tensor.shape[0] < part.shape[0]:
            raise CheckpointError(
                f"{model.label}: {part.tensor} has {tensor.shape}, by its config {part.shape}", "save it again"
            )
        left = part.count
        for values in blocks(tensor, variable.row):
            if left > 0:
                yield part, values[:left]
            left -= len(values)


class _Weights:
    """One file: its records from the beginning to the end, taken back where one turns out to be another's equal."""

    def __init__(self, stack: ExitStack, path: Path, kind: StoredType, own: str) -> None:
        self.path, self.kind, self.own = path, kind, own
        self._aliases: list[tuple[str, str]] = []
        self._count = 0
        self._start = 0  # of the record that is being written
        self._dtype = ""
        self._variable: Variable | None = None
        self._scales: list[NDArray[np.float32]] = []
        self._values_at, self._largest = 0, np.float32(0)
        self._file = stack.enter_context(new_file(path))
        self._write(struct.pack("<I", BINARY) + _text(SPECIFICATION) + struct.pack("<I", REVISION))
        self._counted_at = self._file.tell()
        self._write(struct.pack("<I", 0))

    def _write(self, data: bytes | Array) -> None:
        write_bytes(self._file, self.path, data)

    def _record(self, name: str, shape: tuple[int, ...], dtype: str) -> None:
        count = int(np.prod(shape, dtype=np.int64)) * BYTES[dtype]
        if count >= 1 << 32:
            raise CheckpointError(f"{name}: {count:,} bytes, more than CTranslate2's file can count", "use int8")
        head = struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        self._write(_text(name) + head + struct.pack("<BI", DTYPES.index(dtype), count))
        self._count += 1

    def scalar(self, name: str, dtype: str, value: int) -> None:
        self._record(name, (), dtype)
        self._write(value.to_bytes(BYTES[dtype], "little", signed=True))

    def begin(self, variable: Variable) -> None:
        self._variable, self._dtype, self._start = variable, self.kind.of(variable, self.own), self._file.tell()
        self._record(variable.name, variable.shape, self._dtype)
        self._scales, self._values_at, self._largest = [], self._file.tell(), np.float32(0)

    def values(self, values: Array, tensor: str) -> None:
        """The next values, whole rows; `tensor` is what they are called where they do not fit."""
        assert self._variable is not None
        if self._dtype == "int8":
            rows, scales = rounded_rows(as_float32(values, tensor).reshape(-1, self._variable.row))
            self._scales.append(scales)
            self._write(rows)
        elif self._dtype == "int16":
            cast = as_float32(values, tensor)
            self._largest = max(self._largest, np.abs(cast).max())
            self._write(cast)  # whole, until its one scale is known
        else:
            self._write(CASTS[self._dtype](values, tensor))

    def end(self, name: str, found: str) -> None:
        """The variable is whole; it goes again where `found`, which has the same content, is another."""
        if found != name:
            self._aliases.append((name, found))
            if self._variable is not None and self._variable.name == name:
                self._count -= 1
                with explained(self.path):
                    self._file.seek(self._start)
                    self._file.truncate()
            return
        if self._dtype == "int8":
            scales = np.concatenate(self._scales)
            self._record(f"{name}_scale", scales.shape, "float32")
            self._write(scales)
        elif self._dtype == "int16":
            scale = whole_scale(self._largest)
            self._round_in_place(scale)
            self._record(f"{name}_scale", (), "float32")
            self._write(scale.tobytes())

    def _round_in_place(self, scale: np.float32) -> None:
        """The variable's float32 values as int16: a block is read before anything is written where it lay."""
        read, written = self._values_at, self._values_at
        with explained(self.path):
            stop = self._file.tell()
            while read < stop:
                self._file.seek(read)
                values = np.frombuffer(self._file.read(min(4 * BLOCK, stop - read)), np.float32)
                self._file.seek(written)
                self._write(rounded_whole(values, scale))
                read, written = read + values.nbytes, self._file.tell()
            self._file.truncate()

    def finish(self) -> None:
        self._write(struct.pack("<I", len(self._aliases)))
        for alias, name in self._aliases:
            self._write(_text(alias) + _text(name))
        with explained(self.path):
            self._file.seek(self._counted_at)
        self._write(struct.pack("<I", self._count))


def _text(text: str) -> bytes:
    """As C has it, its length before it."""
    encoded = text.encode() + b"\0"
    return struct.pack("<H", len(encoded)) + encoded


def rounded_rows(rows: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(int8, scale of each row): a row's largest value becomes 127."""
    largest = np.abs(rows).max(axis=1)
    largest[largest == 0] = 127.0
    # so that the scale of a tiny row is a number
    largest = np.maximum(largest, np.float32(127) / np.finfo(np.float32).max)
    scales = np.float32(127) / largest
    return np.rint(rows * scales[:, None]).astype(np.int8), scales


def whole_scale(largest: np.float32) -> np.float32:
    """The one scale of a matrix in int16: its largest value becomes 1024."""
    return np.float32(2**INT16_BITS / (largest or np.float32(1)))


def rounded_whole(values: NDArray[np.float32], scale: np.float32) -> NDArray[np.int16]:
    """int16 by the scale of the whole."""
    limits = np.iinfo(np.int16)
    rounded: NDArray[np.float32] = np.clip(np.rint(values * scale), limits.min, limits.max)
    return rounded.astype(np.int16)
