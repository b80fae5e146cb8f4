"""CTranslate2's `model.bin` read back: its records with their places, and the whole as a model."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from chorus.architectures.openai_whisper import transformers_config
from chorus.checkpoints.lazy_tensor import LazyTensor, MappedFile
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
    WEIGHTS,
    Part,
    Variable,
    variables,
)
from chorus.files import opened, regular, shown
from chorus.lazy import lazy
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")

MOST = 1_000_000  # of every size: CTranslate2's largest Whisper has a twentieth of it
MAX_ENTRIES, MAX_DIMENSIONS = 100_000, 4


@dataclass(frozen=True)
class Record:
    """An entry of the file: where its values begin, in which type, of which shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * BYTES[self.dtype]


@dataclass
class CTranslate2File:
    """What a file says; nothing of it is checked against a Whisper's form."""

    path: Path
    revision: int
    records: dict[str, Record] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    size: int = 0

    def record(self, name: str) -> Record | None:
        """The entry of a variable, perhaps under the name of its equal."""
        return self.records.get(self.aliases.get(name, name))

    def scale(self, record: Record) -> Record | None:
        return self.records.get(f"{record.name}_scale")

    def constant(self, name: str) -> int | None:
        """A number of the file's own; None where it has none of that name."""
        found = self.records.get(name)
        if found is None or found.shape or found.dtype not in ("int8", "int16", "int32"):
            return None
        with opened(self.path, what="model.bin") as file:
            file.seek(found.start)
            return int.from_bytes(file.read(found.nbytes), "little", signed=True)

    @property
    def config(self) -> JsonObject:
        """transformers' config of the Whisper that the shapes tell of; `CheckpointError` where they tell of none."""
        sizes = {name: self._shape(name, rank) for name, rank in SIZES_IN.items()}
        heads = {side: self.constant(f"{side}/num_heads") for side in ("encoder", "decoder")}
        width, mels, _ = sizes["encoder/conv1/weight"]
        if any(count is None or count <= 0 or width % count for count in heads.values()):
            raise _damaged(self.path, f"{heads['encoder']} and {heads['decoder']} heads for {width} values")
        dims = {
            "n_mels": mels, "n_audio_ctx": sizes["encoder/position_encodings/encodings"][0],
            "n_audio_state": width, "n_audio_head": heads["encoder"], "n_audio_layer": self._layers("encoder"),
            "n_vocab": sizes[EMBEDDING][0], "n_text_ctx": sizes["decoder/position_encodings/encodings"][0],
            "n_text_state": width, "n_text_head": heads["decoder"], "n_text_layer": self._layers("decoder"),
        }  # fmt: skip
        config = transformers_config({key: value or 0 for key, value in dims.items()})
        for side in ("encoder", "decoder"):
            config[f"{side}_ffn_dim"] = sizes[f"{side}/layer_0/ffn/linear_0/weight"][0]
        head, embedding = self.record(HEAD), self.record(EMBEDDING)
        config["tie_word_embeddings"] = head is embedding
        norm = self.record("decoder/layer_norm/gamma")
        config["torch_dtype"] = norm.dtype if norm is not None and norm.dtype in FLOATS else "float32"
        return config

    def _shape(self, name: str, rank: int) -> tuple[int, ...]:
        found = self.record(name)
        if found is None or len(found.shape) != rank:
            what = "lacks" if found is None else f"has the shape {list(found.shape)} of"
            raise _damaged(self.path, f"it {what} {name}")
        return found.shape

    def _layers(self, side: str) -> int:
        found = {int(one[1]) for name in self.records if (one := re.match(rf"{side}/layer_(\d+)/", name))}
        return max(found) + 1 if found and max(found) < MAX_ENTRIES else 0

    def problems(self, config: JsonObject) -> Iterator[str]:
        """Where it is not the Whisper of this config: what lacks, what is too much, shapes, types, scales."""
        known = {one.name: one for one in variables(config)}
        scales = {f"{name}_scale" for name, one in known.items() if one.matrix}
        for name, variable in known.items():
            record = self.record(name)
            if record is None:
                yield f"it lacks {name}"
            elif record.shape != variable.shape:
                yield f"{name} has the shape {list(record.shape)}, not {list(variable.shape)}"
            else:
                yield from self._type_of(record, variable)
        for name, record in self.records.items():
            if name not in known and name not in scales and record.shape:
                yield f"{shown(name)} is no variable of a Whisper"
            elif name in scales and name.removesuffix("_scale") not in self.records:
                yield f"{name} is the scale of nothing"
        for alias, name in self.aliases.items():
            if alias not in known or name not in self.records:
                yield f"{shown(alias)} stands for {shown(name)}, and one of them there is not"

    def _type_of(self, record: Record, variable: Variable) -> Iterator[str]:
        scale = self.scale(record)
        wanted = {"int8": (variable.shape[0],), "int16": ()}.get(record.dtype)
        if record.dtype not in FLOATS and (wanted is None or not variable.matrix):
            yield f"{variable.name} is {record.dtype}"
        elif wanted is not None and (scale is None or scale.dtype != "float32" or scale.shape != wanted):
            yield f"{variable.name} is {record.dtype}, and its scale is not float32 {list(wanted)}"
        elif wanted is None and scale is not None:
            yield f"{variable.name} is {record.dtype}, and has a scale"


SIZES_IN = {
    "encoder/conv1/weight": 3, "encoder/position_encodings/encodings": 2, EMBEDDING: 2,
    "decoder/position_encodings/encodings": 2, "encoder/layer_0/ffn/linear_0/weight": 2,
    "decoder/layer_0/ffn/linear_0/weight": 2,
}  # fmt: skip


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"{path}: no whole Whisper of CTranslate2: {why}", "convert or download it again")


def read(path: Path) -> CTranslate2File:
    """Read all but the values; `CheckpointError` where the file ends too early or cannot be followed."""
    size = regular(path, what="model.bin").st_size
    with opened(path, what="model.bin") as file:
        reader = _RecordReader(path, file, size)
        version = reader.number("I")
        if version != BINARY:
            raise reader.damaged(f"it does not begin with the file's version, {BINARY}, but with {version:,}")
        specification, revision = reader.text(), reader.number("I")
        if specification != SPECIFICATION:
            raise CheckpointError(
                f"{path}: a {shown(specification)} of CTranslate2, which is no Whisper", "only Whispers are read back"
            )
        if revision > REVISION:
            raise CheckpointError(
                f"{path}: revision {revision} of CTranslate2's Whisper, {REVISION} is the newest known",
                "update Chorus, or convert it with an older CTranslate2",
            )
        found = CTranslate2File(path, revision, size=size)
        for _ in range(reader.count()):
            record = reader.record()
            if record.name in found.records:
                raise reader.damaged(f"{record.name} stands in it twice")
            found.records[record.name] = record
        for _ in range(reader.count()):
            alias, name = reader.text(), reader.text()
            if alias in found.records or alias in found.aliases:
                raise reader.damaged(f"{shown(alias)} stands in it twice")
            found.aliases[alias] = name
        if file.tell() != size:
            raise reader.damaged(f"{size - file.tell():,} bytes follow its end")
    return found


@dataclass
class _RecordReader:
    path: Path
    file: BinaryIO
    size: int

    def damaged(self, why: str) -> CheckpointError:
        return _damaged(self.path, why)

    def take(self, count: int) -> bytes:
        found = self.file.read(count)
        if len(found) < count:
            raise self.damaged(f"it ends at byte {self.size:,}, in the middle of what it announces")
        return found

    def number(self, form: str) -> int:
        (found,) = struct.unpack(f"<{form}", self.take(struct.calcsize(form)))
        return int(found)

    def count(self) -> int:
        found = self.number("I")
        if found > MAX_ENTRIES:
            raise self.damaged(f"it announces {found:,} entries")
        return found

    def text(self) -> str:
        """A name: its length, which counts the zero at its end."""
        raw = self.take(self.number("H"))
        if not raw.endswith(b"\0") or not raw[:-1].isascii() or not raw[:-1].decode().isprintable():
            raise self.damaged("a name that is none")
        return raw[:-1].decode()

    def record(self) -> Record:
        name = self.text()
        rank = self.number("B")
        if rank > MAX_DIMENSIONS:
            raise self.damaged(f"{name} of {rank} dimensions")
        shape = tuple(self.number("I") for _ in range(rank))
        dtype, nbytes = self.number("B"), self.number("I")
        if dtype >= len(DTYPES) or any(not 0 < n <= MOST for n in shape):
            raise self.damaged(f"{name} of the shape {list(shape)} and the type {dtype}")
        found = Record(name, DTYPES[dtype], shape, self.file.tell())
        if nbytes != found.nbytes:
            raise self.damaged(f"{name} says {nbytes:,} bytes, and has {found.nbytes:,} by its shape")
        if found.start + nbytes > self.size:
            raise self.damaged(f"{name} needs {nbytes:,} bytes, of which {self.size - found.start:,} are there")
        self.file.seek(nbytes, 1)
        return found


class CTranslate2Tensor:
    """Rows of a record: float32 where they are quantised, else as they are stored."""

    def __init__(self, part: Part, record: Record, scale: Record | None, row: int, file: MappedFile) -> None:
        self.name, self.shape, self.file = part.tensor, part.shape, file
        self._record, self._scale, self._first = record, scale, row  # the row at which it begins
        self._width = part.count // part.shape[0]
        self.dtype = record.dtype if record.dtype in FLOATS else "float32"
        self.stored_dtype = self.dtype

    def _bytes(self, record: Record, start: int, stop: int) -> NDArray[np.uint8]:
        size = BYTES[record.dtype]
        return self.file.bytes()[record.start + start * size : record.start + stop * size]

    def flat(self, start: int, stop: int) -> Tensor:
        skipped = self._first * self._width
        # a copy: the file promises no alignment
        raw = self._bytes(self._record, skipped + start, skipped + stop).copy()
        if self._scale is not None:
            return torch.from_numpy(self._dequantised(raw, start, stop))
        return torch.from_numpy(raw).view(getattr(torch, self.dtype))

    def _dequantised(self, raw: NDArray[np.uint8], start: int, stop: int) -> NDArray[np.float32]:
        assert self._scale is not None
        whole = raw.view(np.dtype(self._record.dtype)).astype(np.float32)
        scales = self._bytes(self._scale, 0, int(np.prod(self._scale.shape, dtype=np.int64))).copy().view(np.float32)
        if len(scales) == 1 and not self._scale.shape:
            return whole / scales
        rows = self._first + np.arange(start, stop) // self._width
        return whole / scales[rows]

    def read(self) -> Tensor:
        return self.flat(0, int(np.prod(self.shape))).reshape(self.shape)


def open_weights(place: Path) -> tuple[dict[str, LazyTensor], JsonObject]:
    """(tensors under transformers' names, config), no matrix read; `CheckpointError` where it is no whole Whisper."""
    found = read(place / WEIGHTS)
    config = found.config
    problem = next(found.problems(config), "")
    if problem:
        raise _damaged(found.path, problem)
    file = MappedFile(found.path)
    tensors: dict[str, LazyTensor] = {}
    for variable in variables(config):
        if variable.name == HEAD and config["tie_word_embeddings"]:
            continue
        record, row = found.record(variable.name), 0
        assert record is not None
        for part in variable.parts:
            tensor = CTranslate2Tensor(part, record, found.scale(record), row, file)
            row += part.shape[0]
            if part.tensor:
                tensors[part.tensor] = tensor
            elif tensor.read().any():
                raise _damaged(found.path, f"{variable.name} has a bias of keys, which Whisper has not")
    return tensors, config
