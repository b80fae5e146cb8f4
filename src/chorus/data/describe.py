"""What a manifest holds, in numbers and pictures: durations, domains, languages, speakers, characters."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict

from chorus.data.audio import info
from chorus.data.manifest import Row
from chorus.plotting import TEAL, figure, save

SHOWN = 20  # bars of a plot, columns of a table


class Described(TypedDict):
    """What is told of a value of a column."""

    rows: int
    hours: float


class Quantiles(TypedDict):
    """Of the durations, in seconds."""

    min: float
    median: float
    p95: float
    max: float


class Description(TypedDict):
    """What manifests hold. `by` is column -> value -> its rows and hours, the most rows first."""

    rows: int
    hours: float
    duration_s: Quantiles
    words_per_row: float
    distinct_texts: int
    characters: int
    rarest_characters: list[str]
    by: dict[str, dict[str, Described]]
    durations: list[float]


def describe(rows: Sequence[Row]) -> Description:
    """Counts, hours and quantiles; durations come from the manifest, else from the files' headers."""
    lengths = [_length_s(row) for row in rows]
    ordered = sorted(lengths)

    def quantile(q: float) -> float:
        # a value that occurs
        return round(ordered[min(len(ordered) - 1, int(q * len(ordered)))], 3) if ordered else 0.0

    tables: dict[str, dict[str, Described]] = {}
    for column in ("language", "domain", "speaker", "split"):
        counts: Counter[str] = Counter()
        hours: dict[str, float] = {}
        for row, length in zip(rows, lengths, strict=True):
            value = row.get(column)
            if value:
                counts[value] += 1
                hours[value] = hours.get(value, 0.0) + length / 3600
        if counts:
            tables[column] = {v: Described(rows=n, hours=round(hours[v], 4)) for v, n in counts.most_common()}
    words = [len(row.text.split()) for row in rows]
    characters = Counter("".join(row.text for row in rows))
    return {
        "rows": len(rows),
        "hours": round(sum(lengths) / 3600, 4),
        "duration_s": {"min": quantile(0), "median": quantile(0.5), "p95": quantile(0.95), "max": quantile(1)},
        "words_per_row": round(statistics.fmean(words), 2) if words else 0.0,
        "distinct_texts": len({row.text for row in rows}),
        "characters": len(characters),
        # mistypings and wrong encodings stand at this end
        "rarest_characters": [c for c, _ in characters.most_common()[:-11:-1]],
        "by": tables,
        "durations": lengths,
    }


def _length_s(row: Row) -> float:
    known = row.length_s
    return known if known is not None else info(row.audio).duration_s


def plot(facts: Description, target: Path, title: str) -> Path:
    """A picture of durations and of hours by domain, language and speaker, as the suffix says (PNG, SVG, PDF)."""
    panels = [c for c in ("domain", "language", "speaker") if len(facts["by"].get(c, {})) > 1] or ["split"]
    panels = [c for c in panels if c in facts["by"]]
    rows = max([1, *(min(SHOWN, len(facts["by"][c])) for c in panels)])
    drawn, (durations, *columns) = figure(
        5 * (1 + len(panels)), max(3.2, 1.2 + 0.24 * rows), panels=1 + len(panels),
        title=f"{title}: {facts['rows']} rows, {facts['hours']:.2f} h",
    )  # fmt: skip
    durations.hist(facts["durations"], bins=min(60, max(10, facts["rows"] // 20)), color=TEAL)
    durations.set(xlabel="duration, s", ylabel="rows")
    for axis, column in zip(columns, panels, strict=True):
        items = sorted(facts["by"][column].items(), key=lambda item: item[1]["hours"])[-SHOWN:]
        axis.barh([name for name, _ in items], [v["hours"] for _, v in items], color=TEAL)
        whole = len(items) == len(facts["by"][column])
        axis.set(xlabel="hours", title=column if whole else f"{column} (largest {SHOWN})")
    return save(drawn, target)
