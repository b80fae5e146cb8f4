"""Claim: TSV-M and BoostedTSV-M take half the CPU of the published algorithm, and a fraction of it the next time.

    python benchmarks/subspace.py [--shape whisper-small] [--models 10] [--methods boosted_tsv_m] [--spectrum flat]

Whole commands: Chorus with an empty cache, again with another beta, again with another rank; and the algorithm
written out from its formula (full SVDs of every task matrix, SVD polar factors, one thread). Then some tensors of
both against float64.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

import common
import torch
from safetensors import safe_open


def recipe(method: str, paths: list[Path], **parameters: object) -> dict[str, object]:
    return {
        "merge_method": method,
        "base_model": str(paths[0]),
        "models": [{"model": str(p)} for p in paths[1:]],
        "parameters": parameters,
    }


def reference(method: str, paths: list[Path], name: str) -> torch.Tensor:
    """The merged delta of one matrix in float64, by full SVDs."""
    from _straightforward import merged

    base, *tuned = (safe_open(p / "model.safetensors", "pt").get_tensor(name).double() for p in paths)
    return merged([t - base for t in tuned], method)


def accuracy(method: str, paths: list[Path], names: list[str]) -> float:
    """The largest relative error of our merged deltas, in float32."""
    import chorus

    planned = chorus.plan({**recipe(method, paths), "out_dtype": "float32"}, chorus.Options(reuse=False))
    worst = 0.0
    for name in names:
        base = safe_open(paths[0] / "model.safetensors", "pt").get_tensor(name).double()
        exact = reference(method, paths, name)
        found = planned[name].read().double() - base
        worst = max(worst, float((found - exact).norm() / exact.norm()))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="whisper-small", choices=common.CONFIGS)
    parser.add_argument("--models", type=int, default=10)
    parser.add_argument("--methods", default="tsv_m,boosted_tsv_m")
    parser.add_argument("--spectrum", default="j^-0.7", choices=("j^-0.7", "flat"))
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--alone", action="store_true", help="do not run the published algorithm")
    args = parser.parse_args()
    rows = []
    with common.workplace() as place:
        paths = common.make_models(place, args.shape, args.models, spectrum=args.spectrum)
        common.warm(paths)
        layers = ["model.encoder.layers.1.fc1.weight", "model.decoder.layers.0.encoder_attn.q_proj.weight"]
        for method in args.methods.split(","):
            boosted = method == "boosted_tsv_m"
            other = {"beta": 0.5} if boosted else {"lambda": 0.7}
            rank = {"rank_fraction": 0.08}
            files = {
                key: common.write_recipe(place / f"{key}.yml", recipe(method, paths, **given))
                for key, given in (("first", {}), ("other", other), ("rank", rank))
            }
            cache, out = place / "cache", place / "merged"

            def run(
                key: str, fresh: bool, cache: Path = cache, out: Path = out, files: dict = files
            ) -> common.Measured:
                common.clean(out)
                if fresh:
                    shutil.rmtree(cache, ignore_errors=True)
                command = [common.CHORUS, "merge", files[key], "-o", out, "-q"]
                return common.measure(command, CHORUS_CACHE=str(cache))

            def published(method: str = method, out: Path = out) -> common.Measured:
                common.clean(out)
                here = Path(__file__).with_name("_straightforward.py")
                given = [sys.executable, here, method, paths[0], out, *paths[1:]]
                return common.measure(given, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

            runs = {
                "first": lambda run=run: run("first", True),
                "other": lambda run=run: run("other", False),
                "rank": lambda run=run: run("rank", False),
                **({} if args.alone else {"published": published}),
            }
            found = common.alternate(runs, args.repeats)
            cpu = {name: common.median([m.cpu_s for m in measured]) for name, measured in found.items()}
            row: dict[str, object] = {"method": method, "shape": args.shape, "spectrum": args.spectrum}
            row |= {f"{name} cpu_s": value for name, value in cpu.items()}
            row["MB"] = round(max(m.anonymous_bytes for m in found["first"]) / 1e6)
            row["cache MB"] = round(sum(f.stat().st_size for f in cache.rglob("*.safetensors")) / 1e6)
            if not args.alone:
                row["first / published"] = cpu["first"] / cpu["published"]
            row["other / first"] = cpu["other"] / cpu["first"]
            row["rank / first"] = cpu["rank"] / cpu["first"]
            row["error"] = accuracy(method, paths, layers)
            rows.append(row)
            print(row, flush=True)
            common.clean(out)
            shutil.rmtree(cache, ignore_errors=True)
    common.report(f"subspace-{args.shape}-{args.spectrum.replace('^', '')}", rows)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
