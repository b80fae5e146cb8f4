"""Blocks of quantised values: by the `gguf` package, or by ggml itself where pywhispercpp carries it.

Both give the bytes of whisper.cpp's own tool. ggml's k-quants and iq4_nl the package can only read.
"""

from __future__ import annotations

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chorus.errors import CheckpointError, MissingExtraError
from chorus.export.ggml.layout import NumberType
from chorus.export.values import finite

BY_PACKAGE = ("q8_0", "q5_0", "q5_1", "q4_0", "q4_1")
LARGEST = 65504 * 127 * 32  # q6_k's: a scale of blocks, one of a block's sixteen, a value
ROWS = 256  # that ggml is given at a time
# where a block has its scales and minima, float16 all of them: (from, to) in bytes. Known from ggml-common.h
SCALES = {
    "q8_0": (0, 2), "q5_0": (0, 2), "q4_0": (0, 2), "iq4_nl": (0, 2), "q5_1": (0, 4), "q4_1": (0, 4), "q4_k": (0, 4),
    "q5_k": (0, 4), "q2_k": (80, 84), "q3_k": (108, 110), "q6_k": (208, 210),
}  # fmt: skip


def needs(kind: NumberType) -> str:
    """The extra that a type needs; empty where it needs none, or has it."""
    if not kind.quantised:
        return ""
    if kind.name in BY_PACKAGE:
        return "" if find_spec("gguf") is not None else "export"
    return "" if library() is not None else "verify"


def as_blocks(rows: NDArray[np.float32], kind: NumberType, name: str) -> NDArray[np.uint8]:
    """As `quantised`; refused where a block's scale, which is float16 in every type, lies beyond that."""
    blocks = quantised(rows, kind)
    first, last = SCALES[kind.name]
    scales = np.ascontiguousarray(blocks.reshape(-1, kind.bytes)[:, first:last]).reshape(-1)
    # beyond every type's largest, where the sums of some run over, and leave a scale of zero
    if not finite(scales, "float16") or max(rows.max(), -rows.min()) > LARGEST:
        raise CheckpointError(
            f"{name}: holds values beyond what {kind.name} can scale",
            "export bf16 or f32, or look at how it was trained",
        )
    return blocks


def quantised(rows: NDArray[np.float32], kind: NumberType) -> NDArray[np.uint8]:
    """The blocks [rows, bytes] of float32 [rows, width], width a multiple of the block's values."""
    if kind.name not in BY_PACKAGE:
        return _by_ggml(rows, kind)
    # not by ggml, though it is six times as fast: in a block of zeros it may choose another sign
    with np.errstate(over="ignore", invalid="ignore"):  # what lies beyond is told by its scale
        found: NDArray[np.uint8] = _package().quants.quantize(rows, _package_type(kind))
    return found


def dequantised(blocks: NDArray[np.uint8], kind: NumberType) -> NDArray[np.float32]:
    """float32 [rows, width] of blocks [rows, bytes]."""
    found: NDArray[np.float32] = _package().quants.dequantize(blocks, _package_type(kind))
    return found


def _package() -> Any:
    if find_spec("gguf") is None:
        raise MissingExtraError("export", "a quantised file")
    import gguf

    return gguf


def _package_type(kind: NumberType) -> Any:
    return _package().GGMLQuantizationType(kind.tensor)


def _by_ggml(rows: NDArray[np.float32], kind: NumberType) -> NDArray[np.uint8]:
    found = library()
    if found is None:
        raise MissingExtraError("verify", f"{kind.name}")
    out = np.empty((len(rows), kind.nbytes(rows.shape[1])), np.uint8)
    values = np.ascontiguousarray(rows)
    # a few rows at a time: ggml makes a copy of what it is given for some of its types
    for start in range(0, len(rows), ROWS):
        part, into = values[start : start + ROWS], out[start : start + ROWS]
        written = found.ggml_quantize_chunk(
            kind.tensor, part.ctypes.data, into.ctypes.data, 0, len(part), rows.shape[1], None
        )
        assert written == into.nbytes, "ggml wrote another number of bytes than its blocks have"
    return out


@cache
def library() -> ctypes.CDLL | None:
    """ggml in the wheel of pywhispercpp; None where it is not, or laid out in another way."""
    spec = find_spec("pywhispercpp")
    if spec is None or spec.origin is None:
        return None
    site = Path(spec.origin).parent.parent
    for path in sorted([*site.glob("pywhispercpp.libs/libggml-base*.so*"), *site.glob(".dylibs/libggml-base*.dylib")]):
        found = ctypes.CDLL(str(path))
        if hasattr(found, "ggml_quantize_chunk"):
            found.ggml_quantize_chunk.restype = ctypes.c_size_t
            found.ggml_quantize_chunk.argtypes = [
                ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64,
                ctypes.c_void_p,
            ]  # fmt: skip
            return found
    return None
