"""The files of an evaluation: one row an utterance, and a summary; rows of a killed one are found again.

results.jsonl (or .parquet)   a row an utterance and condition: texts, edits, what failed
summary.json                  measures, settings, versions, hashes
rows.partial                  what an unfinished evaluation has heard so far
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from chorus.checkpoints.sidecar import write_json
from chorus.checkpoints.writer import explained, write_text
from chorus.errors import DataError, MissingExtraError
from chorus.tasks.scored import Answer, Scored, score_texts

SUMMARY, ROWS, PARQUET, PARTIAL = "summary.json", "results.jsonl", "results.parquet", "rows.partial"
FORMAT = 2


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation: where it is, its summary, its rows."""

    directory: Path
    summary: dict[str, Any]
    rows: list[Answer]

    @property
    def label(self) -> str:
        return str(self.summary["system"]["label"])

    @property
    def normaliser(self) -> str:
        return str(self.summary["normaliser"])

    @cached_property
    def scored(self) -> list[Scored]:
        """The rows, counted under the evaluation's own normaliser."""
        return score_texts(self.rows, self.normaliser, self.summary.get("forced_unit"))


def read_evaluation(directory: str | Path) -> Evaluation:
    """An evaluation's directory (or its summary.json); `DataError` where it is none or not finished."""
    path = Path(directory).expanduser()
    path = path.parent if path.name == SUMMARY else path
    if not (path / SUMMARY).exists():
        unfinished = (path / PARTIAL).exists()
        hint = "give the same `chorus evaluate` again: it goes on" if unfinished else "chorus evaluate MODEL --data ..."
        raise DataError(f"{path}: {'not finished' if unfinished else f'no evaluation (no {SUMMARY})'}", hint)
    try:
        summary = json.loads((path / SUMMARY).read_text(encoding="utf-8"))
        rows = _read_rows(path)
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error})", "evaluate again with --overwrite") from None
    if not isinstance(summary, dict) or summary.get("kind") != "evaluation":
        raise DataError(f"{path / SUMMARY}: not the summary of an evaluation", "name what `chorus evaluate` wrote")
    if summary.get("format") != FORMAT:
        raise DataError(f"{path}: written by another version of Chorus", "evaluate again with --overwrite")
    return Evaluation(path, summary, rows)


def _read_rows(path: Path) -> list[Answer]:
    if (path / PARQUET).exists():
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise MissingExtraError("audio", f"reading {PARQUET}") from None
        rows = parquet.read_table(path / PARQUET).to_pylist()
        return [cast(Answer, {k: v for k, v in row.items() if v is not None}) for row in rows]
    return [json.loads(line) for line in (path / ROWS).read_text(encoding="utf-8").splitlines()]


def write_evaluation(
    directory: Path, summary: Mapping[str, Any], rows: Sequence[Answer], *, parquet: bool = False
) -> Evaluation:
    """Write both files; the summary last, so that a directory that has one is whole."""
    with explained(directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name in (SUMMARY, ROWS, PARQUET):
            (directory / name).unlink(missing_ok=True)
        if parquet:
            import pyarrow as arrow
            import pyarrow.parquet

            columns = list(dict.fromkeys(k for row in rows for k in row))
            table = arrow.table({c: [row.get(c) for row in rows] for c in columns})
            arrow.parquet.write_table(table, directory / PARQUET)
        else:
            write_text(directory / ROWS, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        write_json(directory / SUMMARY, dict(summary))
        (directory / PARTIAL).unlink(missing_ok=True)
    return Evaluation(directory, dict(summary), list(rows))


class Partial:
    """Rows as they are heard, a line each, under the mark of what is being heard."""

    def __init__(self, directory: Path, mark: str) -> None:
        self.path = directory / PARTIAL
        self.rows: dict[tuple[str, str], Answer] = {}
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            kept = self._kept(mark)
            write_text(self.path, "".join(line + "\n" for line in [json.dumps({"mark": mark}), *kept]))
            self._file = self.path.open("a", encoding="utf-8")

    def _kept(self, mark: str) -> list[str]:
        """Whole lines of an earlier run of the same; a line that a kill has torn is left out."""
        if not self.path.exists():
            return []
        first, *lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        try:
            if json.loads(first).get("mark") != mark:
                return []
        except ValueError:
            return []
        kept = []
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            self.rows[row["name"], row["condition"]] = row
            kept.append(line)
        return kept

    def add(self, rows: Iterable[Answer]) -> None:
        """Keep rows, at once."""
        with explained(self.path):
            for row in rows:
                self.rows[row["name"], row["condition"]] = row
                self._file.write(json.dumps(row, ensure_ascii=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()
