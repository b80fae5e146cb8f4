"""`make demo`: the whole line on real recordings, and what to do next with one's own.

    python examples/digits/demo.py [--out demo-output]

Runs `chorus experiment examples/digits/demo.yml`: three specialists and a joint fine-tune of one base, merges by eight
methods whose settings are chosen on dev, the test with intervals, plots and a report.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

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


def print_table(path: Path) -> None:
    """A table of the experiment, folded to the terminal."""
    header, *rows = list(csv.reader(path.open(encoding="utf-8")))
    table = Table(title="WER, percent [95 % interval], on test", title_justify="left")
    for i, column in enumerate(header):
        table.add_column(column, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*(cell.replace("[", r"\[") for cell in row))
    Console(width=None if sys.stdout.isatty() else 200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="demo-output")
    out = Path(parser.parse_args().out)
    print("chorus experiment examples/digits/demo.yml", file=sys.stderr)
    started = time.monotonic()
    command = [CHORUS, "experiment", HERE / "demo.yml", "-o", out]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print_table(next(iter(sorted((out / "tables").glob("01-*.csv")))))
    print(
        f"\n{time.monotonic() - started:.0f} s. Look at {out}/report.html in a browser; the best merge: {out}/merged/"
    )
    print(NEXT)


if __name__ == "__main__":
    main()
