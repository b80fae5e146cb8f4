"""The engine on a GPU gives what it gives on the CPU, within the rounding of the two."""

from __future__ import annotations

import pytest
import torch

import chorus
from models import load_all

METHODS = (
    "linear",
    "ties",
    "karcher",
    "model_stock",
    "sce",
    "pcb",
    "tsv_m",
    "boosted_tsv_m",
    "iso_c",
    "iso_cts",
    "knots",
)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_merges_as_the_cpu_does(qwen, tmp_path, method):
    each = [{"weight": w} for w in (0.5, 0.3, 0.2)] if method not in ("karcher",) else [{}] * 3
    recipe = qwen.recipe(method, base=method not in ("linear", "karcher"), each=each, out_dtype="float32")
    chorus.merge(recipe, tmp_path / "cpu", chorus.Options(reuse=False))
    chorus.merge(recipe, tmp_path / "gpu", chorus.Options(device="cuda", reuse=False))
    base, here, there = (load_all(p) for p in (qwen.base, tmp_path / "cpu", tmp_path / "gpu"))
    for name, value in here.items():
        size = float((value - base[name]).norm())
        assert float((there[name] - value).norm()) <= 1e-4 * size + 1e-6, name


def test_a_device_that_is_not_there_is_named(qwen, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(chorus.ChorusError, match="device cuda: not there"):
        chorus.merge(qwen.recipe("tsv_m"), tmp_path / "x", chorus.Options(device="cuda"))
