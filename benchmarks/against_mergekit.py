"""Claim: on four models, Chorus takes a fraction of mergekit 0.1.5's CPU and wall time, under 700 MB of memory.

    python benchmarks/against_mergekit.py [--shape whisper-small] [--methods ties,linear] [--repeats 3]

The commands are timed whole, start-up included, in turn, with the same recipe.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common

# method -> (uses a base, parameters of each model, global parameters, how many models, target CPU ratio)
METHODS: dict[str, tuple[bool, dict, dict, int, float]] = {
    "linear": (False, {"weight": 0.25}, {}, 4, 4.0),
    "slerp": (True, {}, {"t": 0.5}, 1, 4.0),
    "task_arithmetic": (True, {"weight": 0.3}, {}, 4, 3.0),
    "model_stock": (True, {}, {}, 4, 2.5),
    "multislerp": (True, {"weight": 0.25}, {}, 4, 5.0),
    "dare_ties": (True, {"weight": 0.3, "density": 0.5}, {}, 4, 5.0),
    "dare_linear": (True, {"weight": 0.3, "density": 0.5}, {}, 4, 5.0),
    "karcher": (False, {}, {}, 4, 8.0),
    "breadcrumbs": (True, {"weight": 0.3, "density": 0.5, "gamma": 0.01}, {}, 4, 8.0),
    "sce": (True, {}, {"select_topk": 0.1}, 4, 8.0),
    "ties": (True, {"weight": 0.3, "density": 0.5}, {}, 4, 8.0),
}


def recipe(method: str, paths: list[Path]) -> dict[str, object]:
    base, each, shared, count, _ = METHODS[method]
    made: dict[str, object] = {
        "merge_method": method,
        "models": [{"model": str(p), "parameters": each} for p in paths[1 : count + 1]],
        "dtype": "bfloat16",
    }
    if method == "slerp":
        made["models"] = [{"model": str(p)} for p in paths[1:3]]
        made["base_model"] = str(paths[1])
    elif base:
        made["base_model"] = str(paths[0])
    if shared:
        made["parameters"] = shared
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=common.CONFIGS)
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--spectrum", default="j^-0.7", choices=("j^-0.7", "flat"))
    parser.add_argument("--alone", action="store_true", help="do not run mergekit")
    args = parser.parse_args()
    rival = None if args.alone else common.mergekit()
    rows = []
    with common.workplace() as place:
        paths = common.make_models(place, args.shape, 4, spectrum=args.spectrum)
        common.warm(paths)
        for method in args.methods.split(","):
            file = common.write_recipe(place / "recipe.yml", recipe(method, paths))
            out = place / "merged"

            def ours(file: Path = file, out: Path = out) -> common.Measured:
                common.clean(out)
                return common.measure([common.CHORUS, "merge", file, "-o", out, "-q"])

            def theirs(file: Path = file, out: Path = out) -> common.Measured:
                common.clean(out)
                return common.measure([rival, file, out, "--random-seed", "0"])

            runs = {"chorus": ours} | ({} if rival is None else {"mergekit": theirs})
            if not rows:
                ours()  # compiles the kernels, once in the life of an installation
            found = common.alternate(runs, args.repeats)
            row: dict[str, object] = {"method": method, "shape": args.shape}
            for name, measured in found.items():
                row[f"{name} cpu_s"] = common.median([m.cpu_s for m in measured])
                row[f"{name} wall_s"] = common.median([m.wall_s for m in measured])
                row[f"{name} MB"] = round(max(m.anonymous_bytes for m in measured) / 1e6)
            if rival is not None:
                row["cpu ratio"] = row["mergekit cpu_s"] / row["chorus cpu_s"]
                row["wanted"] = METHODS[method][4]
                row["wall ratio"] = row["mergekit wall_s"] / row["chorus wall_s"]
            rows.append(row)
            print(row, flush=True)
            common.clean(out)
    common.report(f"against_mergekit-{args.shape}-{args.spectrum.replace('^', '')}", rows)


if __name__ == "__main__":
    main()
