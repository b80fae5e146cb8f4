"""Weights into safetensors files, in as many types as are wanted from one read."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from chorus.checkpoints.dtypes import FLOATS, itemsize
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, KeepingTensor, LazyTensor
from chorus.checkpoints.model import INDEX, Model
from chorus.checkpoints.shards import Shard, Stored, index_of, lay_out, nbytes_of
from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import OutputFile
from chorus.export.values import BLOCK, Array, as_bfloat16, as_float16, as_float32, finite, numbers
from chorus.lazy import lazy
from chorus.progress import Progress

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

OWN = "own"  # the type of a result whose tensors have those of the source


def stored_in(checkpoint: Checkpoint, kind: str) -> list[Stored]:
    """Every tensor as it will be stored; counters, positions and masks in integers keep their type."""
    # under the mapping's names, not the tensors' own: wrappers may have been taken off
    every = ((name, tensor.stored_dtype, tensor.shape) for name, tensor in checkpoint.items())
    return [(name, kind if kind != OWN and dtype in FLOATS else dtype, shape) for name, dtype, shape in every]


def write_weights(
    model: Model, places: Mapping[str, Path], max_shard_bytes: int, progress: Progress
) -> tuple[dict[str, list[Stored]], list[str]]:
    """Write the weights of every type into its directory; (what each holds, tensors with NaN or infinity in them).

    A type's name is `own` or torch's. What is cast may hold neither; what keeps its type keeps its bytes.
    """
    unsound: dict[str, None] = {}
    stored = {kind: stored_in(model.checkpoint, kind) for kind in places}
    outputs = [_Files(place, stored[kind], max_shard_bytes) for kind, place in places.items()]
    done, total = 0, sum(math.prod(tensor.shape) for tensor in model.checkpoint.values())
    try:
        for i, (name, tensor) in enumerate(model.checkpoint.items()):
            types = {kind: tensors[i][1] for kind, tensors in stored.items()}
            for start, stop, cast in _blocks(tensor, name, set(types.values())):
                if tensor.dtype in cast and not finite(cast[tensor.dtype], tensor.dtype):
                    unsound[name] = None
                for output, dtype in zip(outputs, types.values(), strict=True):
                    output.write(name, start * itemsize(dtype), cast[dtype])
                done += stop - start
                progress(done, total)
            if isinstance(tensor, KeepingTensor):
                tensor.release()
    finally:
        for output in outputs:
            output.close()
    return stored, list(unsound)


def _blocks(tensor: LazyTensor, name: str, types: set[str]) -> Iterator[tuple[int, int, dict[str, Array]]]:
    """(start, stop, the values in each type) of a tensor piece by piece."""
    count = math.prod(tensor.shape)
    for start in range(0, count, BLOCK):
        stop = min(start + BLOCK, count)
        if types == {tensor.dtype}:
            yield start, stop, {tensor.dtype: _raw(tensor, start, stop)}
        else:
            values = numbers(tensor, start, stop)
            yield start, stop, {dtype: _cast(values, dtype, name) for dtype in types}


def _raw(tensor: LazyTensor, start: int, stop: int) -> Array:
    if isinstance(tensor, FileTensor):
        return tensor.bytes(start, stop)
    values = tensor.flat(start, stop).detach().cpu().contiguous()
    found: Array = values.view(torch.uint8).numpy()
    return found


def _cast(values: Array, dtype: str, name: str) -> Array:
    if dtype == "float16":
        return as_float16(values, name)
    if dtype == "bfloat16":
        return as_bfloat16(values, name)
    return as_float32(values, name) if dtype == "float32" else values.astype(np.float64, copy=False)


class _Files:
    """One result's weight files, written one after the other in the order of the tensors."""

    def __init__(self, place: Path, tensors: Sequence[Stored], max_shard_bytes: int) -> None:
        self.place = place
        shards = lay_out(tensors, max_shard_bytes)
        self.of = {name: shard for shard in shards for name in shard.starts}
        self.shard: Shard | None = None
        self.file: OutputFile | None = None
        if len(shards) > 1:
            place.mkdir(parents=True, exist_ok=True)
            write_json(place / INDEX, index_of(shards))

    def write(self, name: str, offset: int, values: Array) -> None:
        shard = self.of[name]
        # one file open at a time: a model of a thousand shards would meet the system's limit
        if self.file is None or shard is not self.shard:
            self.close()
            self.shard, self.file = shard, OutputFile(self.place / shard.file, shard.header, shard.size)
        self.file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8), shard.starts[name] + offset)

    def close(self) -> None:
        """Finish the file that is open."""
        if self.file is not None:
            self.file.close()
            self.file = None


def nbytes(checkpoint: Checkpoint, kind: str) -> int:
    """Bytes of the weights in a type."""
    return sum(map(nbytes_of, stored_in(checkpoint, kind)))
