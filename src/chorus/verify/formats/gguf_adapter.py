"""llama.cpp's file of an adapter beside the adapter on its base."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from chorus.checkpoints.model import Model
from chorus.errors import CheckpointError, some
from chorus.export.ggml.layout import TYPES, NumberType, count_of
from chorus.export.gguf.adapter import EMBEDDING, Adapted, adapted
from chorus.export.gguf.kinds import kind_of
from chorus.export.gguf.tensors import GgufTensor
from chorus.verify.formats import gguf_file
from chorus.verify.formats.blocks import held_values, not_finite, proof
from chorus.verify.formats.gguf import (
    behind,
    blocks_of,
    file_type,
    held,
    main_type,
    refuse_other_kind,
    values_in,
    wanted,
)
from chorus.verify.formats.gguf_file import GgufHeld, read
from chorus.verify.protocol import Subject, TensorProof
from chorus.verify.structure import OtherSourceError, other_tensors
from chorus.verify.values import Distance
from chorus.verify.verdict import Verdict, judged

ALPHA = "adapter.lora.alpha"
# the most that B A may be off by, relative to its own size: about three times the worst of what was measured, 1.5e-7,
# 3.1e-4, 2.5e-3 and 8.0e-3 (ranks 4 to 32, factors of 0.02 to 0.5, queries turned and not)
CHANGES = {"f32": 1e-6, "f16": 1e-3, "bf16": 8e-3, "q8_0": 0.025}


class GgufAdapterVerifier:
    """The format (see protocol.py)."""

    def takes(self, path: Path) -> bool:
        return gguf_file.takes(path, gguf_file.ADAPTER)

    def open(self, path: Path, source: Model) -> Subject:
        """As the protocol says; the source is a base with an adapter on it."""
        refuse_other_kind(source)
        found = read(path)
        try:
            # a module of scale 0 adds nothing, and is not written
            parts = [part for part in adapted(source) if part.scale]
        except CheckpointError as error:
            raise OtherSourceError(f"{source.label}: {error.message}", error.hint) from None
        alpha, kind = found.keys.get(ALPHA), main_type(found)
        # an alpha of 0 would make the factors of any adapter pass
        scale = alpha if isinstance(alpha, float) and 0 < alpha < np.inf else 0.0
        made = [entry for part in parts for entry in part.entries(scale or 1.0)]
        problems = list(other_tensors(held(found), wanted(found, made)))
        return Subject(
            path, "gguf-adapter", kind.name, not kind.quantised,
            structure=_structure(found, source, problems, kind, known=scale > 0),
            tensors=_tensors(found, parts, made) if scale and not problems else (), clients=(), nbytes=found.size,
            as_float16=sum(one.stored(TYPES["f16"]).nbytes(one.count) for one in made),
        )  # fmt: skip


def _structure(
    found: GgufHeld, source: Model, problems: list[str], kind: NumberType, *, known: bool
) -> Iterator[Verdict]:
    yield judged(0, "names, shapes and types", some(problems), f"{len(found.entries)} factors", problems=problems)
    yield file_type(found, kind)
    yield behind(found)
    said = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": kind_of(source).name}
    other = [f"{name} is {found.keys.get(name)}, not {value}" for name, value in said.items()
             if found.keys.get(name) != value]  # fmt: skip
    other += [] if known else [f"{ALPHA} is {found.keys.get(ALPHA)}"]
    yield judged(
        0, "what it says it is", some(other, 2), f"a LoRA for {kind_of(source).name}, alpha {found.keys.get(ALPHA)}"
    )
    yield judged(0, "no NaN, no infinity", some(not_finite(blocks_of(found))))


def _tensors(found: GgufHeld, parts: list[Adapted], made: list[GgufTensor]) -> Iterator[TensorProof]:
    by_name = {one.name: one for one in made}
    for one in blocks_of(found):
        yield proof(one, values_in(by_name[one.name].parts()))
    for part in parts:
        yield _change(found, part)


def _change(found: GgufHeld, part: Adapted) -> TensorProof:
    """What a module's factors add, as llama.cpp computes it, beside what the adapter adds to the base's weight."""
    a, b = (_whole(found, f"{part.name}.{slot}") for slot in ("lora_a", "lora_b"))
    change = found.keys[ALPHA] / b.shape[1] * (b @ a)
    # an embedding's factors are looked up by token, which is the other way round
    mine = (change.T if part.name == EMBEDDING else _back(change, part.heads)).reshape(-1)
    theirs = part.tensor.difference(0, count_of(part.tensor.shape))
    if theirs is None:
        raise CheckpointError(f"{part.name}: more than factors", "verify the merged model's file instead")
    distance = Distance()
    distance.add(mine, theirs.float().numpy().reshape(-1))
    kind, error = found.entries[f"{part.name}.lora_b"].kind.name, distance.error
    bound = CHANGES[kind]
    problem = "" if error <= bound else f"adds what is off by {error:.2g} of its size; {kind} keeps within {bound:g}"
    return TensorProof(part.name, f"{kind}, as products", None, error, problem)


def _whole(found: GgufHeld, name: str) -> NDArray[np.float32]:
    entry = found.entries[name]
    return held_values(found.raw(name, 0, count_of(entry.shape)), entry.kind).reshape(entry.shape)


def _back(rows: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows from llama.cpp's order, in pairs, to transformers', in halves."""
    if not heads:
        return rows
    width = len(rows) // heads
    places = np.arange(len(rows))
    half, within = places % width // (width // 2), places % (width // 2)
    found: NDArray[np.float32] = rows[places // width * width + 2 * within + half]
    return found
