"""whisper.cpp's file read back: its parts with their places, and the whole as a model."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from chorus.architectures.openai_whisper import openai_names, transformers_config, transformers_name
from chorus.checkpoints.lazy_tensor import Checkpoint, MappedFile
from chorus.checkpoints.model import Model, OpenOptions
from chorus.errors import CheckpointError
from chorus.export.ggml.layout import (
    BINS,
    BY_FILE,
    BY_TENSOR,
    MAGIC,
    GgmlHeader,
    NumberType,
    count_of,
    shape_of,
    shapes,
    stored,
)
from chorus.export.ggml.quants import dequantised
from chorus.export.values import from_bfloat16
from chorus.export.whisper import SIZES
from chorus.files import opened, regular
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

# of every number in a header: whisper.cpp's largest are a hundredth of these
MOST = 1_000_000
MAX_TOKENS, MAX_TOKEN, MAX_MELS, MAX_DIMENSIONS, MAX_NAME = 200_000, 10_000, 1024, 4, 256


@dataclass(frozen=True)
class GgmlEntry:
    """A tensor's record: where its values begin, in which type, of which shape (as numpy has it)."""

    name: str
    kind: NumberType
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return self.kind.nbytes(count_of(self.shape))


@dataclass
class GgmlFile:
    """What a file says, in the order in which it says it; nothing of it is checked against the header."""

    path: Path
    header: GgmlHeader
    filters: NDArray[np.float32]
    tokens: list[bytes]
    entries: dict[str, GgmlEntry] = field(default_factory=dict)
    size: int = 0

    @property
    def kind(self) -> NumberType | None:
        """Its number type; None where nobody knows it."""
        return BY_FILE.get(self.header.ftype % 1000)

    def problems(self) -> Iterator[str]:
        """Where it is not what whisper.cpp loads: sizes, names, shapes, types."""
        dims, kind = self.header.dims, self.kind
        if kind is None:
            yield f"its type is {self.header.ftype}, which is none of ggml's that whisper.cpp loads"
            return
        if self.header.n_vocab not in SIZES:
            yield f"{self.header.n_vocab:,} tokens; whisper.cpp counts on {', '.join(f'{n:,}' for n in SIZES)}"
        if len(self.filters) != self.header.n_mels:
            yield f"{len(self.filters)} mel filters for {self.header.n_mels} mel bins"
        if self.header.n_text_state != self.header.n_audio_state:
            yield f"its decoder is {self.header.n_text_state} values wide, its encoder {self.header.n_audio_state}"
        for heads in {self.header.n_audio_head, self.header.n_text_head}:
            if heads == 0 or self.header.n_audio_state % heads:
                yield f"{heads} heads for {self.header.n_audio_state} values"
        known = shapes(dims)
        wanted = openai_names(dims["n_audio_layer"], dims["n_text_layer"])
        missing, foreign = [n for n in wanted if n not in self.entries], sorted(set(self.entries) - set(wanted))
        if missing or foreign:
            told = [f"lacks {missing[0]}"] if missing else []
            told += [f"holds {foreign[0]}, which is no tensor of it"] if foreign else []
            yield f"{' and '.join(told)} ({len(self.entries)} tensors, {len(wanted)} by its header)"
        for name, entry in self.entries.items():
            if name in foreign:
                continue
            shape = shape_of(name, known)
            if entry.shape != shape:
                yield f"{name} has the shape {list(entry.shape)}, by the header {list(shape)}"
            elif entry.kind != stored(name, shape, kind):
                yield f"{name} is {entry.kind.name}, in a file of {kind.name} it is {stored(name, shape, kind).name}"


def read(path: Path) -> GgmlFile:
    """Read all but the values; `CheckpointError` where the file ends too early or cannot be followed."""
    size = regular(path, what="ggml file").st_size
    with opened(path, what="ggml file") as file:
        reader = _GgmlReader(path, file, size)
        if reader.numbers(1) != (MAGIC,):
            raise reader.damaged("does not begin with ggml's magic number")
        header = GgmlHeader.unpacked(reader.take(44))
        numbers = vars(header)
        if any(not 0 <= value <= MOST for name, value in numbers.items() if name != "ftype"):
            raise reader.damaged("numbers in its header that no model has")
        mels, bins = reader.numbers(2)
        if not 0 < mels <= MAX_MELS or bins != BINS:
            raise reader.damaged(f"mel filters of {mels} by {bins}, not of so many by {BINS}")
        filters = np.frombuffer(reader.take(4 * mels * bins), np.float32).reshape(mels, bins)
        found = GgmlFile(path, header, filters, list(reader.tokens()), size=size)
        while file.tell() < size:
            entry = reader.entry()
            if entry.name in found.entries:
                raise reader.damaged(f"{entry.name} stands in it twice")
            found.entries[entry.name] = entry
    return found


@dataclass
class _GgmlReader:
    path: Path
    file: BinaryIO
    size: int

    def damaged(self, why: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: no whole ggml file of a Whisper: {why}", "convert or download it again")

    def take(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise self.damaged(f"it ends at byte {self.size:,}, in the middle of what it announces")
        return found

    def numbers(self, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}i", self.take(4 * count))

    def tokens(self) -> Iterator[bytes]:
        (count,) = self.numbers(1)
        if not 0 <= count <= MAX_TOKENS:
            raise self.damaged(f"{count:,} text tokens")
        for _ in range(count):
            (length,) = self.numbers(1)
            if not 0 <= length <= MAX_TOKEN:
                raise self.damaged(f"a token of {length:,} bytes")
            yield self.take(length)

    def entry(self) -> GgmlEntry:
        dimensions, length, number = self.numbers(3)
        kind = BY_TENSOR.get(number)
        if not 0 < dimensions <= MAX_DIMENSIONS or not 0 < length <= MAX_NAME or kind is None:
            raise self.damaged(f"a tensor of {dimensions} dimensions, {length} letters and type {number}")
        shape = tuple(reversed(self.numbers(dimensions)))
        name = self.take(length).decode("utf-8", "replace")
        if any(not 0 < n <= MOST for n in shape) or shape[-1] % kind.values:
            raise self.damaged(f"{name} of the shape {list(shape)} in {kind.name}")
        found = GgmlEntry(name, kind, shape, self.file.tell())
        if found.start + found.nbytes > self.size:
            raise self.damaged(f"{name} needs {found.nbytes:,} bytes, of which {self.size - found.start:,} are there")
        self.file.seek(found.nbytes, 1)
        return found


class GgmlTensor:
    """A tensor of such a file: float32 where it is quantised, else as it is stored."""

    def __init__(self, name: str, entry: GgmlEntry, shape: tuple[int, ...], file: MappedFile) -> None:
        self.name, self.entry, self.shape, self.file = name, entry, shape, file
        self.dtype = {"f16": "float16", "bf16": "bfloat16"}.get(entry.kind.name, "float32")
        self.stored_dtype = self.dtype

    def stored_bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        """As they lie in the file, of values `start` to `stop`, which are whole blocks."""
        kind = self.entry.kind
        first = self.entry.start + kind.nbytes(start)
        return self.file.bytes()[first : first + kind.nbytes(stop - start)]

    def values(self, start: int, stop: int) -> NDArray[np.float32]:
        """Values `start` to `stop`, dequantised."""
        kind = self.entry.kind
        first, last = start // kind.values * kind.values, -(-stop // kind.values) * kind.values
        raw = np.ascontiguousarray(self.stored_bytes(first, last))
        if kind.quantised:
            whole = dequantised(raw.reshape(-1, kind.bytes), kind).reshape(-1)
        elif kind.name == "bf16":
            whole = from_bfloat16(raw)
        else:
            whole = raw.copy().view(np.float16 if kind.name == "f16" else np.float32).astype(np.float32)
        return whole[start - first : stop - first]

    def flat(self, start: int, stop: int) -> Tensor:
        found = torch.from_numpy(self.values(start, stop).copy())
        return found.to(getattr(torch, self.dtype))

    def read(self) -> Tensor:
        return self.flat(0, count_of(self.shape)).reshape(self.shape)


def open_ggml(path: Path, label: str) -> Model:
    """The model, no value read; `CheckpointError` where whisper.cpp would not load it either."""
    found = read(path)
    problem = next(found.problems(), "")
    if problem:
        raise CheckpointError(f"{path}: {problem}", "convert or download it again")
    file = MappedFile(path)
    tensors = {}
    for name, entry in found.entries.items():
        known = transformers_name(name)
        # the convolutions' biases have a dimension more here
        shape = entry.shape[:1] if name.endswith(("conv1.bias", "conv2.bias")) else entry.shape
        tensors[known] = GgmlTensor(known, entry, shape, file)
    kind = found.kind
    assert kind is not None
    config = transformers_config(found.header.dims)
    config["torch_dtype"] = {"f16": "float16", "bf16": "bfloat16"}.get(kind.name, "float32")
    return Model(label, Checkpoint(tensors, label), config, None, paths={path.name: path}, reads=(path,))


class GgmlForm:
    """whisper.cpp's file as a form of model (see chorus.checkpoints.formats)."""

    def takes(self, path: Path) -> bool:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(4) == struct.pack("<i", MAGIC)

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        return open_ggml(path, label)
