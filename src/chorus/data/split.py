"""Train, dev and test by whole groups, so that no speaker (or text, or session) stands on two sides."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import PurePath

from chorus.data.manifest import Row, with_split
from chorus.errors import DataError, UsageError, nearest

SPLITS = ("train", "dev", "test")
SPLIT_NAMES = {"dev": ("dev", "val", "valid", "validation"), "train": ("train",), "test": ("test",)}  # as written


def split_rows(
    rows: Sequence[Row],
    *,
    dev: float = 0.1,
    test: float = 0.1,
    by: str = "speaker",
    stratify: str = "",
    seed: int = 0,
) -> list[Row]:
    """The rows in their order, each with its split; `dev` and `test` are shares of the duration (else of the rows).

    `by` is a column, or `folder` (the audio's), or `row` (every row for itself). Within each value of the column
    `stratify` the shares hold as nearly as whole groups allow: a group belongs to the stratum of most of its rows,
    and a stratum of two groups or fewer keeps at least one in train.
    """
    if not 0 <= dev < 1 or not 0 <= test < 1 or dev + test >= 1:
        raise UsageError(f"dev {dev:g} and test {test:g} leave nothing to train on", "give shares below one")
    for column in (by, stratify):
        if column not in ("folder", "row", "") and not any(row.get(column) for row in rows):
            known = sorted({c for row in rows for c in ("speaker", "domain", "language", *row.extra) if row.get(c)})
            raise DataError(f'no row has the column "{column}"{nearest(column, known)}', "name another, folder, or row")
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(_group(row, i, by), []).append(i)
    strata: dict[str, list[str]] = {}
    for name, indices in members.items():
        values = [rows[i].get(stratify) for i in indices] if stratify else [""]
        # sorted, or of two values as frequent the set's order would choose, another one in every process
        strata.setdefault(max(sorted(set(values)), key=values.count), []).append(name)
    side: dict[str, str] = {}
    for stratum, names in sorted(strata.items()):
        weights = {n: sum(rows[i].length_s or 1.0 for i in members[n]) for n in names}
        # a text seeds by its SHA-512, the same everywhere; a stratum more or less does not move the others
        side |= _divide(weights, {"test": test, "dev": dev}, random.Random(f"{seed}/{stratum}"))  # noqa: S311 - no secret
    where = {i: side[name] for name, indices in members.items() for i in indices}
    return [with_split(row, where[i]) for i, row in enumerate(rows)]


def _group(row: Row, index: int, by: str) -> str:
    if by == "row":
        return str(index)
    if by == "folder":
        return str(PurePath(row.path).parent)
    return row.get(by) or f"row {index}"  # a row without a speaker is a group of its own


def _divide(weights: dict[str, float], shares: dict[str, float], rng: random.Random) -> dict[str, str]:
    """Groups to splits: in random order into whichever held-out part they still fit best, the rest to train."""
    # by name before they are shuffled: the order of the rows must not decide
    names = sorted(weights)
    rng.shuffle(names)
    total = sum(weights.values())
    wanted = {split: share * total for split, share in shares.items() if share > 0}
    side: dict[str, str] = {}
    held = dict.fromkeys(wanted, 0.0)
    for split, target in sorted(wanted.items(), key=lambda item: item[1]):
        for name in names:
            still_empty = 1 + sum(held[other] == 0 for other in wanted if other != split)  # train is one of them
            if name in side or len(names) - len(side) <= still_empty:
                continue
            after = held[split] + weights[name]
            if abs(after - target) < abs(held[split] - target) or held[split] == 0:
                side[name] = split
                held[split] = after
    return {name: side.get(name, "train") for name in names}
