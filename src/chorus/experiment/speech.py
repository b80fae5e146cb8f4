"""Synthetic speech of an experiment: spoken once for a recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from chorus.checkpoints.writer import write_text
from chorus.identity import file_hash


def speak(recipe: str, place: Path, note: Callable[[str], None]) -> None:
    """Speak a recipe of `chorus data synth` into a folder, unless it is there."""
    from chorus.data.synth import synthesise

    fingerprint, done = file_hash(Path(recipe)), place / "done"
    if done.exists() and done.read_text(encoding="utf-8") == fingerprint:
        return
    note(f"speaking {recipe}")
    synthesise(recipe, place)
    # last: a folder without it was cut off and is spoken again
    write_text(done, fingerprint)
