"""SALMONN's products: whatever the ranks, scales and weights, a linear merge is the sum of what the files add."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import chorus

MODULE = "llama_model.base_model.model.model.layers.0.self_attn.q_proj"
ROWS, COLUMNS = 9, 7
weights = st.floats(-2, 2, allow_subnormal=False).filter(lambda w: w == 0 or abs(w) > 1e-3)
files = st.tuples(st.integers(1, 6), st.integers(1, 64), weights)  # rank, lora_alpha, weight


def drawn(rank: int, seed: int) -> dict[str, torch.Tensor]:
    numbers = torch.Generator().manual_seed(seed)
    a, b = torch.randn(rank, COLUMNS, generator=numbers), torch.randn(ROWS, rank, generator=numbers)
    names = {f"{MODULE}.lora_A.default.weight": a, f"{MODULE}.lora_B.default.weight": b}
    return {**names, "speech_llama_proj.bias": torch.randn(5, generator=numbers)}


def product(state: dict[str, torch.Tensor], alpha: float) -> torch.Tensor:
    a, b = (state[f"{MODULE}.lora_{half}.default.weight"].double() for half in "AB")
    return alpha / a.shape[0] * (b @ a)


@settings(max_examples=40, deadline=None)
@given(st.lists(files, min_size=1, max_size=4), st.booleans())
def test_a_linear_merge_is_the_sum_of_the_products(given_files, on_the_first):
    with tempfile.TemporaryDirectory() as folder:
        place, models, states = Path(folder), [], []
        for i, (rank, alpha, weight) in enumerate(given_files):
            states.append(drawn(rank, i))
            torch.save({"model": states[-1], "config": {"model": {"lora_alpha": alpha}}}, place / f"{i}.pth")
            models.append({"model": str(place / f"{i}.pth"), "parameters": {"weight": weight}})
        products = [product(state, alpha) for state, (_, alpha, _) in zip(states, given_files, strict=True)]
        shares = [weight for _, _, weight in given_files]
        recipe = {"merge_method": "linear", "models": models, "parameters": {"normalize": False}}
        wanted = sum(w * p for w, p in zip(shares, products, strict=True))
        if on_the_first and len(models) > 1:
            recipe = {"merge_method": "task_arithmetic", "base_model": str(place / "0.pth"), "models": models[1:]}
            wanted = products[0] + sum(w * (p - products[0]) for w, p in zip(shares[1:], products[1:], strict=True))
        chorus.merge(recipe, place / "out", chorus.Options(allow_pickle=True))
        found = torch.load(place / "out" / "salmonn.pth", weights_only=True)
        told = found["config"]["model"]
        assert told["lora_rank"] <= sum(rank for rank, _, _ in given_files)
        size = float(torch.stack(products).abs().max())
        torch.testing.assert_close(product(found["model"], told["lora_alpha"]), wanted, atol=2e-5 * size, rtol=0)
