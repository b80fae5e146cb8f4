"""Claim: `chorus data check` reads 10,000 files of three seconds in under a minute of CPU after imports.

    python benchmarks/data_check.py [--files 10000]

Half FLAC, half Ogg Opus at 16 kHz, one to five seconds each, noise in the shape of speech. CPU of the whole command,
less that of the same command on one file.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common
import numpy as np


def make(place: Path, count: int) -> tuple[Path, Path, float]:
    """The corpus, a manifest of one row, and the seconds of audio."""
    import soundfile

    from chorus.data.audio import RATE
    from chorus.data.manifest import Row, write_manifest

    numbers, rows, total = np.random.default_rng(0), [], 0.0
    envelope = np.abs(np.sin(np.arange(5 * RATE) / RATE * 2 * np.pi * 2)).astype(np.float32)
    voice = (0.2 * envelope * np.sin(np.arange(5 * RATE) / RATE * 2 * np.pi * 180)).astype(np.float32)
    (place / "audio").mkdir()
    for i in range(count):
        seconds = numbers.uniform(1, 5)
        total += seconds
        length = int(seconds * RATE)
        audio = voice[:length] + numbers.normal(0, 0.02, length).astype(np.float32) * envelope[:length]
        name = f"audio/{i:05d}.{'flac' if i % 2 else 'opus'}"
        form = {"format": "FLAC"} if i % 2 else {"format": "OGG", "subtype": "OPUS"}
        soundfile.write(place / name, audio, RATE, **form)
        rows.append(Row(name, f"utterance {i} of many", "en", f"s{i % 50}", f"d{i % 5}", root=place))
    return write_manifest(rows, place / "all.csv"), write_manifest(rows[:1], place / "one.csv"), total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with common.workplace() as place:
        every, one, seconds = make(place, args.files)
        found = common.alternate(
            {
                "all": lambda: common.measure([common.CHORUS, "data", "check", every, "-q"]),
                "one": lambda: common.measure([common.CHORUS, "data", "check", one, "-q"]),
            },
            args.repeats,
        )
        cpu = {name: common.median([m.cpu_s for m in measured]) for name, measured in found.items()}
        common.report(
            "data_check",
            [
                {
                    "files": args.files,
                    "hours": round(seconds / 3600, 2),
                    "cpu_s": cpu["all"],
                    "imports cpu_s": cpu["one"],
                    "cpu_s after imports": cpu["all"] - cpu["one"],
                    "wall_s": common.median([m.wall_s for m in found["all"]]),
                    "MB": round(max(m.anonymous_bytes for m in found["all"]) / 1e6),
                }
            ],
        )


if __name__ == "__main__":
    main()
