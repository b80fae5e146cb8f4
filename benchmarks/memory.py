"""Claim: peak anonymous memory stays under 700 MB, and does not grow from 2 to 10 models.

python benchmarks/memory.py [--shape whisper-small] [--methods linear,ties] [--models 2,4,10]
"""

from __future__ import annotations

import argparse

import common
from against_mergekit import METHODS

OWN = {name: (True, {}, {}, 10, 0.0) for name in ("pcb", "tsv_m", "boosted_tsv_m", "iso_c", "iso_cts")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="whisper-small", choices=common.CONFIGS)
    parser.add_argument("--methods", default="linear,task_arithmetic,model_stock,karcher,dare_ties,breadcrumbs,ties")
    parser.add_argument("--models", default="2,4,10")
    args = parser.parse_args()
    counts = [int(n) for n in args.models.split(",")]
    rows = []
    with common.workplace() as place:
        paths = common.make_models(place, args.shape, max(counts), spectrum="flat")
        for method in args.methods.split(","):
            row: dict[str, object] = {"shape": args.shape, "method": method}
            for count in counts:
                base, each, shared, _, _ = (METHODS | OWN)[method]
                models = [{"model": str(p), "parameters": each} for p in paths[1 : count + 1]]
                recipe = {"merge_method": method, "models": models, "parameters": shared}
                if base:
                    recipe["base_model"] = str(paths[0])
                file = common.write_recipe(place / "r.yml", recipe)
                common.clean(place / "merged")
                command = [common.CHORUS, "merge", file, "-o", place / "merged", "-q", "--no-cache"]
                measured = common.measure(command)
                row[f"MB of {count}"] = round(measured.anonymous_bytes / 1e6)
                row[f"wall_s of {count}"] = measured.wall_s
                row[f"cpu_s of {count}"] = measured.cpu_s
                common.clean(place / "merged")
            rows.append(row)
            print(row, flush=True)
    common.report(f"memory-{args.shape}", rows)


if __name__ == "__main__":
    main()
