"""Claim: after imports, a linear merge takes at most twice the time of reading its inputs and writing its output.

    python benchmarks/against_machine.py [--models 4,10] [--repeats 5]

The plain way is `cat` of all inputs to nowhere and of one input into a new file, synced; the page cache is warm.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

import common

TIMED = """
import sys, time, shutil
from pathlib import Path
import chorus
recipe, out = sys.argv[1], Path(sys.argv[2])
plan = chorus.plan(recipe)
chorus.merge(plan, out)                      # imports and compiled kernels are there from now on
shutil.rmtree(out)
started, cpu = time.perf_counter(), time.process_time()
chorus.merge(chorus.plan(recipe), out)
print(time.perf_counter() - started, time.process_time() - cpu)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="qwen2.5-0.5b", choices=common.CONFIGS)
    parser.add_argument("--models", default="4,10")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    rows = []
    with common.workplace() as place:
        counts = [int(n) for n in args.models.split(",")]
        paths = common.make_models(place, args.shape, max(counts), spectrum="flat")
        for count in counts:
            used = paths[1 : count + 1]
            common.warm(used)
            models = [{"model": str(p), "parameters": {"weight": 1}} for p in used]
            recipe = common.write_recipe(place / "r.yml", {"merge_method": "linear", "models": models})
            ours, cpu, plain = [], [], []
            for _ in range(args.repeats):
                out = place / "merged"
                common.clean(out)
                done = subprocess.run(
                    [sys.executable, "-c", TIMED, recipe, out],
                    check=True, capture_output=True, text=True, env=common.ENVIRONMENT,
                )  # fmt: skip
                seconds, processor = map(float, done.stdout.split())
                ours.append(seconds)
                cpu.append(processor)
                plain.append(by_plain_tools(used, place / "copy"))
            row = {"models": count, "chorus s": common.median(ours), "plain s": common.median(plain)}
            row["ratio"] = row["chorus s"] / row["plain s"]
            row["chorus cpu_s"] = common.median(cpu)
            rows.append({**row, "wanted": 2.0})
            common.clean(place / "merged")
    common.report("against_machine", rows)


def by_plain_tools(paths: list[Path], target: Path) -> float:
    files = [p / "model.safetensors" for p in paths]
    target.unlink(missing_ok=True)
    started = time.perf_counter()
    with Path("/dev/null").open("wb") as nowhere:
        subprocess.run(["cat", *files], check=True, stdout=nowhere)
    with target.open("wb") as file:
        subprocess.run(["cat", files[0]], check=True, stdout=file)
    subprocess.run(["sync", target], check=True)
    seconds = time.perf_counter() - started
    target.unlink()
    return seconds


if __name__ == "__main__":
    main()
