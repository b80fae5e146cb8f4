"""What an export and its source are let hear: files, and rows of manifests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from chorus.data.manifest import Row
from chorus.files import expanded
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.test_sets import load_test_set, of_rows
from chorus.verify.hearing import windowed
from chorus.verify.options import VerifyOptions


def recordings(
    audio: Sequence[str | Path], data: str | Path | Sequence[str | Path], wanted: VerifyOptions
) -> list[Sound]:
    """Sounds of at most half a minute; `DataError` where one cannot be read."""
    # a text is a sequence of texts too: one path must not become its letters
    manifests = [data] if isinstance(data, str | Path) else list(data)
    found = []
    if manifests:
        test = load_test_set(manifests, split=wanted.split, language=wanted.language, limit=wanted.limit)
        found += list(test.utterances.values())
    if audio:
        rows = [_row(expanded(path), wanted.language) for path in audio]
        found += list(of_rows(rows).utterances.values())
    return [windowed(Sound(one.audio(), one.row, one.key())) for one in found]


def _row(path: Path, language: str) -> Row:
    return replace(Row(path.name, language=language), root=path.parent)
