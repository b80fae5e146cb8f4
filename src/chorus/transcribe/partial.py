"""Rows of an unfinished transcription, on disk as they are decoded, and found again after a kill."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import cast

from chorus.checkpoints.writer import explained
from chorus.ledger import Ledger
from chorus.tasks.scored import Answer
from chorus.transcribe.request import Key

PARTIAL = "rows.partial"


class Partial:
    """Rows as they are decoded, a line each, under the fingerprint of what was asked; of another request, none."""

    def __init__(self, directory: Path, fingerprint: str) -> None:
        self.path = directory / PARTIAL
        self.rows: dict[Key, Answer] = {}
        with explained(directory):
            directory.mkdir(parents=True, exist_ok=True)
            self._ledger = Ledger(self.path, fingerprint, Answer)
            self._ledger.start()
        for entry in self._ledger.entries:
            self.rows[entry["name"], entry["condition"]] = cast("Answer", entry)

    def add(self, rows: Iterable[Answer]) -> None:
        """Keep rows, at once."""
        with explained(self.path):
            for row in rows:
                self.rows[row["name"], row["condition"]] = row
                self._ledger.append(row)

    def close(self) -> None:
        self._ledger.close()
