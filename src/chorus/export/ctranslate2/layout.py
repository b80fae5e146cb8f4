"""What stands in CTranslate2's file of a Whisper: its variables, made of which tensors; number types; its constants."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from chorus.plain import JsonMap

WEIGHTS = "model.bin"
BINARY, SPECIFICATION, REVISION = 6, "WhisperSpec", 3
DTYPES = ("float32", "int8", "int16", "int32", "float16", "bfloat16")  # by their numbers in the file
BYTES = {"float32": 4, "int8": 1, "int16": 2, "int32": 4, "float16": 2, "bfloat16": 2}
FLOATS = ("float32", "float16", "bfloat16")
OWN = ""  # in place of a type: what the source has
GELU = 3  # its number among the activations
EMBEDDING, HEAD = "decoder/embeddings/weight", "decoder/projection/weight"


@dataclass(frozen=True)
class StoredType:
    """A type of the whole: what matrices are in, and what all else is in."""

    matrices: str
    others: str
    doc: str

    def of(self, variable: Variable, own: str) -> str:
        """What a variable is stored in; `own` is the source's type."""
        return (self.matrices if variable.matrix else self.others) or own


TYPES = {
    "float16": StoredType("float16", "float16", "float16; runs as float32 where the processor has no other"),
    "float32": StoredType("float32", "float32", "float32, as the source is"),
    "bfloat16": StoredType("bfloat16", "bfloat16", "bfloat16"),
    "int8": StoredType("int8", OWN, "8 bits with a scale a row; norms and biases in the source's own type"),
    "int8_float32": StoredType("int8", "float32", "8 bits, the rest in float32"),
    "int8_float16": StoredType("int8", "float16", "8 bits, the rest in float16"),
    "int8_bfloat16": StoredType("int8", "bfloat16", "8 bits, the rest in bfloat16"),
    "int16": StoredType("int16", "float32", "16 bits with one scale a matrix, the rest in float32"),
}


@dataclass(frozen=True)
class Part:
    """Rows of a variable: a tensor under transformers' name, or zeros where it has none (keys have no bias)."""

    tensor: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Variable:
    """One entry of the file: parts one below the other. `matrix` where it may be quantised."""

    name: str
    parts: tuple[Part, ...]
    matrix: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return (sum(part.shape[0] for part in self.parts), *self.parts[0].shape[1:])

    @property
    def row(self) -> int:
        """Values of a row."""
        return math.prod(self.shape[1:])

    @property
    def count(self) -> int:
        return math.prod(self.shape)


def constants(config: JsonMap) -> dict[str, tuple[str, int]]:
    """Name -> (type, value) of what the file says beside the weights: how many heads, and what a Whisper is not."""
    return {
        "decoder/activation": ("int8", GELU),
        "decoder/alibi": ("int8", 0),
        "decoder/alibi_use_positive_positions": ("int8", 0),
        # of translation models: a Whisper's heads of alignment stand in config.json
        "decoder/alignment_heads": ("int16", 1),
        "decoder/alignment_layer": ("int16", -1),
        "decoder/num_heads": ("int16", int(config["decoder_attention_heads"])),
        "decoder/pre_norm": ("int8", 1),
        "decoder/scale_alibi": ("int8", 0),
        "decoder/scale_embeddings": ("int8", 0),
        "decoder/start_from_zero_embedding": ("int8", 0),
        "encoder/num_heads": ("int16", int(config["encoder_attention_heads"])),
    }


def variables(config: JsonMap) -> Iterator[Variable]:
    """Every variable of a Whisper with this config, the head among them."""
    d, size = int(config["d_model"]), int(config["vocab_size"])
    tops = {
        "encoder/conv1": ("model.encoder.conv1", (d, int(config["num_mel_bins"]), 3)),
        "encoder/conv2": ("model.encoder.conv2", (d, d, 3)),
    }
    for name, (tensor, shape) in tops.items():
        yield from _linear(name, (tensor,), shape)
    for side, positions in (("encoder", "max_source_positions"), ("decoder", "max_target_positions")):
        table = Part(f"model.{side}.embed_positions.weight", (int(config[positions]), d))
        yield Variable(f"{side}/position_encodings/encodings", (table,))
        yield from _norm(f"{side}/layer_norm", f"model.{side}.layer_norm", d)
        for i in range(int(config[f"{side}_layers"])):
            yield from _layer(f"{side}/layer_{i}", f"model.{side}.layers.{i}", d, int(config[f"{side}_ffn_dim"]))
    yield Variable(EMBEDDING, (Part("model.decoder.embed_tokens.weight", (size, d)),), matrix=True)
    yield Variable(HEAD, (Part("proj_out.weight", (size, d)),), matrix=True)


def _layer(name: str, tensor: str, d: int, inner: int) -> Iterator[Variable]:
    """A layer: query, key and value are one matrix; in attention to the encoder key and value are."""
    kinds = [("self_attention", "self_attn", ["q_proj k_proj v_proj", "out_proj"])]
    if name.startswith("decoder"):
        kinds.append(("attention", "encoder_attn", ["q_proj", "k_proj v_proj", "out_proj"]))
    for here, there, fused in kinds:
        yield from _norm(f"{name}/{here}/layer_norm", f"{tensor}.{there}_layer_norm", d)
        for i, matrices in enumerate(fused):
            yield from _linear(
                f"{name}/{here}/linear_{i}", [f"{tensor}.{there}.{one}" for one in matrices.split()], (d, d)
            )
    yield from _norm(f"{name}/ffn/layer_norm", f"{tensor}.final_layer_norm", d)
    yield from _linear(f"{name}/ffn/linear_0", (f"{tensor}.fc1",), (inner, d))
    yield from _linear(f"{name}/ffn/linear_1", (f"{tensor}.fc2",), (d, inner))


def _linear(name: str, tensors: list[str] | tuple[str, ...], shape: tuple[int, ...]) -> Iterator[Variable]:
    yield Variable(f"{name}/weight", tuple(Part(f"{one}.weight", shape) for one in tensors), matrix=True)
    biases = [Part("" if one.endswith(".k_proj") else f"{one}.bias", shape[:1]) for one in tensors]
    yield Variable(f"{name}/bias", tuple(biases))


def _norm(name: str, tensor: str, d: int) -> Iterator[Variable]:
    yield Variable(f"{name}/gamma", (Part(f"{tensor}.weight", (d,)),))
    yield Variable(f"{name}/beta", (Part(f"{tensor}.bias", (d,)),))
