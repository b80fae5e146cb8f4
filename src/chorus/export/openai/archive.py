"""PyTorch's archive, written tensor by tensor: a zip of a pickle that names the tensors, and one record of bytes each.

`torch.save` wants all values in memory at once, a large Whisper's 3 GB. The layout is that of torch 2.13
(torch.serialization): the pickle holds strings, integers and references to records, nothing else.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, BinaryIO

import numpy as np

from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.shards import Stored
from chorus.checkpoints.writer import explained
from chorus.export.values import Array
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

ROOT, PICKLE = "archive", "data.pkl"
ALIGNED = 64  # bytes: where records begin, so that they can be mapped into memory
BEGINNING = (1980, 1, 1, 0, 0, 0)  # the first time that a zip knows: the same model gives the same bytes
MOST = 10_000_000  # bytes of a pickle that is looked at: a large Whisper's has 200,000
STORAGES = {
    "float64": "DoubleStorage", "float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage", "int16": "ShortStorage", "int8": "CharStorage",
    "uint8": "ByteStorage", "bool": "BoolStorage",
}  # fmt: skip
# what openai-whisper's own files call: a type that they have not is damage
KNOWN = {"torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch FloatStorage", "torch HalfStorage"}
OTHER_CALLS = ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4")


@dataclass(frozen=True)
class _Record:
    """The values of a tensor, by the record that holds them."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _Tensor:
    """A tensor as the pickle names it."""

    record: _Record
    shape: tuple[int, ...]

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        strides = tuple(int(np.prod(self.shape[i + 1 :], dtype=np.int64)) for i in range(len(self.shape)))
        hooks: OrderedDict[str, object] = OrderedDict()
        return torch._utils._rebuild_tensor_v2, (self.record, 0, self.shape, strides, False, hooks)


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> object:
        if isinstance(obj, _Record):
            return "storage", getattr(torch, STORAGES[obj.dtype]), obj.key, "cpu", obj.count
        return None


class Archive:
    """A checkpoint of tensors under a key, behind what else stands in it; their values come afterwards, in order.

    `stored` are (name, type, shape).
    """

    def __init__(
        self, path: Path, file: BinaryIO, before: Mapping[str, object], key: str, stored: Sequence[Stored]
    ) -> None:
        self.path = path
        counts = [int(np.prod(shape, dtype=np.int64)) for _, _, shape in stored]
        tensors = {
            name: _Tensor(_Record(str(i), dtype, counts[i]), tuple(shape))
            for i, (name, dtype, shape) in enumerate(stored)
        }
        told = io.BytesIO()
        _Pickler(told, protocol=2).dump({**before, key: tensors})
        self._sizes = [count * itemsize(dtype) for count, (_, dtype, _) in zip(counts, stored, strict=True)]
        self._next, self._left = 0, 0
        self._record: IO[bytes] | None = None
        self._zip = zipfile.ZipFile(file, "w", zipfile.ZIP_STORED)
        with explained(path):
            self._small(PICKLE, told.getvalue())
            self._small("byteorder", b"little")

    def _small(self, name: str, data: bytes) -> None:
        self._zip.writestr(self._info(name, len(data)), data)

    def _info(self, name: str, size: int) -> zipfile.ZipInfo:
        info = zipfile.ZipInfo(f"{ROOT}/{name}", BEGINNING)
        info.file_size = size
        # what fills up to the next record's beginning is a field of its header, as torch does it
        used = self._zip.fp.tell() + 30 + len(info.filename) + 4 if self._zip.fp is not None else 0
        fill = -used % ALIGNED
        info.extra = struct.pack("<2sH", b"FB", fill) + b"Z" * fill
        return info

    def begin(self) -> None:
        """The next tensor."""
        self._record = self._zip.open(self._info(f"data/{self._next}", self._sizes[self._next]), "w")
        self._left = self._sizes[self._next]
        self._next += 1

    def values(self, values: Array) -> None:
        """The next of its values, in the type of the archive."""
        data = np.ascontiguousarray(values).reshape(-1).view(np.uint8).data
        assert self._record is not None
        with explained(self.path):
            self._record.write(data)
        self._left -= len(data)

    def end(self) -> None:
        assert self._record is not None
        assert self._left == 0, "a tensor of another size than the pickle says"
        with explained(self.path):
            self._record.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if kind is not None:
            # the caller takes the file away; what is left open would complain when it is collected
            for one in (self._record, self._zip):
                with suppress(OSError, ValueError, RuntimeError):
                    if one is not None:
                        one.close()
            return
        with explained(self.path):
            self._small("version", b"3\n")
            self._zip.close()


def looks_so(path: Path) -> bool:
    """Whether a file is an openai-whisper checkpoint, told by the words of its pickle: nothing is unpickled."""
    try:
        with zipfile.ZipFile(path) as archive:
            found = [one for one in archive.infolist() if one.filename.endswith(f"/{PICKLE}")]
            if len(found) != 1 or found[0].file_size > MOST or found[0].compress_type != zipfile.ZIP_STORED:
                return False
            words = list(pickletools.genops(archive.read(found[0])))
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError):
        return False
    texts = {arg for _, arg, _ in words if isinstance(arg, str)}
    called = {str(arg) for code, arg, _ in words if code.name == "GLOBAL"}
    # other ways to name what is called belong to later protocols, which torch does not write
    plain = called <= KNOWN and not any(code.name in OTHER_CALLS for code, _, _ in words)
    return plain and {"dims", "model_state_dict"} <= texts
