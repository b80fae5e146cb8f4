"""`make demo`: the whole line on real recordings, and what to do next with one's own.

    python examples/digits/demo.py [--out demo-output]

Runs `chorus experiment examples/digits/demo.yml`: three specialists and a joint fine-tune of one base, merges by eight
methods whose settings are chosen on dev, the test with intervals, plots and a report.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"
NEXT = """\
next, with your own recordings (docs/experiments.md says more):
  chorus data manifest RECORDINGS -o speech.csv          a folder of recordings with their texts
  chorus data split speech.csv -o split.csv              train, dev and test, no speaker on two sides
  chorus data check split.csv --model BASE               what would spoil the training
  cp examples/digits/demo.yml mine.yml                   put in your base, manifest and domains
  chorus experiment mine.yml --dry-run                   what it would do, and what it would cost
  chorus experiment mine.yml                             again after a kill: it goes on"""


def print_table(values: dict[str, Any]) -> None:
    """Rates by speaker, and the averages with their intervals."""
    (task,) = values["tasks"].values()
    made = task["comparison"]
    speakers = [cell["name"] for cell in made["cells"]]
    groups = [g for g in ("in-domain", "out-of-domain") if any(c["group"] == g for c in made["cells"])]
    table = Table(title=f"WER, percent, on test (normaliser {made['normaliser']})", title_justify="left")
    for i, name in enumerate(["", *speakers, *(f"{g} [95 %]" for g in groups), "recovery", "forgetting"]):
        table.add_column(name, justify="left" if i == 0 else "right")
    role = made["lines"][0]["role"]
    for line in made["lines"]:
        if line["role"] != role:
            table.add_section()
            role = line["role"]
        best = " *" if line["label"] == values["best"] else ""
        averages = [(line["averages"][g], line["average_intervals"][g]) for g in groups]
        table.add_row(
            line["label"] + best, *(f"{line['rates'][s]:.0f}" for s in speakers),
            *(f"{v:.1f} \\[{i['low']:.1f}, {i['high']:.1f}]" for v, i in averages),
            "" if line["recovery_mean"] is None else f"{line['recovery_mean']:.2f}",
            "" if line["forgetting"] is None else f"{line['forgetting']:+.1f}",
        )  # fmt: skip
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    print("* chosen on dev.  " + " ".join(made["notes"]))
    print("Intervals resample utterances: they tell how sure the rates are for these five speakers, not for others.")
    print("Recovery: of what the specialists gain at home. Forgetting: points lost on the base's own speakers.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo-output")
    out = Path(parser.parse_args().out)
    print("chorus experiment examples/digits/demo.yml", file=sys.stderr)
    started = time.monotonic()
    command = [CHORUS, "experiment", HERE / "demo.yml", "-o", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print_table(json.loads((out / "results.json").read_text(encoding="utf-8")))
    print(
        f"\n{time.monotonic() - started:.0f} s. Look at {out}/report.html in a browser; the best merge: {out}/merged/"
    )
    print(NEXT)


if __name__ == "__main__":
    main()
