"""Claim: one more adapter costs what its own rank and the merge's cost, not what all earlier adapters cost.

    python benchmarks/continual.py [--shape whisper-small] [--count 8] [--methods fta,opcm]

Adapters of rank 32 on all linear layers, one after the other into a merge that keeps 0.99 of the energy; beside the
last stage the same mean merged at once, from all adapters. Half of what the adapters do is common to all. `lost` is the
share of the plain mean's squared norm that the running average has lost by all its cuts.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import common
import torch
from safetensors.torch import load_file, save_file

from adapters import recipe_of, write_adapters


def with_a_common_half(paths: list[Path]) -> None:
    """Half of each adapter's directions are the first one's."""
    first = load_file(paths[0] / "adapter_model.safetensors")
    for path in paths[1:]:
        own = load_file(path / "adapter_model.safetensors")
        for name, value in own.items():
            half = (slice(None), slice(16)) if "lora_B" in name else (slice(16),)
            value[half] = first[name][half]
        save_file(own, path / "adapter_model.safetensors", metadata={"format": "pt"})


def largest_rank(path: Path) -> int:
    factors = load_file(path / "adapter_model.safetensors")
    return max(t.shape[0] for n, t in factors.items() if "lora_A" in n)


def factors(path: Path) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    found = load_file(path / "adapter_model.safetensors")
    return {
        n.removesuffix(".lora_A.weight"): (found[n.replace("lora_A", "lora_B")], found[n])
        for n in found
        if "lora_A" in n
    }


def lost(path: Path, adapters: list[Path]) -> float:
    """|merge - mean|^2 / |mean|^2 over all modules."""
    from chorus.linalg.low_rank import LowRank, inner, low_rank_sum

    every, merged = [factors(a) for a in adapters], factors(path)
    error = whole = 0.0
    for module in every[0]:
        shape = (every[0][module][0].shape[0], every[0][module][1].shape[1])
        terms = [LowRank(*one[module], shape) for one in every]
        mean = low_rank_sum(terms, [1 / len(terms)] * len(terms))
        rest = low_rank_sum([mean, LowRank(*merged[module], shape)], [1.0, -1.0])
        error, whole = error + inner(rest, rest), whole + inner(mean, mean)
    return error / whole


def stages(method: str, base: Path, adapters: list[Path], place: Path, rows: list[dict[str, object]]) -> None:
    state = base
    for number, adapter in enumerate(adapters, 1):
        out = place / f"{method}-{number}"
        common.clean(out)
        command = [common.CHORUS, "continual", state, adapter, "-o", out, "--base", base, "--method", method, "-q"]
        found = common.measure(command)
        row = {"part": f"{method}, model {number}", "cpu_s": found.cpu_s, "wall_s": found.wall_s}
        row |= {"MB": round(found.anonymous_bytes / 1e6), "rank": largest_rank(out)}
        rows.append({**row, "lost": lost(out, adapters[:number]) if method == "fta" else ""})
        print(rows[-1], flush=True)
        state = out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="whisper-small")
    parser.add_argument("--count", type=int, default=8)
    parser.add_argument("--methods", default="fta,opcm")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    with common.workplace() as place:
        base, adapters = write_adapters(place, common.CONFIGS[args.shape], args.count, torch.float32)
        with_a_common_half(adapters)
        for method in args.methods.split(","):
            stages(method, base, adapters, place, rows)
        out = place / "at-once"
        common.clean(out)
        recipe = {**recipe_of("task_arithmetic", base, adapters, weight=1 / args.count), "out_dtype": "float32"}
        file = common.write_recipe(place / "recipe.yml", recipe)
        found = common.measure([common.CHORUS, "merge", file, "-o", out, "--as", "adapter", "--energy", "0.99", "-q"])
        row = {"part": f"all {args.count} at once", "cpu_s": found.cpu_s, "wall_s": found.wall_s}
        row |= {"MB": round(found.anonymous_bytes / 1e6), "rank": largest_rank(out)}
        rows.append({**row, "lost": lost(out, adapters)})
    common.report("continual", rows)


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
