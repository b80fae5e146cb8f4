"""Claim: an f16 ggml export takes at most a third of the CPU of transformers' load and save, and twice that of `cp`.

    python benchmarks/export.py [--shape whisper-small] [--runs ggml:f16,ctranslate2:int8]

`cp` copies as many bytes as were written, to a name that is free, as the export's is. Peak anonymous memory is of the
whole command, and so is the CPU. Everything in turn, medians.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import common
from _export_models import write_tokens

WHISPER = "ggml:f16,ggml:q8_0,ggml:q5_0,ggml:q4_k,ctranslate2:float16,ctranslate2:int8,openai:float16"
LANGUAGE = "gguf:f16,gguf:bf16,gguf:q8_0,gguf:q5_0"
TRANSFORMERS = """
import sys
import transformers
getattr(transformers, sys.argv[3]).from_pretrained(sys.argv[1], dtype="float16").save_pretrained(sys.argv[2])
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="whisper-small", choices=list(common.CONFIGS))
    parser.add_argument("--runs", help=f"FORMAT:TYPE,...; {WHISPER}, of language models {LANGUAGE}")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without transformers, which needs the model's size twice")
    args = parser.parse_args()
    whisper = "whisper" in args.shape
    rows = []
    with common.workplace() as place:
        model = common.make_models(place, args.shape, 0)[0]
        write_tokens(model, whisper=whisper)
        common.warm([model])
        for run in (args.runs or (WHISPER if whisper else LANGUAGE)).split(","):
            rival = "" if args.alone or run != "ggml:f16" else str(common.CONFIGS[args.shape]["architectures"][0])
            rows.append({"shape": args.shape, "run": run, **measured(place, model, run, rival, args.repeats)})
            print(rows[-1], flush=True)
    common.report(f"export-{args.shape}", rows)


def measured(place: Path, model: Path, run: str, rival: str, repeats: int) -> dict[str, object]:
    """One form of one model. `rival` is the class by which transformers loads it, empty where it need not."""
    out, other, copy = place / "out", place / "saved", place / "copy"
    to, _, kind = run.partition(":")
    export = [common.CHORUS, "export", model, "--to", to, "--type", kind, "-o", out, "-q"]
    runs = {
        "chorus": partial(afresh, out, export),
        "cp": partial(afresh, copy, ["cp", "-r", out, copy]),
    }
    if rival:
        runs["transformers"] = partial(afresh, other, [sys.executable, "-c", TRANSFORMERS, model, other, rival])
    runs["chorus"]()  # kernels, caches
    found = common.alternate(dict[str, Callable[[], common.Measured]](runs), repeats)
    cpu = {name: common.median([m.cpu_s for m in each]) for name, each in found.items()}
    written = sum(path.stat().st_size for path in ([out] if out.is_file() else out.iterdir()))
    for path in (out, other, copy):
        remove(path)
    return {
        "MB written": round(written / 1e6),
        "cpu_s": cpu["chorus"],
        "wall_s": common.median([m.wall_s for m in found["chorus"]]),
        "anonymous MB": round(max(m.anonymous_bytes for m in found["chorus"]) / 1e6),
        "cp cpu_s": cpu["cp"],
        "of cp": cpu["chorus"] / cpu["cp"],
        "of load + save": cpu["chorus"] / cpu["transformers"] if rival else "",
    }


def afresh(out: Path, command: list[str | Path]) -> common.Measured:
    """Under a name that is free: what replaces a file pays for the pages of the old one."""
    remove(out)
    return common.measure(command)


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.with_name(path.name + ".json").unlink(missing_ok=True)


if __name__ == "__main__":
    main()
