"""Claim: merged deltas of subspaces are float64's within 6e-6 where the stacked bases are well conditioned.

    python benchmarks/conditioning.py [--size 128] [--models 10]

Deltas that share a part and differ by a given share of their size, from nothing in common to nearly the same: the
condition of the stacked bases, and how far the merged delta is from the published algorithm in float64.
"""

from __future__ import annotations

import argparse

import common
import torch
from _straightforward import merged

import chorus.testing

SHARES = (10.0, 1.0, 0.1, 0.01, 0.001)


def alike(size: int, models: int, share: float, seed: int) -> list[torch.Tensor]:
    """Square deltas with a spectrum of j^-0.7: one for all, and a share of each model's own."""
    draw = torch.Generator().manual_seed(seed)

    def one() -> torch.Tensor:
        left, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
        right, _ = torch.linalg.qr(torch.randn(size, size, generator=draw, dtype=torch.float64))
        return 3e-4 * (left * torch.arange(1, size + 1, dtype=torch.float64) ** -0.7) @ right

    shared = one()
    return [(shared + share * one()).float() for _ in range(models)]


def condition(deltas: list[torch.Tensor]) -> float:
    """Of the left bases side by side, as TSV-M stacks them."""
    size = min(deltas[0].shape)
    kept = size // len(deltas)
    stacked = torch.cat([torch.linalg.svd(d.double())[0][:, :kept] for d in deltas], dim=1)
    values = torch.linalg.svdvals(stacked)
    return float(values[0] / values[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for share in SHARES:
        found = []
        for seed in range(args.seeds):
            deltas = alike(args.size, args.models, share, seed)
            exact = merged([d.double() for d in deltas], "tsv_m")
            ours = chorus.testing.merge_deltas("tsv_m", deltas)
            dense = (ours if isinstance(ours, torch.Tensor) else ours.matrix()).double()
            found.append((condition(deltas), float((dense - exact).norm() / exact.norm())))
        rows.append({"own share": share, "condition": max(c for c, _ in found), "error": max(e for _, e in found)})
        print(rows[-1], flush=True)
    common.report("conditioning", rows)


if __name__ == "__main__":
    main()
