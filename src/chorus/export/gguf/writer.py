"""Files of the `gguf` package's writer whose tensors are streamed: several types from one read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from chorus.checkpoints.writer import explained
from chorus.export.ggml.layout import TYPES, NumberType
from chorus.export.ggml.quants import as_blocks
from chorus.export.gguf.package import Keys, package
from chorus.export.gguf.tensors import GgufTensor
from chorus.export.values import Array, as_bfloat16, as_float16, as_float32
from chorus.progress import Progress

MAGIC = b"GGUF"
# LlamaFileType of files whose matrices are all in one type; the k-quants' S is the plainest mixture of llama.cpp's
FILE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q5_0": 8, "q5_1": 9, "q2_k": 10, "q3_k": 11, "q4_k": 14,
    "q5_k": 16, "q6_k": 18, "iq4_nl": 25, "bf16": 32,
}  # fmt: skip


class GgufFile:
    """A file that begins with the package's keys and list of tensors, and goes on with what is written to it."""

    def __init__(self, path: Path, architecture: str) -> None:
        self.path = path
        # without a path: it would open the file before anything is known to be in order
        self.keys = package().GGUFWriter(path=None, arch=architecture)

    def begin(self, made: Sequence[GgufTensor], kind: NumberType) -> None:
        """Everything before the first tensor's values."""
        for entry in made:
            # the writer takes type and size as given, so that no array is needed before its turn
            stored = entry.stored(kind)
            number = package().GGMLQuantizationType(stored.tensor)
            self.keys.add_tensor_info(
                entry.name, entry.shape, np.dtype(np.float32), stored.nbytes(entry.count), raw_dtype=number
            )
        with explained(self.path):
            self.keys.write_header_to_file(self.path)
            self.keys.write_kv_data_to_file()
            self.keys.write_ti_data_to_file()
            # where the first tensor begins the list does not say: readers round up to this themselves
            self.keys.write_padding(self._file, self._file.tell())

    @property
    def _file(self) -> BinaryIO:
        file: BinaryIO = self.keys.fout[0]  # the package splits files on request; here there is one
        return file

    def write(self, data: Array) -> None:
        with explained(self.path):
            self._file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)

    def end_tensor(self) -> None:
        """Zeros up to where the next one may begin."""
        with explained(self.path):
            self.keys.write_padding(self._file, self._file.tell())

    def __enter__(self) -> GgufFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self.keys.fout is None:  # it failed before there was a file
            return
        with explained(self.path):
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())  # the name that it gets afterwards must not outlive its content
            self.keys.close()


def write(
    architecture: str,
    made: Sequence[GgufTensor],
    places: Mapping[str, Path],
    describe: Callable[[Keys, NumberType], None],
    progress: Progress,
) -> None:
    """Write every type to its place. `describe` adds the keys of a file to the package's writer."""
    done, total = 0, sum(entry.count for entry in made)
    with ExitStack() as stack:
        files = {TYPES[name]: stack.enter_context(GgufFile(path, architecture)) for name, path in places.items()}
        for kind, file in files.items():
            describe(file.keys, kind)
            file.begin(made, kind)
        for entry in made:
            kinds = {kind: entry.stored(kind) for kind in files}
            # one read for all types: sources are read from a disk, or merged, while they are written
            for part in entry.parts():
                cast = {one: as_stored(part, entry, one) for one in set(kinds.values())}
                for kind, file in files.items():
                    file.write(cast[kinds[kind]])
                done += len(part)
                progress(done, total)
            for file in files.values():
                file.end_tensor()


def as_stored(values: Array, entry: GgufTensor, kind: NumberType) -> Array:
    """Flattened values in a type; refused where one is no number or lies beyond it."""
    if kind.name == "f32":
        return as_float32(values, entry.source)
    if kind.name == "f16":
        return as_float16(values, entry.source)
    if kind.name == "bf16":
        return as_bfloat16(values, entry.source)
    return as_blocks(as_float32(values, entry.source).reshape(-1, entry.row), kind, entry.source)


def nbytes(made: Sequence[GgufTensor], kind: NumberType) -> int:
    """Of the tensors, with what pads them."""
    return sum(entry.stored(kind).nbytes(entry.count) + 32 + len(entry.name) + 64 for entry in made)
