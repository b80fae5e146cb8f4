"""The main job on real speech: three specialists of one base, merged by several methods, and what each one hears.

    python examples/digits/demo.py [--out demo-output]

Fine-tunes the base on one speaker at a time with `chorus train`, merges the specialists with `chorus merge`, and
decodes every speaker's test recordings with the base, the specialists and the merges. Nothing is chosen by the test
recordings.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import speech
import torch
import yaml
from jiwer import process_words
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
BASE, MANIFEST = HERE / "base", HERE / "data" / "manifest.csv"
BASE_SPEAKERS = ("theo", "yweweler")
SPECIALISTS = ("george", "jackson", "nicolas")
SPEAKERS = (*BASE_SPEAKERS, *SPECIALISTS)
CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"

# name in the table -> (merge_method, parameters of each model, global parameters, whether it takes the base)
MERGES: dict[str, tuple[str, dict, dict, bool]] = {
    "linear (mean)": ("linear", {"weight": 1}, {}, False),
    "karcher": ("karcher", {}, {}, False),
    "model_stock": ("model_stock", {}, {}, True),
    "task_arithmetic, lambda 0.5": ("task_arithmetic", {"weight": 1}, {"lambda": 0.5}, True),
    "ties, density 0.5": ("ties", {"weight": 1, "density": 0.5}, {}, True),
    "dare_ties, density 0.5": ("dare_ties", {"weight": 1, "density": 0.5}, {"lambda": 0.5}, True),
    "breadcrumbs, density 0.9": ("breadcrumbs", {"weight": 1, "density": 0.9, "gamma": 0.01}, {"lambda": 0.5}, True),
}
console = Console(stderr=True)


def train_specialists(out: Path) -> dict[str, Path]:
    """One full fine-tune of the base for each new speaker, by the command that a user would type."""
    chosen = [argument for speaker in SPECIALISTS for argument in ("--only", speaker)]
    given = [f"model.base={BASE}", f"data.train={MANIFEST}", f"output={out}/specialists", f"logs={out}/runs"]
    console.print(f"chorus train examples/digits/specialist.yaml --each speaker {' '.join(chosen)}")
    subprocess.run([CHORUS, "train", HERE / "specialist.yaml", *given, "--each", "speaker", *chosen], check=True)
    return {speaker: out / "specialists" / speaker for speaker in SPECIALISTS}


def write_recipe(out: Path, name: str, specialists: dict[str, Path]) -> tuple[Path, Path]:
    """A recipe beside the directory that it will make."""
    method, each, shared, with_base = MERGES[name]
    recipe: dict[str, object] = {"merge_method": method}
    if with_base:
        recipe["base_model"] = str(BASE)
    recipe["models"] = [{"model": str(p), **({"parameters": each} if each else {})} for p in specialists.values()]
    if shared:
        recipe["parameters"] = shared
    path = out / f"merge-{method}.yml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    return path, out / f"merged-{method}"


def merge_all(out: Path, specialists: dict[str, Path]) -> dict[str, Path]:
    """Every merge, by the command that a user would type."""
    merged = {}
    for name in MERGES:
        recipe, directory = write_recipe(out, name, specialists)
        console.print(f"chorus merge {_shown(recipe)} -o {_shown(directory)}")
        subprocess.run([CHORUS, "merge", recipe, "-o", directory, "--quiet"], check=True)
        merged[name] = directory
    return merged


def error_rates(directory: Path) -> dict[str, float]:
    """Word error rate by speaker on the test recordings, in percent; every word is lower case as it stands."""
    recogniser = speech.Recogniser.load(directory)
    rates = {}
    for speaker in SPEAKERS:
        test = speech.read_manifest(MANIFEST, speakers=[speaker], split="test")
        heard = speech.transcribe(recogniser, test)
        rates[speaker] = 100 * process_words([u.text for u in test], heard).wer
    return rates


def print_table(results: dict[str, dict[str, float]], groups: dict[str, str]) -> None:
    table = Table(title="Word error rate, percent, 50 test recordings a speaker (no normaliser)", title_justify="left")
    table.add_column("system")
    for speaker in SPEAKERS:
        table.add_column(f"{speaker}{' *' if speaker in BASE_SPEAKERS else ''}", justify="right")
    for column in ("mean of new", "mean of all"):
        table.add_column(column, justify="right")
    last = None
    for name, rates in results.items():
        if groups[name] != last and last is not None:
            table.add_section()
        last = groups[name]
        new = sum(rates[s] for s in SPECIALISTS) / len(SPECIALISTS)
        every = sum(rates.values()) / len(rates)
        table.add_row(name, *(f"{rates[s]:.0f}" for s in SPEAKERS), f"{new:.1f}", f"{every:.1f}")
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    print("* the speakers that the base was trained on")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("demo-output"))
    out = parser.parse_args().out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    torch.set_num_threads(2)
    started = time.monotonic()
    specialists = train_specialists(out)
    trained = time.monotonic()
    merges = merge_all(out, specialists)
    merged = time.monotonic()
    systems = {"base": BASE, **{f"specialist {s}": p for s, p in specialists.items()}, **merges}
    groups = {n: "base" if n == "base" else "specialist" if n.startswith("specialist") else "merge" for n in systems}
    results = {}
    for name, directory in systems.items():
        console.print(f"decoding with {name}")
        results[name] = error_rates(directory)
    ended = time.monotonic()
    print_table(results, groups)
    costs = {"fine-tuning": trained - started, "merging": merged - trained, "decoding": ended - merged}
    print("seconds: " + ", ".join(f"{k} {v:.0f}" for k, v in costs.items()))
    print(f"models, recipes and results: {_shown(out)}/  (specialists/*, merged-*, merge-*.yml, results.json)")
    (out / "results.json").write_text(
        json.dumps({"word_error_rate_percent": results, "seconds": costs}, indent=2) + "\n"
    )
    print(f"next: chorus plan {_shown(out)}/merge-ties.yml     your own models: docs/whisper.md")


def _shown(path: Path) -> str:
    resolved = path.resolve()
    return str(resolved.relative_to(Path.cwd())) if resolved.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    main()
