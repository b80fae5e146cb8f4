"""The rows of the README's table of domains: `python short.py --data PACKS --out DIR`, then CHORUS_DATA=DIR.

Of each pack that `whisper_domains.yml` names the rows of at most 4.5 s, evenly taken; out of domain all are kept.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from chorus.data.manifest import Row, read_manifest, write_manifest

ROWS = {"train": 400, "dev": 30, "test": 60}
LONGEST_S = 4.5
KEPT: dict[str, Callable[[Row], bool]] = {
    "sentences_de": lambda row: True,
    "sentences_nl": lambda row: True,
    "commands_ar": lambda row: row.domain == "digits",
    "digits_en": lambda row: row.speaker in ("george", "jackson", "nicolas"),
}


def taken(rows: Sequence[Row], most: int) -> list[Row]:
    """So many of the rows, evenly."""
    count = min(most, len(rows))
    return [rows[i * len(rows) // count] for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    flags = parser.parse_args()
    for name in (*KEPT, "samples"):
        rows = [replace(row, path=str(row.audio)) for row in read_manifest(flags.data / name / "manifest.csv").rows]
        if name in KEPT:
            short = [row for row in rows if row.duration is not None and row.duration <= LONGEST_S and KEPT[name](row)]
            rows = [one for split, most in ROWS.items() for one in taken([r for r in short if r.split == split], most)]
        place = write_manifest(rows, flags.out / name / "manifest.csv")
        print(f"{place}: {len(rows)} rows")


if __name__ == "__main__":
    main()
