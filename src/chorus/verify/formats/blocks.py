"""Tensors in ggml's number types, as whisper.cpp's and llama.cpp's files have them, beside the source's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chorus.errors import MissingExtraError
from chorus.export.ggml.layout import NumberType, count_of
from chorus.export.ggml.quants import SCALES, dequantised, needs, quantised
from chorus.export.values import BLOCK
from chorus.verify.protocol import TensorProof
from chorus.verify.values import Distance, Raw, finite, floats, rounded

PLAIN = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
# the most that a tensor may be off by, relative to its own size, where ggml is not there to make its blocks again: 1.2
# to 1.4 times what it was of values that are drawn (tests/unit/test_verify.py, which holds both sides)
ERRORS = {"q6_k": 0.03, "q5_k": 0.06, "q4_k": 0.12, "iq4_nl": 0.14, "q3_k": 0.24, "q2_k": 0.5}


@dataclass(frozen=True)
class BlockTensor:
    """A tensor of a file: `raw` gives the bytes of values so and so, which are whole blocks, in the source's order."""

    name: str
    kind: NumberType
    shape: tuple[int, ...]
    raw: Raw

    def pieces(self) -> Iterator[tuple[int, int]]:
        """From where to where it is looked at at a time: whole rows, whose blocks are whole ones."""
        total, row = count_of(self.shape), self.shape[-1]
        step = max(1, BLOCK // row) * row
        for start in range(0, total, step):
            yield start, min(start + step, total)


def not_finite(tensors: Iterable[BlockTensor]) -> Iterator[str]:
    """Tensors that hold what is no number; of a quantised one the scales are looked at, which alone can be none."""
    for one in tensors:
        if not all(_finite(one.raw(start, stop), one.kind) for start, stop in one.pieces()):
            yield one.name


def _finite(raw: NDArray[np.uint8], kind: NumberType) -> bool:
    if not kind.quantised:
        return finite(raw, PLAIN[kind.name])
    first, last = SCALES[kind.name]
    return finite(np.ascontiguousarray(raw.reshape(-1, kind.bytes)[:, first:last]).reshape(-1), "float16")


def proof(one: BlockTensor, values_of: Callable[[int, int], NDArray[np.float32]]) -> TensorProof:
    """A tensor beside the source's values, by bytes where its type can be made here."""
    kind = one.kind
    if needs(kind) == "export":
        raise MissingExtraError("export", f"comparing {kind.name}")
    remade, distance, first = not needs(kind), Distance(), -1
    for start, stop in one.pieces():
        values, raw = values_of(start, stop), one.raw(start, stop)
        if remade and first < 0:
            wanted = np.frombuffer(_cast(values, one.shape[-1], kind).tobytes(), np.uint8)
            other = np.flatnonzero(raw != wanted)
            first = kind.nbytes(start) + int(other[0]) if len(other) else -1
        distance.add(held_values(raw, kind), values)
    return TensorProof(
        one.name, kind.name, first < 0 if remade else None, distance.error,
        _problem(kind.name, first, distance.error, remade=remade),
    )  # fmt: skip


def _problem(kind: str, first: int, error: float, *, remade: bool) -> str:
    if remade:
        where = f"differs from the source in {kind} from its byte {first:,} on"
        return f"{where} (relative error {error:.2g})" if first >= 0 else ""
    bound = ERRORS[kind]
    return "" if error <= bound else f"is off by {error:.2g} of its size; {kind} keeps within {bound:g}"


def _cast(values: NDArray[np.float32], row: int, kind: NumberType) -> NDArray[np.generic]:
    if not kind.quantised:
        return rounded(values, PLAIN[kind.name])
    return quantised(np.ascontiguousarray(values).reshape(-1, row), kind)


def held_values(raw: NDArray[np.uint8], kind: NumberType) -> NDArray[np.float32]:
    """float32 of whole blocks."""
    if not kind.quantised:
        return floats(raw, PLAIN[kind.name])
    return dequantised(raw.reshape(-1, kind.bytes), kind).reshape(-1)
