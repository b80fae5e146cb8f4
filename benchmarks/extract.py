"""Claim: `chorus extract lora` takes a third of mergekit-extract-lora's CPU, and keeps as much energy.

    python benchmarks/extract.py [--repeats 3] [--rank 32]

A fine-tune of Qwen2.5-0.5B's shape in bfloat16; whole commands in turn, mergekit's output as it comes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import torch
from safetensors import safe_open
from safetensors.torch import load_file


def energies(adapter: Path, base: Path, tuned: Path) -> dict[str, float]:
    """The share of each matrix's squared difference that an adapter holds, in float64."""
    factors = load_file(adapter / "adapter_model.safetensors")
    origin, after = (safe_open(p / "model.safetensors", "pt") for p in (base, tuned))
    found = {}
    for key in factors:
        if not key.endswith(".lora_A.weight"):
            continue
        module = key.removesuffix(".lora_A.weight")
        name = module.removeprefix("base_model.model.") + ".weight"
        if name not in origin.keys():  # noqa: SIM118  not a mapping
            continue
        delta = after.get_tensor(name).double() - origin.get_tensor(name).double()
        kept = factors[f"{module}.lora_B.weight"].double() @ factors[key].double()
        found[name] = 1 - float((delta - kept).square().sum() / delta.square().sum())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--spectrum", default="j^-0.7", choices=("j^-0.7", "flat"))
    args = parser.parse_args()
    rival = common.mergekit().with_name("mergekit-extract-lora")
    with common.workplace() as place:
        base, tuned = common.make_models(place, "qwen2.5-0.5b", 4, spectrum=args.spectrum)[:2]
        common.warm([base, tuned])
        ours, theirs = place / "ours", place / "theirs"

        def chorus() -> common.Measured:
            common.clean(ours)
            given = ["--model", tuned, "--base", base, "-o", ours, "--max-rank", str(args.rank), "-q"]
            return common.measure([common.CHORUS, "extract", "lora", *given])

        def mergekit() -> common.Measured:
            common.clean(theirs)
            given = ["--model", tuned, "--base-model", base, "--out-path", theirs, "--max-rank", str(args.rank)]
            return common.measure([rival, *given])

        found = common.alternate({"chorus": chorus, "mergekit": mergekit}, args.repeats)
        row: dict[str, object] = {"shape": "qwen2.5-0.5b", "spectrum": args.spectrum, "rank": args.rank}
        for name, measured in found.items():
            row[f"{name} cpu_s"] = common.median([m.cpu_s for m in measured])
            row[f"{name} wall_s"] = common.median([m.wall_s for m in measured])
            row[f"{name} MB"] = round(max(m.anonymous_bytes for m in measured) / 1e6)
        row["cpu ratio"] = row["mergekit cpu_s"] / row["chorus cpu_s"]
        for name, path in (("chorus", ours), ("mergekit", theirs)):
            row[f"{name} file MB"] = round((path / "adapter_model.safetensors").stat().st_size / 1e6, 1)
        mine, other = energies(ours, base, tuned), energies(theirs, base, tuned)
        shared = sorted(set(mine) & set(other))
        row["matrices"] = len(shared)
        row["worst energy, relative"] = min((mine[n] - other[n]) / other[n] for n in shared)
        row["mean energy"] = float(torch.tensor(list(mine.values())).mean())
        common.report(f"extract-{args.spectrum.replace('^', '')}", [row])
        common.clean(ours)
        common.clean(theirs)


if __name__ == "__main__":
    main()
