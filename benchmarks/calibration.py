"""Claim: of two equally good systems no more come out as different than p says, however few errors there are.

    python benchmarks/calibration.py [--trials 2000]

Pairs of systems that err in the same share of words, in one domain or in three of unequal sizes. Counted
are pairs with p below .05, .01 and .001: by Chorus's exact MAPSSWE of the average over domains, by the normal
distribution of the paper's statistic (as NIST's tools take it, pooled), by approximate randomisation, and stars.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import common
import numpy as np
from scipy import stats

from chorus.evaluate.bootstrap import Answered, paired_bootstrap, swapped_p
from chorus.evaluate.comparison import LEVELS
from chorus.evaluate.flips import Weighted
from chorus.evaluate.mapsswe import differences_of, matched_parts
from chorus.tasks.counts import Alignment, Chunk, Kind
from chorus.tasks.scored import ERROR_RATE

# utterances of each domain, words of each, share of them wrong
CASES = [
    ((50,), 1, 0.02), ((100,), 1, 0.02), ((100,), 10, 0.02), ((60,), 10, 0.2), ((400,), 10, 0.1),
    ((20, 60, 120), 1, 0.02), ((20, 60, 120), 10, 0.2),
]  # fmt: skip


def heard(wrong: Sequence[bool]) -> Alignment:
    """The alignment of a hypothesis with these words wrong."""
    kinds: list[Kind] = ["substitute" if bad else "equal" for bad in wrong]
    return Alignment(tuple(Chunk(kind, i, i + 1, i, i + 1) for i, kind in enumerate(kinds)))


def by_the_normal(differences: Sequence[int]) -> float:
    """What the paper's statistic would be taken for."""
    n, spread = len(differences), float(np.std(differences, ddof=1)) if len(differences) > 1 else 0.0
    mean = float(np.mean(differences)) if n else 0.0
    if not spread:
        return 1.0 if n < 2 or not mean else 0.0
    return float(2 * stats.norm.sf(abs(mean / spread * math.sqrt(n))))


def one_pair(rng: np.random.Generator, sizes: Sequence[int], words: int, share: float, seed: int) -> dict[str, float]:
    """p by each test, of two systems that do not differ."""
    parts, answered = [], []
    for size in sizes:
        wrong = rng.random((2, size, words)) < share
        pairs = [(heard(x), heard(y)) for x, y in zip(*wrong.tolist(), strict=True)]
        parts.append(Weighted(100 / (size * words) / len(sizes), differences_of(pairs)))
        a, b = (np.column_stack([one.sum(1), np.full(size, words)]).astype(float) for one in wrong)
        answered.append(Answered(a, b, np.arange(size)))
    exact, inside = matched_parts(parts).p, paired_bootstrap(answered, draws=500, seed=seed)
    return {
        "exact": exact,
        "normal": by_the_normal([d for part in parts for d in part.differences]),
        "swapped": swapped_p(answered, ERROR_RATE, draws=999, seed=seed),
        "stars": exact if inside.low > 0 or inside.high < 0 else 1.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    trials = parser.parse_args().trials
    rows: list[dict[str, object]] = []
    for sizes, words, share in CASES:
        rng = np.random.default_rng(2026)
        found = [one_pair(rng, sizes, words, share, seed) for seed in range(trials)]
        for test in found[0]:
            p = np.array([one[test] for one in found])
            row: dict[str, object] = {
                "utterances": "+".join(map(str, sizes)),
                "words": words,
                "wrong": share,
                "test": test,
            }
            row |= {f"p < {level}": f"{100 * np.mean(p < level):.2f} %" for level in LEVELS}
            most = [int(np.sum(p < level)) <= stats.binom.ppf(0.999, trials, level) for level in LEVELS]
            rows.append({**row, "holds its level": "yes" if all(most) else "NO"})
    common.report("calibration", rows)


if __name__ == "__main__":
    main()
