"""Every benchmark, one after another; hours. Results go to benchmarks/results as JSON."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RUNS = [
    ["startup.py"],
    ["hostile.py", "--count", "1000"],
    ["parity_with_mergekit.py"],
    ["against_machine.py"],
    ["against_mergekit.py"],
    ["against_mergekit.py", "--spectrum", "flat"],
    ["against_mergekit.py", "--shape", "whisper-small"],
    ["subspace.py"],
    ["subspace.py", "--spectrum", "flat"],
    ["conditioning.py"],
    ["adapters.py"],
    ["extract.py"],
    ["export.py"],
    ["export.py", "--shape", "whisper-large-v3", "--runs", "ggml:f16,ctranslate2:int8"],
    ["export_bytes.py"],
    ["whisper_cpp_defaults.py", "examples/digits/base", "examples/digits/data/manifest.csv"],
    ["heard.py", "examples/digits/base", "--data", "examples/digits/data/manifest.csv"],
    ["data_check.py"],
    ["train.py"],
    ["evaluate.py"],
    ["calibration.py"],
    ["calibrate.py"],
    ["label_scores.py"],
    ["continual.py"],
    ["sweep.py"],
    ["sweep.py", "--shape", "whisper-small"],
    ["memory.py"],
    ["memory.py", "--methods", "sce,pcb,boosted_tsv_m", "--models", "10"],
    ["memory.py", "--shape", "whisper-large-v3", "--models", "4", "--methods", "linear,ties"],
]

if __name__ == "__main__":
    failed = []
    for script, *arguments in RUNS:
        print(f"== {script} {' '.join(arguments)}", flush=True)
        if subprocess.run([sys.executable, Path(__file__).parent / script, *arguments], check=False).returncode:
            failed.append(script)
    raise SystemExit(f"failed: {', '.join(failed)}" if failed else 0)
