"""The compiled number formats against torch, on every bit pattern."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from chorus.linalg import native

ALL = np.arange(65536, dtype=np.uint16)
TORCH = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.mark.parametrize("dtype", TORCH)
def test_widens_every_finite_pattern_as_torch_does(dtype):
    expected = torch.from_numpy(ALL.copy()).view(TORCH[dtype]).float().numpy()
    finite = np.isfinite(expected)
    assert finite.sum() in (65280, 63488)
    out = np.empty(65536, np.float32)
    assert not native.widen(ALL, dtype, out)
    assert np.array_equal(np.isnan(out), np.isnan(expected))
    assert np.array_equal(np.isinf(out), np.isinf(expected))
    assert np.array_equal(out[finite].view(np.uint32), expected[finite].view(np.uint32))
    assert native.widen(ALL[finite].copy(), dtype, out[: finite.sum()])


@pytest.mark.parametrize("dtype", TORCH)
def test_narrows_as_torch_does(dtype):
    rng = np.random.default_rng(0)
    random = rng.integers(0, 2**32, 2_000_000, dtype=np.uint32).view(np.float32)
    every = torch.from_numpy(ALL.copy()).view(TORCH[dtype]).float().numpy()
    # halfway between neighbours, and a hair to each side of it: where rounding goes wrong
    every = every[np.isfinite(every)]
    middle = (every[:-1].astype(np.float64) + every[1:]) / 2
    edges = np.concatenate([every, middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)])
    with np.errstate(all="ignore"):
        values = np.concatenate([random, edges.astype(np.float32), np.float32([65504, 65519, 65520, 1e9, -1e9])])
    values = values[~np.isnan(values)]
    expected = torch.from_numpy(values).to(TORCH[dtype]).view(torch.int16).numpy().view(np.uint16)
    found = np.empty(values.size, np.uint16)
    fits = native.narrow(values, dtype, found)
    assert np.array_equal(found, expected)
    assert fits == (dtype == "bfloat16")


def test_nan_stays_nan():
    for dtype in TORCH:
        bits = np.empty(2, np.uint16)
        native.narrow(np.float32([np.nan, -np.nan]), dtype, bits)
        assert torch.from_numpy(bits).view(TORCH[dtype]).isnan().all()


def test_dots_are_those_of_float64():
    rows = [np.random.default_rng(i).normal(size=10_001).astype(np.float32) for i in range(5)]
    expected = np.array([[np.dot(a.astype(np.float64), b.astype(np.float64)) for a in rows] for b in rows])
    assert np.allclose(native.dots(rows), expected, rtol=1e-12, atol=1e-9)


def test_misaligned_bytes_are_copied():
    raw = np.arange(9, dtype=np.uint8)[1:]
    assert native.as_array(raw, "bfloat16").tolist() == raw.copy().view(np.uint16).tolist()


def test_terms_refuse_to_be_looked_into():
    with pytest.raises(TypeError, match="linear_combination"):
        native.Terms(2)[0]
