"""What stands where in whisper.cpp's file: the header, number types, which tensor has which."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields

from chorus.architectures.openai_whisper import dimensions
from chorus.plain import JsonMap

MAGIC = 0x67676D6C  # "ggml"
BINS = 201  # of the transform of 400 samples, whose mel filters the file holds
QUANTISATION = 2  # the version of ggml's blocks, in the thousands of a quantised file's type


@dataclass(frozen=True)
class NumberType:
    """How values are stored: `file` in the header, `tensor` before each tensor, so many values in so many bytes."""

    name: str
    file: int
    tensor: int
    values: int
    bytes: int
    bits: float
    doc: str

    @property
    def quantised(self) -> bool:
        return self.values > 1

    def nbytes(self, count: int) -> int:
        return count // self.values * self.bytes


def _type(name: str, file: int, tensor: int, values: int, size: int, doc: str) -> NumberType:
    return NumberType(name, file, tensor, values, size, 8 * size / values, doc)


TYPES: dict[str, NumberType] = {
    one.name: one
    for one in (
        _type("f32", 0, 0, 1, 4, "float32, as the source is; not for whisper.cpp before 1.9"),
        _type("f16", 1, 1, 1, 2, "float16"),
        _type("bf16", 24, 30, 1, 2, "bfloat16"),
        _type("q8_0", 7, 8, 32, 34, "8 bits"),
        _type("q5_0", 8, 6, 32, 22, "5 bits"),
        _type("q5_1", 9, 7, 32, 24, "5 bits, with a minimum"),
        _type("q4_0", 2, 2, 32, 18, "4 bits"),
        _type("q4_1", 3, 3, 32, 20, "4 bits, with a minimum"),
        _type("iq4_nl", 19, 20, 32, 18, "4 bits, on a curve"),
        _type("q6_k", 14, 14, 256, 210, "6 bits in blocks of 256"),
        _type("q5_k", 13, 13, 256, 176, "5 bits in blocks of 256"),
        _type("q4_k", 12, 12, 256, 144, "4 bits in blocks of 256"),
        _type("q3_k", 11, 11, 256, 110, "3 bits in blocks of 256"),
        _type("q2_k", 10, 10, 256, 84, "2 bits in blocks of 256"),
    )
}
BY_FILE = {one.file: one for one in TYPES.values()}
BY_TENSOR = {one.tensor: one for one in TYPES.values()}


@dataclass(frozen=True)
class GgmlHeader:
    """The eleven numbers after the magic one. `ftype` counts the version of its blocks in thousands."""

    n_vocab: int
    n_audio_ctx: int
    n_audio_state: int
    n_audio_head: int
    n_audio_layer: int
    n_text_ctx: int
    n_text_state: int
    n_text_head: int
    n_text_layer: int
    n_mels: int
    ftype: int

    def packed(self) -> bytes:
        return struct.pack("<12i", MAGIC, *astuple(self))

    @classmethod
    def unpacked(cls, data: bytes) -> GgmlHeader:
        """Of the 44 bytes after the magic number."""
        return cls(*struct.unpack("<11i", data))

    @property
    def dims(self) -> dict[str, int]:
        """openai-whisper's dimensions."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "ftype"}


def header_of(config: JsonMap, kind: NumberType, size: int) -> GgmlHeader:
    """The header of a model with this config, of `size` tokens, in this type."""
    # the loader takes the number modulo 1000, and its own tool writes the version all the same
    version = QUANTISATION * kind.quantised
    return GgmlHeader(**{**dimensions(config), "n_vocab": size}, ftype=kind.file + 1000 * version)


def shapes(dims: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor by what its name ends with, longest first; a block's are the same in every block."""
    d, f = dims["n_audio_state"], 4 * dims["n_audio_state"]
    return {
        "encoder.conv1.weight": (d, dims["n_mels"], 3),
        "encoder.conv2.weight": (d, d, 3),
        "encoder.positional_embedding": (dims["n_audio_ctx"], d),
        "decoder.positional_embedding": (dims["n_text_ctx"], d),
        "decoder.token_embedding.weight": (dims["n_vocab"], d),
        "conv1.bias": (d, 1), "conv2.bias": (d, 1),  # two dimensions here, one everywhere else
        "mlp.0.weight": (f, d), "mlp.0.bias": (f,), "mlp.2.weight": (d, f), "mlp.2.bias": (d,),
        "query.weight": (d, d), "key.weight": (d, d), "value.weight": (d, d), "out.weight": (d, d),
        "weight": (d,), "bias": (d,),
    }  # fmt: skip


def shape_of(name: str, known: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Of a tensor under openai-whisper's name; `known` are the `shapes`."""
    return next(shape for ending, shape in known.items() if name == ending or name.endswith(f".{ending}"))


def stored(name: str, shape: tuple[int, ...], kind: NumberType) -> NumberType:
    """The type that a tensor has in a file of this type: only matrices are in it.

    whisper.cpp takes no other: it makes room by the header and does not look at the tensor's own type.
    """
    # convolutions are read as float16 only, but for a file that is float32 throughout
    if len(shape) == 3:
        return TYPES["f32"] if kind.name == "f32" else TYPES["f16"]
    plain = len(shape) == 1 or name.endswith(("positional_embedding", "conv1.bias", "conv2.bias"))
    return TYPES["f32"] if plain else kind


def row_of(shape: tuple[int, ...]) -> int:
    """Values in a row, which blocks may not cross."""
    return shape[-1]


def count_of(shape: tuple[int, ...]) -> int:
    return math.prod(shape)


def fitting(width: int, kind: NumberType) -> str:
    """The type nearest in size that rows of `width` values (and of four times as many) allow."""
    able = [one for one in TYPES.values() if width % one.values == 0]
    return min(able, key=lambda one: (abs(one.bits - kind.bits), -one.bits)).name
