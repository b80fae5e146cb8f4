"""Which checkpoints of a training are whole: those whose last file says of which training and what files they are."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from chorus.errors import ChorusError, OutputError
from chorus.files import read_json
from chorus.identity import file_hash
from chorus.plain import JsonObject

WHOLE = "whole.json"  # written last into a checkpoint


def mark_whole(checkpoint: Path, step: int, fingerprint: str) -> None:
    """Say that a checkpoint is written to its end: its training, and the hash of every file in it."""
    files = {str(p.relative_to(checkpoint)): file_hash(p) for p in sorted(checkpoint.rglob("*")) if p.is_file()}
    facts = {"step": step, "fingerprint": fingerprint, "files": files}
    (checkpoint / WHOLE).write_text(json.dumps(facts), encoding="utf-8")


def facts_of(checkpoint: Path) -> JsonObject | None:
    """What a checkpoint says of itself; None where it was cut off, or is not as it was written."""
    try:
        facts = read_json(checkpoint / WHOLE, raises=OutputError)
        files = facts["files"]
        same = isinstance(facts["fingerprint"], str) and all(file_hash(checkpoint / n) == h for n, h in files.items())
    except (ChorusError, OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return facts if same else None


def last_whole(directory: Path) -> Path | None:
    """The newest checkpoint that is as it was written."""
    return next((path for path in reversed(_checkpoints(directory)) if facts_of(path) is not None), None)


def _checkpoints(directory: Path) -> list[Path]:
    found = [p for p in directory.glob("checkpoint-*") if p.name.partition("-")[2].isdecimal() and p.is_dir()]
    return sorted(found, key=lambda path: int(path.name.partition("-")[2]))


def drop_broken(directory: Path) -> None:
    """Take away the checkpoints behind the last whole one, cut off or damaged."""
    for path in reversed(_checkpoints(directory)):
        if facts_of(path) is not None:
            break
        shutil.rmtree(path, ignore_errors=True)
