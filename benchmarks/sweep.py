"""Claim: a sweep of thirty settings costs, beyond decoding, at most a fifth of thirty merges from disk.

    python benchmarks/sweep.py [--shape whisper-tiny] [--models 4] [--merges 6]

The sweep is what `chorus experiment` does for each setting: plan, merge in memory, put the weights into the loaded
model. The rival is `chorus merge` of the same settings into directories, as commands, its own cache of spectra warm;
`--merges` of the thirty are run and their mean is taken thirty times.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path
from typing import Any

import common
import torch

GRIDS: dict[str, dict[str, list[float]]] = {
    "boosted_tsv_m": {"beta": [0.1, 0.2, 0.3, 0.5, 0.7, 1.0], "lambda": [0.2, 0.4, 0.6, 0.8, 1.0]},
    "ties": {"density": [0.1, 0.2, 0.3, 0.5, 0.7, 0.9], "lambda": [0.5, 0.75, 1.0, 1.25, 1.5]},
    "task_arithmetic": {"lambda": [round(0.05 * i, 2) for i in range(1, 31)]},
}


def recipe(method: str, parameters: dict[str, Any], paths: list[Path]) -> dict[str, Any]:
    given = {"weight": 1.0, **parameters}
    return {
        "merge_method": method, "base_model": str(paths[0]), "models": [{"model": str(p)} for p in paths[1:]],
        "parameters": given, "out_dtype": "float32",
    }  # fmt: skip


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def sweep(method: str, points: list[Any], paths: list[Path], model: Any) -> tuple[float, float]:
    """(wall, CPU) seconds of all settings, each put into the model."""
    from chorus.merge.planning.planner import plan
    from chorus.merge.runs.resident import Resident
    from chorus.models.loading import put_weights

    resident = Resident()
    started, before = time.perf_counter(), cpu_s()
    for point in points:
        put_weights(model, resident.merge(plan(recipe(method, point.parameters, paths))))
    return time.perf_counter() - started, cpu_s() - before


def from_disk(method: str, points: list[Any], paths: list[Path], place: Path) -> tuple[float, float]:
    """(wall, CPU) seconds of one merge as a command, in the mean of these settings."""
    wall = cpu = 0.0
    for number, point in enumerate(points):
        path = common.write_recipe(place / "recipe.yml", recipe(method, point.parameters, paths))
        measured = common.measure([common.CHORUS, "merge", path, "-o", place / f"merged{number}", "--quiet"])
        common.clean(place / f"merged{number}")
        wall, cpu = wall + measured.wall_s, cpu + measured.cpu_s
    return wall / len(points), cpu / len(points)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="whisper-tiny", choices=sorted(common.CONFIGS))
    parser.add_argument("--models", type=int, default=4)
    parser.add_argument("--merges", type=int, default=6)
    args = parser.parse_args()
    from chorus.search.grids import grid_of

    with common.workplace() as place:
        os.environ["CHORUS_CACHE"] = common.ENVIRONMENT["CHORUS_CACHE"] = str(place / "cache")
        paths = common.make_models(place, args.shape, args.models)
        common.warm(paths)
        import transformers

        transformers.logging.set_verbosity_error()
        model = transformers.WhisperForConditionalGeneration.from_pretrained(paths[0], dtype=torch.float32)
        rows = []
        for method, grid in GRIDS.items():
            points = grid_of(method, grid)
            from_disk(method, points[:1], paths, place)  # fills its cache
            chosen = points[:: len(points) // args.merges][: args.merges]
            disk = from_disk(method, chosen, paths, place)
            ours = sweep(method, points, paths, model)
            rows.append({
                "method": method, "settings": len(points), "shape": args.shape, "models": args.models,
                "sweep s": round(ours[0], 2), "sweep CPU s": round(ours[1], 2),
                "merges s": round(len(points) * disk[0], 1), "merges CPU s": round(len(points) * disk[1], 1),
                "share of wall": round(ours[0] / len(points) / disk[0], 3),
                "share of CPU": round(ours[1] / len(points) / disk[1], 3),
            })  # fmt: skip
        common.report(f"sweep-{args.shape}", rows)


if __name__ == "__main__":
    main()
