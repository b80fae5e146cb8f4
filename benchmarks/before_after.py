"""Claim: a change of the code costs no time. The same commands by the code of two commits, in turn, whole.

    python benchmarks/before_after.py --before HEAD~1 [--repeats 5]

CPU and wall seconds, medians; merges of four models of Qwen2.5-0.5B's shapes, the start of commands, an evaluation of
the demo's base on its test set.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from functools import partial
from pathlib import Path

import common
from against_mergekit import recipe
from startup import sparse_models

ROOT = Path(__file__).resolve().parents[1]
DIGITS = ROOT / "examples" / "digits"
COMMAND = [sys.executable, "-c", "from chorus.cli.main import main; main()"]


def commands_of(place: Path) -> dict[str, list[str]]:
    """What is measured, by name; results go below `place`."""
    paths = common.make_models(place, "qwen2.5-0.5b", 4)
    common.warm(paths)
    large = [{"model": str(p), "parameters": {"weight": 1, "density": 0.5}} for p in sparse_models(place, 4)]
    base = large.pop(0)["model"]
    plan = common.write_recipe(place / "plan.yml", {"merge_method": "ties", "base_model": base, "models": large})
    found = {"--help": ["--help"], "methods": ["methods"], "plan of large-v3 x 4": ["plan", str(plan)]}
    for method in ("linear", "task_arithmetic", "ties"):
        file = common.write_recipe(place / f"{method}.yml", recipe(method, paths))
        found[f"merge {method}"] = ["merge", str(file), "-o", str(place / "merged"), "-q", "--overwrite"]
    data = ["--data", str(DIGITS / "data" / "manifest.csv"), "--split", "test", "--device", "cpu"]
    out = ["-o", str(place / "evaluations"), "--overwrite", "-q"]
    return {**found, "evaluate": ["evaluate", str(DIGITS / "base"), *data, *out]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit, or a checkout of one")
    parser.add_argument("--repeats", type=int, default=5)
    chosen = parser.parse_args()
    rows: list[dict[str, object]] = []
    with common.workplace() as place:
        before = Path(chosen.before)
        if not before.is_dir():
            before = place / "before"
            subprocess.run(["git", "worktree", "add", "-q", before, chosen.before], cwd=ROOT, check=True)
        for name, arguments in commands_of(place).items():
            runs = {
                which: partial(common.measure, [*COMMAND, *arguments], PYTHONPATH=str(tree / "src"))
                for which, tree in (("before", before), ("after", ROOT))
            }
            common.alternate(runs, 1)  # compiles, fills caches
            found = common.alternate(runs, chosen.repeats)
            row: dict[str, object] = {"command": name}
            for which, measured in found.items():
                row[f"{which} cpu_s"] = common.median([m.cpu_s for m in measured])
                row[f"{which} wall_s"] = common.median([m.wall_s for m in measured])
                row[f"{which} MB"] = round(max(m.anonymous_bytes for m in measured) / 1e6)
            row["cpu ratio"] = float(str(row["after cpu_s"])) / float(str(row["before cpu_s"]))
            rows.append(row)
            print(row, flush=True)
        if before == place / "before":
            subprocess.run(["git", "worktree", "remove", "--force", before], cwd=ROOT, check=True)
    common.report("before_after", rows)


if __name__ == "__main__":
    main()
