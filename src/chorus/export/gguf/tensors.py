"""A model's tensors under GGUF's names, in llama.cpp's order of rows, piece by piece."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.ties import settled
from chorus.errors import CheckpointError
from chorus.export.ggml.layout import TYPES, NumberType
from chorus.export.gguf.kinds import LanguageKind, heads_of, kind_of, rope_of
from chorus.export.gguf.package import Package
from chorus.export.protocol import Requirement
from chorus.export.values import Array, as_they_lie
from chorus.plain import JsonMap


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of the file. `source` is its name in the model.

    parts: its values, flattened, in whole rows; bfloat16 as its bits (see `as_they_lie`).
    """

    name: str
    shape: tuple[int, ...]
    source: str
    parts: Callable[[], Iterator[Array]]

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def row(self) -> int:
        """Values that blocks may not cross."""
        return self.shape[-1]

    def stored(self, kind: NumberType) -> NumberType:
        """Its type in a file of this type: llama.cpp adds and multiplies norms and biases in float32 alone."""
        plain = len(self.shape) < 2 or self.name.endswith("_norm.weight")
        return TYPES["f32"] if plain else kind


def named(model: Model, package: Package) -> dict[str, tuple[str, LazyTensor]]:
    """GGUF's name -> (the architecture's, tensor); a head that is the embedding is left out, as llama.cpp knows it so.

    `CheckpointError` where GGUF, or llama.cpp for this architecture, has no place for one.
    """
    kind = kind_of(model)
    whole = settled(model)  # a stored copy of the embedding would be written, and run, twice
    table = package.get_tensor_name_map(_architecture(kind, package), int(model.config["num_hidden_layers"]))
    known = {package.TENSOR_NAMES[one] for one in package.MODEL_TENSORS[_architecture(kind, package)]}
    found = {}
    for own, stored in (whole.spelling or {name: name for name in whole.checkpoint}).items():
        name = table.get_name(own, try_suffixes=(".weight", ".bias"))
        module, _, slot = (name or "").rpartition(".")
        # the table knows names of every architecture, in which this one need not have a tensor
        bare = module.rpartition(".")[2]
        fits = any(one.rpartition(".")[2] == bare for one in known) and (slot != "bias" or bare in kind.biases)
        if name is None or not fits:
            raise CheckpointError(
                f"{model.label}: {own} has no place in a GGUF of a {kind.name}, and would be lost",
                "llama.cpp computes these models without it",
            )
        found[str(name)] = (own, whole.checkpoint[stored])
    return found


def _architecture(kind: LanguageKind, package: Package) -> object:
    return next(arch for arch, name in package.MODEL_ARCH_NAMES.items() if name == kind.name)


def entries(model: Model, package: Package) -> list[GgufTensor]:
    """Every tensor of the file, in the order in which the model has them; what scales positions comes first."""
    found = named(model, package)
    kind = kind_of(model)
    heads, keys, width = heads_of(model, {name: tensor.shape for name, (_, tensor) in found.items()})
    made = []
    # a tensor of no model's: llama.cpp has no key for this scaling
    if (factors := frequency_factors(model.config, width)) is not None:
        made.append(GgufTensor("rope_freqs.weight", factors.shape, "rope_parameters", partial(iter, [factors])))
    for name, (own, tensor) in found.items():
        count = turned_heads(name, kind, heads, keys)
        parts = partial(turned, tensor, count) if count else partial(as_they_lie, tensor, tensor.shape[-1])
        made.append(GgufTensor(name, tensor.shape, own, parts))
    return made


def turned_heads(name: str, kind: LanguageKind, heads: int, keys: int) -> int:
    """By how many heads the rows of a tensor are turned; 0 where they stay."""
    if not kind.permuted:
        return 0
    return {"attn_q": heads, "attn_k": keys}.get(name.split(".")[-2], 0)


def turned(tensor: LazyTensor, heads: int) -> Iterator[Array]:
    """Queries' or keys' weights, or their biases, of rows in pairs (see `pairs`); a few whole heads at a time."""
    columns = math.prod(tensor.shape[1:])  # 1 of a bias, whose values are turned as rows are
    rows = tensor.shape[0] // heads
    for part in as_they_lie(tensor, rows * columns):
        yield pairs(part.reshape(-1, columns), rows).reshape(-1)


def pairs(rows: Array, width: int) -> Array:
    """Rows [heads * width, n], turned: transformers rotates value i of a head with i + width / 2, llama.cpp with i + 1.

    So what stood in two halves stands in pairs.
    """
    halves = rows.reshape(-1, 2, width // 2, rows.shape[1])
    turned_rows: Array = np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
    return turned_rows


def frequency_factors(config: JsonMap, width: int) -> Array | None:
    """What each pair's frequency is divided by in Llama 3.1's scaling [width / 2]; None where it has none.

    As transformers computes it: long waves by the factor, short ones not at all, those between by a part of it.
    """
    rope = rope_of(config)
    if rope["rope_type"] != "llama3":
        return None
    factor, low, high, original = (
        float(rope[key])
        for key in ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    )
    # in float64 and rounded once, as no file can say how a runtime rounds on the way
    frequencies = 1 / float(rope["rope_theta"]) ** (np.arange(0, width, 2, dtype=np.float64) / width)
    waves = 2 * math.pi / frequencies
    with np.errstate(divide="ignore", invalid="ignore"):  # outside of the part that it is used for
        smooth = (original / waves - low) / (high - low)
        between = 1 / ((1 - smooth) / factor + smooth)
    found: Array = np.where(waves < original / high, 1.0, np.where(waves > original / low, factor, between))
    return found.astype(np.float32)


def check_rows(made: Sequence[GgufTensor], types: Sequence[str], able: Sequence[str]) -> list[Requirement]:
    """Whether every matrix's rows are whole blocks of each type; the nearest of `able` is named where they are not."""
    rows = {entry.row for entry in made if entry.stored(TYPES["f16"]).name == "f16"}
    found = []
    for name in types:
        kind = TYPES[name]
        odd = sorted(row for row in rows if row % kind.values)
        if not odd:
            found.append(Requirement(f"rows for {name}"))
            continue
        whole = [TYPES[one] for one in able if all(row % TYPES[one].values == 0 for row in rows)]
        nearest = min(whole, key=lambda one: (abs(one.bits - kind.bits), -one.bits))
        told = f"rows of {', '.join(map(str, odd))} values are no whole blocks of {kind.values}, which {name} has"
        remedy = f"--type {nearest.name}, the nearest that they allow (a mixture of types is not written)"
        found.append(Requirement(f"rows for {name}", told, remedy))
    return found
