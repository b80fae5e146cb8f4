"""Every tensor of a file, counted, against what ggml and the gguf package make: the comparison of the benchmark."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import chorus
from chats import language_model
from chorus.export.ggml.layout import TYPES
from chorus.export.ggml.quants import BY_PACKAGE, library, quantised
from sounds import BASE, ROOT

pytest.importorskip("gguf")
TINY = Path(os.environ.get("CHORUS_MODELS", "/nowhere")) / "whisper-tiny.en"
needs_ggml = pytest.mark.skipif(library() is None, reason="ggml's library (pywhispercpp) is not here")
FITTING = [name for name, kind in TYPES.items() if kind.values <= 32]


@pytest.fixture(scope="module")
def benchmark() -> Any:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import export_bytes

        yield export_bytes
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


def counted(benchmark: Any, model: Path, folder: Path, to: str, types: list[str]) -> tuple[int, int]:
    """(tensors, those in the type that was asked for) of all files; none may be wrong."""
    made = chorus.export(model, folder / "out", to, types=types).places
    found = [benchmark.compared(path, model, kind) for kind, path in made.items()]
    assert [one["wrong"] for one in found] == [[]] * len(types)
    return sum(one["tensors"] for one in found), sum(one["in the type"] for one in found)


@needs_ggml
def test_the_demo_s_base_in_nine_types(benchmark, tmp_path):
    # 23 matrices a type, two convolutions more in f16, and all of them in f32
    assert counted(benchmark, BASE, tmp_path, "ggml", FITTING) == (9 * 65, 65 + 25 + 7 * 23)


@needs_ggml
@pytest.mark.parametrize(("kind", "tensors", "matrices"), [("qwen2", 14, 8), ("qwen3", 14, 9), ("llama3", 12, 9)])
def test_language_models_in_fourteen_types(benchmark, tmp_path, kind, tensors, matrices):
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}
    model = language_model(tmp_path / "m", kind, tie_word_embeddings=kind == "qwen2", **sizes)
    assert counted(benchmark, model, tmp_path, "gguf", list(TYPES)) == (14 * tensors, tensors + 13 * matrices)


@needs_ggml
@pytest.mark.slow
@pytest.mark.skipif(not TINY.exists(), reason="CHORUS_MODELS has no whisper-tiny.en")
def test_the_real_tiny_en_in_nine_types(benchmark, tmp_path):
    assert counted(benchmark, TINY, tmp_path, "ggml", FITTING) == (9 * 167, 167 + 67 + 7 * 65)


def test_the_comparison_finds_a_byte(benchmark, tmp_path):
    path = chorus.export(BASE, tmp_path / "x.bin", "ggml", types="q5_0").places["q5_0"]
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    found = benchmark.compared(path, BASE, "q5_0")
    assert (found["tensors"], len(found["wrong"])) == (65, 1)


@needs_ggml
@pytest.mark.parametrize("kind", BY_PACKAGE)
@settings(max_examples=40, deadline=None)
@given(rows=arrays.arrays(np.float32, (3, 64), elements=st.floats(-65504, 65504, width=32)))
def test_the_package_and_the_library_make_the_same_blocks(benchmark, kind, rows):
    number = TYPES[kind].tensor
    for values in (rows, rows * np.float32(1e-5), np.round(rows)):
        # without zeros of both signs, of which each takes another for the smallest
        values = values + np.float32(0)
        assert quantised(values, TYPES[kind]).tobytes() == benchmark.by_library(values, number)
