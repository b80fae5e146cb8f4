"""A Whisper into whisper.cpp's file, in as many types as are wanted from one read."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from chorus.architectures.openai_whisper import dimensions
from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError
from chorus.export import whisper
from chorus.export.ggml.layout import TYPES, NumberType, count_of, header_of, row_of, shape_of, shapes, stored
from chorus.export.ggml.mel import mel_filters
from chorus.export.ggml.quants import as_blocks
from chorus.export.output import Sink, new_file
from chorus.export.values import Array, as_bfloat16, as_float16, as_float32, as_they_lie
from chorus.progress import Progress


def write(model: Model, places: Mapping[str, Path], size: int, progress: Progress) -> dict[str, str]:
    """Write every type to its place; the digest (XXH3-128) of each file. `size` is that of the vocabulary."""
    dims = {**dimensions(model.config), "n_vocab": size}
    known = shapes(dims)
    done, total = 0, sum(count_of(shape_of(name, known)) for name, _ in whisper.tensors(model))
    with ExitStack() as stack:
        sinks = {TYPES[name]: Sink(path, stack.enter_context(new_file(path))) for name, path in places.items()}
        head = _beginning(whisper.text_tokens(model, size), dims["n_mels"])
        for kind, sink in sinks.items():
            sink.write(header_of(model.config, kind, size).packed())
            sink.write(head)
        for name, tensor in whisper.tensors(model):
            shape = shape_of(name, known)
            wanted = (shape[0], *tensor.shape[1:]) if name == "decoder.token_embedding.weight" else tensor.shape
            if count_of(shape) != count_of(wanted):
                raise CheckpointError(f"{model.label}: {name} has {tensor.shape}, not {shape}", "save it again")
            kinds = {kind: stored(name, shape, kind) for kind in sinks}
            for kind, sink in sinks.items():
                sink.write(_record(name, shape, kinds[kind]))
            left = count_of(shape)
            for part in as_they_lie(tensor, row_of(shape)):
                values = part[:left]  # rows of padding at the end stay out
                cast = {one: _cast(values, row_of(shape), one, name) for one in set(kinds.values())}
                for kind, sink in sinks.items():
                    sink.write(cast[kinds[kind]])
                left -= len(values)
                done += len(values)
                progress(done, total)
        return {kind.name: sink.digest for kind, sink in sinks.items()}


def _beginning(tokens: Sequence[bytes], mels: int) -> bytes:
    """Between the header and the tensors: mel filters and text tokens."""
    filters = mel_filters(mels)
    # no filters of the model's own: every Whisper has these, and old directories hold none
    parts = [struct.pack("<2i", *filters.shape), filters.tobytes(), struct.pack("<i", len(tokens))]
    for token in tokens:
        parts += [struct.pack("<i", len(token)), token]
    return b"".join(parts)


def _record(name: str, shape: tuple[int, ...], kind: NumberType) -> bytes:
    """Before each tensor: dimensions, length of its name, type; the sizes, fastest first; the name."""
    encoded = name.encode()
    numbers = (len(shape), len(encoded), kind.tensor, *reversed(shape))
    return struct.pack(f"<{len(numbers)}i", *numbers) + encoded


def _cast(values: Array, row: int, kind: NumberType, name: str) -> Array:
    if kind.name == "f32":
        return as_float32(values, name)
    if kind.name == "f16":
        return as_float16(values, name)
    if kind.name == "bf16":
        return as_bfloat16(values, name)
    return as_blocks(as_float32(values, name).reshape(-1, row), kind, name)


def nbytes(model: Model, kind: NumberType, size: int) -> int:
    """Bytes of the file but for the tokens' own, which are known when they are read."""
    dims = {**dimensions(model.config), "n_vocab": size}
    known = shapes(dims)
    total = 64 + 4 * dims["n_mels"] * 201
    for name, _ in whisper.tensors(model):
        shape = shape_of(name, known)
        total += stored(name, shape, kind).nbytes(count_of(shape)) + len(name) + 4 * (3 + len(shape))
    return total
