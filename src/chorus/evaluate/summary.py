"""The summary of an evaluation: measures of all rows, by condition, domain, language and speaker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from chorus.evaluate.scores import COLUMNS, by_column, known, macro, measures, translation
from chorus.tasks.scored import Answer, Scored, score_texts
from chorus.transcribe.conditions import CLEAN

MAX_GROUPS = 500  # of a column: beyond, it is no grouping


def summarise(facts: Mapping[str, Any], rows: Sequence[Answer], normaliser: str, unit: Any = None) -> dict[str, Any]:
    """`facts` with the measures of these rows under a normaliser."""
    scored = score_texts(rows, normaliser, unit)
    raw = score_texts(rows, "raw", unit) if normaliser != "raw" else scored
    clean, orthographic = _main(scored, facts["conditions"]), _main(raw, facts["conditions"])
    found = {
        **facts,
        "normaliser": normaliser,
        "forced_unit": unit,
        "all": measures(clean),
        "orthographic": {k: measures(orthographic)[k] for k in ("error_rate", "wer", "cer")},
        "conditions_measured": {name: measures(part) for name, part in by_column(scored, "condition").items()},
        "by": {column: _groups(clean, column) for column in COLUMNS if _worth(clean, column)},
    }
    found["macro"] = {column: _macro(clean, column) for column in ("domain", "language") if column in found["by"]}
    if facts["decoding"]["task"] == "st":
        found["translation"] = {
            name: translation(part) for name, part in by_column(scored, "condition").items() if len(part) > 0
        }
    return found


def _main(rows: Sequence[Scored], conditions: Sequence[str]) -> list[Scored]:
    """The rows that stand for the system: the clean ones, else the first condition's."""
    first = CLEAN if CLEAN in conditions else conditions[0]
    return [row for row in rows if row.condition == first]


def _worth(rows: Sequence[Scored], column: str) -> bool:
    values = {getattr(row, column) for row in rows}
    return values != {""} and len(values) <= MAX_GROUPS


def _groups(rows: Sequence[Scored], column: str) -> dict[str, Any]:
    return {name or "(none)": measures(part) for name, part in by_column(rows, column).items()}


def _macro(rows: Sequence[Scored], column: str) -> dict[str, Any]:
    value, interval = macro(by_column(rows, column))
    told = {k: known(v) if isinstance(v, float) else v for k, v in interval.as_dict().items()}
    return {"error_rate": known(value), "interval": told}
