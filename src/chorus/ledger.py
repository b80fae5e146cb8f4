"""Lines appended to a file as work gets done, each with a digest, so that a later run may believe them.

A kill tears the last line; a disk, an editor or another program may change any. A line counts only with the digest of
what it says and of what the file is of, and in the form that whoever reads it needs (a digest may be remade): what does
not count is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from chorus.errors import OutputError
from chorus.files import opened, present
from chorus.identity import bytes_hash
from chorus.plain import JsonMap, JsonObject

LONGEST = 10_000_000  # bytes of a line
NEW = ".new"  # what a ledger that is begun is called until it is whole


class Ledger:
    """A file's entries, those of an earlier run first. `of` says what they are of; `other` what they are of instead.

    `form` is the type of an entry, as pydantic takes it.
    """

    def __init__(self, path: Path, of: str, form: Any, *, resume: bool = True) -> None:
        """With `resume` the file's entries are read; of another work they are left, and the file is begun anew."""
        self.path, self.of = path, of
        self._form: TypeAdapter[Any] = TypeAdapter(form)
        self.other: str | None = None
        self.entries: list[JsonObject] = []
        self._file: int | None = None
        if resume and present(path):
            self._read()

    def _read(self) -> None:
        first = True
        with opened(self.path, raises=OutputError, what="journal") as file:
            while raw := file.readline(LONGEST):
                if not raw.endswith(b"\n"):  # torn, or longer than any that is written here: nothing follows
                    return
                entry = self._believed(raw)
                if first and entry is not None and entry.get("of", self.of) != self.of:
                    self.other = str(entry["of"])
                    return
                if entry is not None and "of" not in entry and self._fits(entry):
                    self.entries.append(entry)
                first = False

    def _believed(self, raw: bytes) -> JsonObject | None:
        """What a line says, where its digest is that of what it says."""
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError):
            return None
        if not isinstance(line, dict):
            return None
        if set(line) == {"of"}:  # without a digest: where it is damaged, the entries' digests still hold
            return line
        entry = line.get("entry")
        whole = isinstance(entry, dict) and set(line) == {"entry", "xxh3"} and line["xxh3"] == self._digest(entry)
        return entry if whole else None

    def _fits(self, entry: JsonObject) -> bool:
        try:
            self._form.validate_python(entry, strict=True)
        except ValidationError:
            return False
        return True

    def _digest(self, entry: JsonMap) -> str:
        return bytes_hash(f"{self.of}\n{_text(entry)}".encode())

    def append(self, entry: Mapping[str, object]) -> None:
        """Note an entry, in one write: after a kill its line is whole, or the last and has no end."""
        self.start()
        assert self._file is not None
        os.write(self._file, self._line(entry))  # not synced: whoever resumes holds it against the disk

    def _line(self, entry: JsonMap) -> bytes:
        return _text({"entry": entry, "xxh3": self._digest(entry)}).encode() + b"\n"

    def _begin(self) -> None:
        """Write what is believed anew, and go on from there: the file is ours from its first byte."""
        draft = self.path.with_name(self.path.name + NEW)
        draft.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_EXCL
        self._file = os.open(draft, flags, 0o644)
        head = _text({"of": self.of}).encode() + b"\n"
        os.write(self._file, b"".join([head, *map(self._line, self.entries)]))
        os.replace(draft, self.path)

    def start(self) -> None:
        """Have the file there before the first entry."""
        if self._file is None:
            self._begin()

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _text(value: JsonMap) -> str:
    return json.dumps(value, separators=(",", ":"))
