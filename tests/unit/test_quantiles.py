"""Exact cut-offs against sorting, ties and all."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus.linalg.blocks import CHUNK, InMemory
from chorus.linalg.quantiles import drop_largest, keep_largest, largest


def kept_by_sorting(x: torch.Tensor, k: int) -> torch.Tensor:
    """The k largest magnitudes, of equal ones those of lowest index."""
    order = np.lexsort((np.arange(x.numel()), -x.abs().numpy()))
    mask = torch.zeros(x.numel(), dtype=torch.bool)
    mask[order[:k].copy()] = True
    return torch.where(mask, x, torch.zeros_like(x))


@given(
    st.lists(st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5, 1e-40, -3.0, 7.5]), min_size=1, max_size=80),
    st.floats(0, 1),
)
def test_keeps_exactly_k_with_ties_by_index(values, share):
    x = torch.tensor(values)
    k = int(share * len(values))
    ((cutoff,),) = largest(InMemory([x]), [[k]])
    kept = keep_largest(x, cutoff, 0)
    assert torch.equal(kept, kept_by_sorting(x, k))
    assert torch.equal(kept + drop_largest(x, cutoff, 0), x)
    on_device = keep_largest(x.double(), cutoff, 0).float()
    assert torch.equal(on_device, kept)


def test_bfloat16_deltas_full_of_ties_over_many_chunks():
    base = (torch.randn(3 * CHUNK + 5, generator=torch.Generator().manual_seed(0)) * 0.02).bfloat16().float()
    tuned = (base + torch.randn(base.shape, generator=torch.Generator().manual_seed(1)) * 3e-4).bfloat16().float()
    x = tuned - base
    median = x.abs().median()
    assert (x.abs() == median).sum() > 0.1 * x.numel(), "the case has no ties to speak of"
    counts = [0, 1, x.numel() // 3, x.numel() // 2, x.numel() - 1, x.numel()]
    (cutoffs,) = largest(InMemory([x], block=CHUNK), [counts])
    for k, cutoff in zip(counts, cutoffs, strict=True):
        parts = [keep_largest(x[s : s + CHUNK], cutoff, s) for s in range(0, x.numel(), CHUNK)]
        assert torch.equal(torch.cat(parts), kept_by_sorting(x, k)), k


def test_several_tensors_and_counts_in_one_pass():
    rows = [torch.randn(5000, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = largest(InMemory(rows), [[10, 4000], [2500], []])
    assert [len(f) for f in found] == [2, 1, 0]
    assert torch.equal(keep_largest(rows[0], found[0][1], 0), kept_by_sorting(rows[0], 4000))
    assert torch.equal(keep_largest(rows[1], found[1][0], 0), kept_by_sorting(rows[1], 2500))
