"""Rows of an unfinished transcription, on disk as they are decoded, and found again after a kill."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from chorus.checkpoints.writer import explained, write_text
from chorus.tasks.scored import Answer
from chorus.transcribe.request import Key

PARTIAL = "rows.partial"


class Partial:
    """Rows as they are decoded, a line each, under the fingerprint of what was asked."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.path = directory / PARTIAL
        self.rows: dict[Key, Answer] = {}
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            kept = self._kept(fingerprint)
            first = json.dumps({"fingerprint": fingerprint})
            write_text(self.path, "".join(line + "\n" for line in [first, *kept]))
            self._file = self.path.open("a", encoding="utf-8")

    def _kept(self, fingerprint: str) -> list[str]:
        """Whole lines of an earlier run of the same; a line that a kill has torn is left out."""
        if not self.path.exists():
            return []
        first, *lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
        try:
            if json.loads(first).get("fingerprint") != fingerprint:
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
