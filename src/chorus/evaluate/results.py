"""The files of an evaluation: one row an utterance, and a summary.

results.jsonl (or .parquet)   a row an utterance and condition: texts, edits, what failed
summary.json                  measures, settings, versions, fingerprints
rows.partial                  what an unfinished evaluation has decoded so far (transcribe/partial.py)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import explained, write_text
from chorus.errors import DataError, MisfitError, MissingExtraError, UsageError, some
from chorus.evaluate.checked import (
    AGAIN,
    check_counts,
    check_rows,
    digest_of,
    document_of,
    read_rows,
    read_summary,
    rows_of,
)
from chorus.evaluate.facts import Summary
from chorus.files import expanded, opened, present
from chorus.plain import JsonMap, JsonObject
from chorus.tasks.protocol import Task
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import Answer, Scored
from chorus.transcribe.partial import PARTIAL

if TYPE_CHECKING:
    import pyarrow

SUMMARY, ROWS, PARQUET = "summary.json", "results.jsonl", "results.parquet"


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: where it is, its summary, its rows; `counted` are the rows counted, where they are yet."""

    directory: Path
    summary: Summary
    rows: list[Answer]
    counted: list[Scored] | None = field(default=None, compare=False, repr=False)

    @property
    def label(self) -> str:
        return self.summary["system"]["label"]

    @property
    def normaliser(self) -> str:
        return self.summary["normaliser"]

    @property
    def task(self) -> Task:
        return TASKS.get(self.summary["decoding"]["task"])

    @cached_property
    def scored(self) -> list[Scored]:
        """The rows, counted under the evaluation's own normaliser."""
        if self.counted is not None:
            return self.counted
        return self.task.score(self.rows, self.normaliser, self.summary["unit"])


def read_evaluation(directory: str | Path) -> Evaluation:
    """An evaluation's directory (or its summary.json); `DataError` where it is none or not finished."""
    path = expanded(directory)
    # shells complete to the file as easily as to its folder
    path = path.parent if path.name == SUMMARY else path
    if not present(path / SUMMARY):
        unfinished = (path / PARTIAL).exists()
        # `--out DIR` holds a folder for each system
        inside = sorted(str(one.parent) for one in path.glob(f"*/{SUMMARY}"))
        other = f"name what is in it: {some(inside)}" if inside else "chorus evaluate MODEL --data ..."
        hint = "give the same `chorus evaluate` again: it goes on" if unfinished else other
        raise MisfitError(f"{path}: {'not finished' if unfinished else f'no evaluation (no {SUMMARY})'}", hint)
    summary = read_summary(path / SUMMARY)
    place = path / (PARQUET if present(path / PARQUET) else ROWS)
    found = Evaluation(path, summary, _parquet_rows(place) if place.suffix == ".parquet" else read_rows(place))
    _check(found, place)
    return found


def _check(found: Evaluation, place: Path) -> None:
    """`DataError` where rows and summary are not each other's, or not what was written."""
    summary, told = found.summary, found.summary["digest"]
    check_rows(summary, found.rows, place)
    if told == digest_of(summary, found.rows):
        return
    try:
        check_counts(summary, found.rows, found.scored, found.task, place)
    except UsageError as error:  # a normaliser or a task that there is not
        raise DataError(f"{place.parent / SUMMARY}: {error.message}", AGAIN) from None
    # what is told there could be anything that is not counted again: an interval, a time
    if told:
        raise DataError(f"{place.parent}: changed since it was written: rows or summary", AGAIN)


def _parquet_rows(path: Path) -> list[Answer]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("audio", f"reading {PARQUET}") from None
    try:
        with opened(path, raises=DataError, what="results of an evaluation") as file:
            rows = parquet.read_table(file).to_pylist()
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: damaged ({str(error).splitlines()[0]})", AGAIN) from None
    return rows_of([_without_nulls(row) for row in rows], path)


def _without_nulls(row: JsonMap) -> JsonObject:
    """A row as it was: a column of Parquet has all rows, and a column of mappings all their keys."""
    return {
        key: _without_nulls(value) if isinstance(value, dict) else value
        for key, value in row.items()
        if value is not None
    }


def write_evaluation(
    directory: Path, summary: Summary, rows: Sequence[Answer], scored: Sequence[Scored], *, parquet: bool = False
) -> Evaluation:
    """Write both files, each row with its counts; the summary last, so that a directory that has one is whole."""
    told: list[Answer] = [
        {**row, "unit": one.unit, "errors": one.counts.errors, "length": one.counts.length}
        for row, one in zip(rows, scored, strict=True)
    ]
    # before anything is deleted: without pyarrow the rows that are there must stay
    table = _table(told) if parquet else None
    # as it is read back: a number that was whole is a number of seconds all the same
    plain = document_of(json.loads(json.dumps(summary)), directory / SUMMARY)
    summary = {**summary, "digest": digest_of(plain, rows_of(told, directory / ROWS))}
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        # the summary goes first and comes last: a kill in between leaves no old numbers beside new rows
        for name in (SUMMARY, ROWS, PARQUET):
            (directory / name).unlink(missing_ok=True)
        if table is not None:
            import pyarrow.parquet

            pyarrow.parquet.write_table(table, directory / PARQUET)
        else:
            write_text(directory / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in told))
        write_json(directory / SUMMARY, dict(summary))
        # last of all: what was decoded is worth more than what is counted from it
        (directory / PARTIAL).unlink(missing_ok=True)
    return Evaluation(directory, summary, told, list(scored))


def _table(rows: Sequence[Answer]) -> pyarrow.Table:
    """Rows by column, null where a row does not say."""
    try:
        import pyarrow
    except ImportError:
        raise MissingExtraError("audio", f"writing {PARQUET}") from None
    columns = list(dict.fromkeys(key for row in rows for key in row))
    return pyarrow.table({column: [row.get(column) for row in rows] for column in columns})
