"""Claim: `chorus --help` and `chorus methods` take under 0.3 s of CPU, the plan of ten large-v3 models under 2 s.

    python benchmarks/startup.py

The models of the plan are headers over sparse files: a plan reads no weight.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import common

from chorus.checkpoints.safetensors_header import build_header


def sparse_models(place: Path, count: int) -> list[Path]:
    config = common.CONFIGS["whisper-large-v3"]
    tensors = [(n, "bfloat16", s) for n, s in common.shapes_of(config).items()]
    header, starts = build_header(tensors)
    size = len(header) + sum(2 * math.prod(s) for _, _, s in tensors)
    paths = []
    for i in range(count):
        path = place / f"large-{i}"
        path.mkdir()
        (path / "model.safetensors").write_bytes(header)
        os.truncate(path / "model.safetensors", size)
        (path / "config.json").write_text(json.dumps(config))
        paths.append(path)
    assert len(starts) > 1000
    return paths


def main() -> None:
    rows = []
    with common.workplace() as place:
        paths = sparse_models(place, 10)
        models = [{"model": str(p), "parameters": {"weight": 1, "density": 0.5}} for p in paths[1:]]
        recipe = {"merge_method": "ties", "base_model": str(paths[0]), "models": models}
        file = common.write_recipe(place / "plan.yml", recipe)
        commands = {
            "chorus --help": (["--help"], 0.3),
            "chorus methods": (["methods"], 0.3),
            "chorus plan, large-v3 x 10": (["plan", file], 2.0),
        }
        for name, (arguments, wanted) in commands.items():
            found = [common.measure([common.CHORUS, *arguments]) for _ in range(7)]
            row = {"command": name, "cpu_s": common.median([m.cpu_s for m in found])}
            row["wall_s"] = common.median([m.wall_s for m in found])
            rows.append({**row, "MB": round(max(m.anonymous_bytes for m in found) / 1e6), "wanted": wanted})
        for path in paths:
            common.clean(path)
    common.report("startup", rows)


if __name__ == "__main__":
    main()
