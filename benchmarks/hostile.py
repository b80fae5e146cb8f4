"""Commands on hostile and damaged inputs: a clear answer each time, in seconds and little memory.

    python benchmarks/hostile.py --count 3000 --seed 1

Prints a table by kind: answers that are clear (exit code 2 or 4, a line that says what is wrong), successes that are
right, and what is neither; each of those is printed with its case.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile import KINDS, Outcome, World, cases, outcome

VERDICTS = ("clear", "right", "unclear", "silent", "left", "fault", "hang", "memory")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", action="append", choices=list(KINDS))
    given = parser.parse_args()
    found: dict[str, Counter[str]] = {}
    slowest: list[Outcome] = []
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = World(Path(folder) / "world")
        for case, place in cases(world, Path(folder) / "cases", given.count, given.seed, given.kind):
            one = outcome(case, place)
            found.setdefault(case.kind, Counter())[one.verdict] += 1
            slowest = sorted([*slowest, one], key=lambda o: -o.seconds)[:5]
            if one.verdict not in ("clear", "right"):
                told = one.told.replace(str(place), "")[:600]
                print(
                    f"## {one.verdict}: {case.kind}, {case.name} ({one.code}, {one.seconds:.1f} s)\n{told}\n",
                    flush=True,
                )
    print(f"| kind | {' | '.join(VERDICTS)} |\n|---|{'---:|' * len(VERDICTS)}")
    for kind, counts in sorted(found.items()):
        print(f"| {kind} | {' | '.join(str(counts[v] or '') for v in VERDICTS)} |")
    total = sum(found.values(), Counter())
    print(f"| all | {' | '.join(str(total[v]) for v in VERDICTS)} |")
    print("slowest:", ", ".join(f"{o.case.kind}, {o.case.name}: {o.seconds:.1f} s" for o in slowest))
    print(f"{given.count} cases, seed {given.seed}, {time.monotonic() - started:.0f} s")
    return int(any(total[v] for v in VERDICTS[2:]))


if __name__ == "__main__":
    sys.exit(main())
