"""An ONNX graph read without its weights, and the files that sherpa-onnx is given of a directory."""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

from chorus.checkpoints.lazy_tensor import MappedFile
from chorus.errors import CheckpointError
from chorus.export.onnx.graph import BYTES
from chorus.export.onnx.wire import LENGTH, Field, damaged, fields, read_varint, signed
from chorus.files import MAX_TOKENIZER, read_text, regular, shown

MOST = 1 << 20  # entries of any kind: large-v3 has some four thousand
# of TensorProto, GraphProto and ModelProto the numbers that are looked at
DIMS, DTYPE, NAME, RAW, OUTSIDE, WHERE = 1, 2, 8, 9, 13, 14
NODE, TITLE, CONSTANT, INPUT, OUTPUT = 1, 2, 5, 11, 12
IR, MADE_BY, GRAPH, OPERATORS, METADATA = 1, 2, 7, 8, 14


@dataclass(frozen=True)
class StoredAt:
    """A constant: where its bytes lie."""

    name: str
    dtype: int
    shape: tuple[int, ...]
    path: Path
    start: int
    nbytes: int


@dataclass
class OnnxFile:
    """All of a graph's file but the weights; nodes, inputs and outputs as the bytes that they are."""

    path: Path
    producer: str = ""
    nodes: list[bytes] = field(default_factory=list)
    records: dict[str, StoredAt] = field(default_factory=dict)
    inputs: list[bytes] = field(default_factory=list)
    outputs: list[bytes] = field(default_factory=list)
    metadata: dict[str, str] = field(default_factory=dict)
    nbytes: int = 0

    @property
    def input_names(self) -> list[str]:
        return [_first_text(one, self.path) for one in self.inputs]

    @property
    def output_names(self) -> list[str]:
        return [_first_text(one, self.path) for one in self.outputs]


@dataclass(frozen=True)
class GraphPaths:
    """What sherpa-onnx is given."""

    encoder: Path
    decoder: Path
    tokens: Path


def find(path: Path) -> GraphPaths | None:
    """The files of a directory, or those beside one of its graphs; of several pairs the unquantised. None: it has none.

    sherpa-onnx's own archives hold two pairs, `NAME-encoder.onnx` and `NAME-encoder.int8.onnx`.
    """
    if path.is_file():
        if not path.name.endswith(".onnx"):
            return None
        encoder = path.with_name(path.name.replace("decoder", "encoder"))
        found = [encoder] if "encoder" in encoder.name and encoder.is_file() else []
    else:
        found = sorted(path.glob("*encoder*.onnx"), key=lambda one: (one.name.count("."), one.name))
    for encoder in found:
        decoder = encoder.with_name(encoder.name.replace("encoder", "decoder"))
        tables = sorted(encoder.parent.glob("*tokens.txt"))
        own = [one for one in tables if one.name.removesuffix("tokens.txt") == encoder.name.partition("encoder")[0]]
        if decoder.is_file() and tables:
            return GraphPaths(encoder, decoder, (own or tables)[0])
    return None


def read(path: Path) -> OnnxFile:
    """Everything but the weights; `CheckpointError` where the file ends too early or cannot be followed."""
    size = regular(path, what="graph").st_size
    data = memoryview(MappedFile(path).bytes().data) if size else memoryview(b"")
    found = OnnxFile(path, nbytes=size)
    graphs = 0
    for one in fields(data, 0, size, path):
        if one.number == GRAPH and one.kind == LENGTH:
            graphs += 1
            _graph(found, data, one)
        elif one.number == MADE_BY:
            found.producer = _text(data, one, path)
        elif one.number == METADATA:
            found.metadata.update([_pair(data, one, path)])
    if graphs != 1:
        raise damaged(path, f"it holds {graphs} graphs")
    return found


def _graph(found: OnnxFile, data: memoryview, graph: Field) -> None:
    for count, one in enumerate(fields(data, graph.start, graph.stop, found.path)):
        if count > MOST:
            raise damaged(found.path, f"it holds more than {MOST:,} entries")
        if one.number == CONSTANT and one.kind == LENGTH:
            record = _record(found.path, data, one)
            if record.name in found.records:
                raise damaged(found.path, f"{shown(record.name)} stands in it twice")
            found.records[record.name] = record
        elif one.number in (NODE, INPUT, OUTPUT):
            kinds = {NODE: found.nodes, INPUT: found.inputs, OUTPUT: found.outputs}
            kinds[one.number].append(bytes(data[one.start : one.stop]))


def _record(path: Path, data: memoryview, entry: Field) -> StoredAt:
    shape: list[int] = []
    outside: dict[str, str] = {}
    dtype, name, raw = 0, "", None
    for one in fields(data, entry.start, entry.stop, path):
        if one.number == DIMS and one.kind == LENGTH:  # as newer writers pack them
            shape += _packed(data, one, path)
        elif one.number == DIMS:
            shape.append(signed(one.value))
        elif one.number == DTYPE:
            dtype = one.value
        elif one.number == NAME:
            name = _text(data, one, path)
        elif one.number == RAW:
            raw = one
        elif one.number == OUTSIDE:
            outside.update([_pair(data, one, path)])
    if any(size < 0 for size in shape):
        raise damaged(path, f"{shown(name)} has the shape {shape}")
    needed = BYTES.get(dtype, 0) * prod(shape)
    if raw is not None and not outside:
        if dtype in BYTES and raw.stop - raw.start != needed:
            raise damaged(path, f"{shown(name)} takes {raw.stop - raw.start:,} bytes, by its shape {needed:,}")
        return StoredAt(name, dtype, tuple(shape), path, raw.start, raw.stop - raw.start)
    if not outside:  # numbers in fields of their own, as small constants of other writers
        return StoredAt(name, dtype, tuple(shape), path, entry.start, 0)
    return _far(path, name, dtype, tuple(shape), needed, outside)


def _far(
    path: Path, name: str, dtype: int, shape: tuple[int, ...], needed: int, outside: Mapping[str, str]
) -> StoredAt:  # fmt: skip
    """Weights in a file of their own, which lies beside the graph."""
    location = outside.get("location", "")
    # a graph that names a path elsewhere is read by nobody
    if not location or Path(location).name != location:
        raise damaged(path, f"the weights of {shown(name)} lie at {shown(location)}, not beside it")
    place = path.with_name(location)
    size = regular(place, what="weights").st_size
    try:
        start, nbytes = int(outside.get("offset", "0")), int(outside.get("length", str(needed)))
    except ValueError:
        raise damaged(path, f"{shown(name)} lies nowhere in {location}") from None
    if dtype in BYTES and nbytes != needed:
        raise damaged(path, f"{shown(name)} takes {nbytes:,} bytes, by its shape {needed:,}")
    if start < 0 or start + nbytes > size:
        raise damaged(place, f"{shown(name)} ends at byte {start + nbytes:,}, the file at {size:,}")
    return StoredAt(name, dtype, shape, place, start, nbytes)


def _packed(data: memoryview, one: Field, path: Path) -> Iterator[int]:
    """Numbers one after the other."""
    start = one.start
    while start < one.stop:
        value, start = read_varint(data, start, one.stop, path)
        yield signed(value)


def _text(data: memoryview, one: Field, path: Path) -> str:
    try:
        return bytes(data[one.start : one.stop]).decode()
    except UnicodeDecodeError:
        raise damaged(path, f"at byte {one.start:,} stands no text") from None


def _pair(data: memoryview, one: Field, path: Path) -> tuple[str, str]:
    found = {inner.number: _text(data, inner, path) for inner in fields(data, one.start, one.stop, path)}
    return found.get(1, ""), found.get(2, "")


def _first_text(message: bytes, path: Path) -> str:
    data = memoryview(message)
    return next((_text(data, one, path) for one in fields(data, 0, len(data), path) if one.number == 1), "")


def token_table(path: Path) -> dict[int, bytes]:
    """Number -> bytes of each token; `CheckpointError` where a line is none."""
    found = {}
    for number, line in enumerate(read_text(path, MAX_TOKENIZER).removesuffix("\n").split("\n"), 1):
        word, _, i = line.partition(" ")
        try:
            found[int(i)] = b"" if word == "=" else binascii.a2b_base64(word, strict_mode=True)
        except (ValueError, binascii.Error):
            raise CheckpointError(
                f"{path}: line {number} is no token in base64 and its number", "export or download it again"
            ) from None
    return found
