"""Random masks from a counter: the same in loops and in torch, of the right frequency, without patterns."""

from __future__ import annotations

import numpy as np
import torch

from chorus.linalg.draws import keep_random, key_of


def test_the_compiled_loop_and_torch_draw_the_same():
    x = torch.ones(100_000)
    for key in (0, 1, key_of(7, "dare_ties", 2, "model.layers.0.weight"), 2**64 - 1):
        for offset in (0, 12_345, 2**32 - 50_000, 2**32 + 5):
            assert torch.equal(keep_random(x, 0.37, key, offset), keep_random(x.double(), 0.37, key, offset).float())


def test_frequencies_are_those_asked_for():
    n = 1_000_000
    for p in (0.01, 0.1, 0.5, 0.9):
        kept = keep_random(torch.ones(n), p, key_of(0, "m", 0, f"t{p}"), 0)
        assert abs(kept.mean().item() - p) < 5 * (p * (1 - p) / n) ** 0.5
    assert keep_random(torch.ones(10), 0.0, 5, 0).sum() == 0
    assert keep_random(torch.ones(10), 1.0, 5, 0).sum() == 10


def test_neighbours_and_other_keys_are_independent():
    n = 1_000_000
    masks = [keep_random(torch.ones(n), 0.5, key_of(0, "m", i, "t"), 0).numpy() * 2 - 1 for i in range(2)]
    for a, b in ((masks[0][1:], masks[0][:-1]), (masks[0], masks[1]), (masks[0][64:], masks[0][:-64])):
        assert abs(np.mean(a * b)) < 5 / n**0.5


def test_a_block_draws_what_the_whole_draws():
    x = torch.randn(10_000)
    whole = keep_random(x, 0.4, 99, 0)
    assert torch.equal(whole[3000:], keep_random(x[3000:], 0.4, 99, 3000))


def test_keys_differ_by_everything_they_are_made_of():
    made = {key_of(s, m, i, t) for s in (0, 1) for m in ("a", "b") for i in (0, 1) for t in ("x", "y")}
    assert len(made) == 16
