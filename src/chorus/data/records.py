"""From a file to records by column, each with its line: CSV, TSV, JSON lines (or one array), Parquet."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chorus.data.delimited import MAX_COLUMNS, read_table
from chorus.errors import DataError, MissingExtraError
from chorus.files import parse_json, read_lines, read_text, regular, shown
from chorus.plain import JsonMap

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
MAX_ARRAY = 200_000_000  # bytes of one JSON array, which cannot be read line by line


@dataclass
class Records:
    """The columns of a file, and its records: by the place in the file, a map or what is wrong there."""

    header: list[str]
    rows: Iterable[tuple[int, JsonMap | str]]
    place: str = "line"  # what the numbers count


def read_records(path: Path) -> Records:
    """The records of a file in the form that its suffix names; `DataError` where it is no such file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"{shown(path)}: not a manifest (known: {', '.join(SUFFIXES)})", "give a CSV, JSONL or Parquet file"
        )
    if suffix == ".parquet":
        return _parquet(path)
    if suffix in (".jsonl", ".json"):
        return _json(path)
    table = read_table(path, "\t" if suffix == ".tsv" else ",")
    # what has no name is an index that pandas wrote; nobody could ask for it
    named = [(i, name) for i, name in enumerate(table.header) if name]
    rows = (
        (line, fields if isinstance(fields, str) else {name: fields[i] for i, name in named})
        for line, fields in table.records
    )
    return Records([name for _, name in named], rows)


def _json(path: Path) -> Records:
    rows: list[tuple[int, JsonMap | str]] = []
    place = "line"
    for number, line in read_lines(path, raises=DataError, what="manifest"):
        if not line.strip():
            continue
        if not rows and line.lstrip().startswith("["):  # one array, as many tools write it, in place of lines
            place = "entry"
            rows = list(enumerate(_array(path), 1))
            break
        rows.append((number, _object(line, path, number)))
    header: dict[str, None] = {}
    for number, value in rows:
        if not isinstance(value, dict):
            raise DataError(f"{shown(path)}: {place} {number:,} is not an object", "write one object a line")
        header.update(dict.fromkeys(value))
        _few(path, len(header))
    return Records(list(header), rows, place)


def _array(path: Path) -> Any:
    text = read_text(path, MAX_ARRAY, raises=DataError, what="JSON array", encoding="utf-8-sig")
    return parse_json(text, path, raises=DataError, unique=True)


def _object(line: str, path: Path, number: int) -> Any:
    try:
        return parse_json(line, "", raises=DataError, unique=True)
    except DataError as error:
        reason = error.message.removeprefix(": ")
        raise DataError(f"{shown(path)}: line {number:,}: {reason}", "write one object a line") from None


def _few(path: Path, count: int) -> None:
    if count > MAX_COLUMNS:
        raise DataError(f"{shown(path)}: {count:,} columns; the limit is {MAX_COLUMNS:,}", "is this a manifest?")


def _parquet(path: Path) -> Records:
    regular(path, raises=DataError, what="manifest")
    try:
        import pyarrow.parquet as parquet
    except ImportError:
        raise MissingExtraError("audio", f"reading {path.name}") from None
    try:
        _few(path, len(parquet.read_schema(path).names))
        table = parquet.read_table(path)
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        reason = str(error).splitlines()[0]
        raise DataError(f"{shown(path)}: cannot be read ({shown(reason)})", "write the Parquet file again") from None
    names = list(table.column_names)
    if len(set(names)) < len(names):
        raise DataError(f"{shown(path)}: a column's name stands twice", "rename one of them, or take it out")
    return Records(names, enumerate(table.to_pylist(), 1), "row")
