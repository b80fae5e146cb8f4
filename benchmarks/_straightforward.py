"""TSV-M and BoostedTSV-M as published, written out: full SVD of every task matrix, polar factors by SVD.

    python benchmarks/_straightforward.py METHOD BASE OUT MODEL...

Gargiulo et al. 2025, algorithm 1; Carvalho et al. 2026 for the boosting (beta 0.3 on the whole spectrum).
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def is_matrix(name: str, shape: torch.Size) -> bool:
    return len(shape) == 2 and "embed" not in name


def polar(x: torch.Tensor) -> torch.Tensor:
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    return u @ vh


def merged(deltas: list[torch.Tensor], method: str) -> torch.Tensor:
    size = min(deltas[0].shape)
    k = max(1, size // len(deltas))
    parts = []
    for d in deltas:
        u, s, vh = torch.linalg.svd(d, full_matrices=False)
        if method == "boosted_tsv_m":
            share = s.cumsum(0) / s.sum()
            s = s.clamp(min=float(s[int((share < 0.3).sum())]))
        parts.append((u[:, :k], s[:k], vh[:k]))
    left = polar(torch.cat([p[0] for p in parts], dim=1))
    right = polar(torch.cat([p[2] for p in parts], dim=0))
    return (left * torch.cat([p[1] for p in parts])) @ right


def main() -> None:
    method, base, out, *models = sys.argv[1:]
    torch.set_num_threads(1)
    files = [safe_open(Path(p) / "model.safetensors", "pt") for p in models]
    origin = safe_open(Path(base) / "model.safetensors", "pt")
    result = {}
    with torch.inference_mode():
        for name in origin.keys():  # noqa: SIM118  not a mapping
            theta = origin.get_tensor(name)
            deltas = [f.get_tensor(name).float() - theta.float() for f in files]
            tau = merged(deltas, method) if is_matrix(name, theta.shape) else sum(deltas) / len(deltas)
            result[name] = (theta.float() + tau).to(theta.dtype)
    Path(out).mkdir(parents=True, exist_ok=True)
    save_file(result, Path(out) / "model.safetensors", metadata={"format": "pt"})


if __name__ == "__main__":
    main()
