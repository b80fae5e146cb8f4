"""Claim: entropy finds the weights of a task without an answer to it; what else the models could it does not keep.

    python benchmarks/unlabelled.py whisper-tiny.en digits_en/manifest.csv sentences_de/manifest.csv [--updates 60]

Two full fine-tunes of one Whisper, on spoken digits and on German sentences, are merged at weights that favour German,
and calibrated on the digits as keywords (ten choices, a weight a model and component): on rows whose answers are taken
out, by entropy, and on the same rows by cross-entropy. Told are, on test, how many digits are the likeliest choice and
how many are written, and the error rate of German sentences; and the CPU time of either calibration.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import common

FAVOUR = {"digits": 0.3, "german": 0.7}
TRAINED = {"digits": (8, 5), "german": (4, 10)}  # rows of a batch, seconds of a window
ASKED = ["--task", "kws", "--window", "1", "--device", "cpu"]


def keywords(source: Path, place: Path, split: dict[str, int], *, answers: bool) -> Path:
    """Every so manieth row of some splits, with its choices, and with or without its answer."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    choices = "|".join(sorted({row["text"] for row in rows}))
    with place.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["path", "text", "language", "speaker", "split", "choices"])
        for name, step in split.items():
            for row in [one for one in rows if one["split"] == name][::step]:
                text = row["text"] if answers else ""
                lines.writerow([source.parent / row["path"], text, row["language"], row["speaker"], name, choices])
    return place


def tuned(base: Path, manifest: Path, place: Path, name: str) -> Path:
    size, window_s = TRAINED[name]
    config = common.write_recipe(place / f"{name}.yml", {
        "model": {"base": str(base)}, "data": {"train": str(manifest), "language": "en"},
        "train": {"steps": 60, "batch_size": size, "learning_rate": 3.0e-5, "window_s": window_s},
        "dev": {"max_new_tokens": 12, "limit": 8}, "output": str(place / name), "logs": str(place / f"{name}-logs"),
    })  # fmt: skip
    common.measure([common.CHORUS, "train", config, "-q"])
    return place / name


def evaluated(systems: dict[str, Path], out: Path, *asked: str) -> dict[str, Any]:
    named = [f"{name}={path}" for name, path in systems.items()]
    common.measure([common.CHORUS, "evaluate", *named, *asked, "-o", str(out), "-q"])
    return {name: json.loads((out / name / "summary.json").read_text()) for name in systems}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("digits", type=Path)
    parser.add_argument("german", type=Path)
    parser.add_argument("--updates", type=int, default=60)
    args = parser.parse_args()
    with common.workplace() as place:
        models = {name: tuned(args.base, getattr(args, name), place, name) for name in FAVOUR}
        recipe = common.write_recipe(place / "merge.yml", {
            "merge_method": "task_arithmetic", "base_model": str(args.base), "out_dtype": "float32",
            "models": [{"model": str(models[name]), "parameters": {"weight": w}} for name, w in FAVOUR.items()],
        })  # fmt: skip
        systems, took = {"base": args.base, **models, "merge": recipe}, {}
        for objective in ("entropy", "cross-entropy"):
            rows = keywords(
                args.digits, place / f"{objective}.csv", {"train": 3, "dev": 2}, answers=objective != "entropy"
            )  # fmt: skip
            settings = [
                "--objective", objective, "--by", "language", "--updates", str(args.updates), "--every", "10",
                "--batch-size", "8", "--learning-rate", "0.02", "--granularity", "component",
            ]  # fmt: skip
            took[objective] = common.measure([
                common.CHORUS, "calibrate", recipe, "--data", rows, "--dev", rows, *ASKED, *settings, "-o",
                place / objective, "-q",
            ]).cpu_s  # fmt: skip
            systems[objective] = place / objective / "recipe.yml"
        test = keywords(args.digits, place / "test.csv", {"test": 1}, answers=True)
        asked = evaluated(systems, place / "asked", "--data", str(test), *ASKED)
        heard = evaluated(
            systems, place / "heard", "--data", str(args.german), "--language", "en", "--window", "10",
            "--max-new-tokens", "80", "--limit", "60", "--device", "cpu",
        )  # fmt: skip
        rows = []
        for name in systems:
            metrics = asked[name]["metrics"]["clean"]
            told = [f"{metrics[m]['value']:.1f}" for m in ("constrained_accuracy", "accuracy")]
            german = heard[name]["all"]["error_rate"]
            rows.append({
                "system": name, "likeliest": told[0], "written": told[1], "german_wer": f"{german:.1f}",
                "cpu_s": f"{took[name]:.0f}" if name in took else "-",
            })  # fmt: skip
        common.report("unlabelled", rows)


if __name__ == "__main__":
    main()
