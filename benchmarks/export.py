"""Claim: an f16 ggml export takes at most a third of the CPU of transformers' load and save, and twice that of `cp`.

    python benchmarks/export.py [--shape whisper-small] [--types f16,q5_0]

`cp` copies as many bytes as were written. Peak anonymous memory is of the whole command, and so is the CPU.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from pathlib import Path

import common

ROOT = Path(__file__).parents[1]
TRANSFORMERS = """
import sys
from transformers import WhisperForConditionalGeneration
WhisperForConditionalGeneration.from_pretrained(sys.argv[1], dtype="float16").save_pretrained(sys.argv[2])
"""


def tokens(place: Path) -> Path:
    """The text tokens of every multilingual Whisper, as openai-whisper's file, from the demo's tokenizer."""
    from chorus.export.whisper import BYTES

    vocabulary = json.loads((ROOT / "examples/digits/base/tokenizer.json").read_text())["model"]["vocab"]
    lines = []
    for token, rank in sorted(vocabulary.items(), key=lambda item: item[1]):
        if rank < 50_256:
            raw = bytes(BYTES[letter] for letter in token)
            lines.append(f"{base64.b64encode(raw).decode()} {rank}")
    path = place / "multilingual.tiktoken"
    path.write_text("\n".join(lines) + "\n")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="whisper-small", choices=[n for n in common.CONFIGS if "whisper" in n])
    parser.add_argument("--types", default="f16,q8_0,q5_0,q4_0")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without transformers, which needs the model's size twice")
    args = parser.parse_args()
    rows = []
    with common.workplace() as place:
        model, table = common.make_models(place, args.shape, 0)[0], tokens(place)
        common.warm([model])
        out, other, copy = place / "out.bin", place / "saved", place / "copy.bin"
        for kind in args.types.split(","):
            export = [
                common.CHORUS, "export", model, "--to", "ggml", "--type", kind, "-o", out, "--tokenizer", table,
                "--overwrite", "-q",
            ]  # fmt: skip
            common.measure(export)
            runs = {"chorus": lambda: common.measure(export), "cp": lambda: common.measure(["cp", out, copy])}
            if kind == "f16" and not args.alone:
                runs["transformers"] = lambda: common.measure([sys.executable, "-c", TRANSFORMERS, model, other])
            found = common.alternate(runs, args.repeats)
            cpu = {name: common.median([m.cpu_s for m in measured]) for name, measured in found.items()}
            row: dict[str, object] = {"shape": args.shape, "type": kind, "cpu_s": cpu["chorus"]}
            row["wall_s"] = common.median([m.wall_s for m in found["chorus"]])
            row["MB"] = round(max(m.anonymous_bytes for m in found["chorus"]) / 1e6)
            row["of cp"] = cpu["chorus"] / cpu["cp"]
            row["of load + save"] = cpu["chorus"] / cpu["transformers"] if "transformers" in cpu else ""
            rows.append(row)
            print(row, flush=True)
            for path in (out, copy):
                path.unlink()
            common.clean(other)
    common.report(f"export-{args.shape}", rows)


if __name__ == "__main__":
    main()
