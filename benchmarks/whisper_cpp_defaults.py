"""Claim: by its own defaults whisper.cpp writes single words otherwise than transformers; as it is pinned here, alike.

    python benchmarks/whisper_cpp_defaults.py MODEL MANIFEST [--rows 100]

MODEL is a Whisper, written as f16; MANIFEST names recordings. Greedy, without timestamps, letter for letter.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

import chorus
from chorus.data.manifest import read_manifest
from chorus.data.utterance import Utterance
from chorus.transcribe.backends import whisper_cpp
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system


class Unpinned(whisper_cpp.WhisperCpp):
    """Signs that stand for sounds are not suppressed, as whisper.cpp has it by default."""

    def _settings(self, language: str, *, timestamps: bool) -> Any:
        made = super()._settings(language, timestamps=timestamps)
        made.suppress_nst = False
        return made


def heard(kind: type[whisper_cpp.WhisperCpp], file: Path, sounds: Sequence[Sound], *, flash: bool) -> list[str]:
    """What whisper.cpp writes, in this process."""
    whisper_cpp.FLASH_ATTENTION = flash
    backend = kind(str(file), file.name, "f16", "cpu", Decoding(language="en").model_dump())
    try:
        return [one.text for one in backend.transcribe(sounds)]
    finally:
        backend.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--rows", type=int, default=100)
    args = parser.parse_args()
    utterances = [Utterance(row) for row in read_manifest(args.manifest).rows[: args.rows]]
    sounds = [Sound(one.audio(), one.row, one.key()) for one in utterances]
    backend = BACKENDS.get("transformers")(open_system(args.model), Decoding(language="en"), "cpu")
    wanted = [one.text for one in backend.transcribe(sounds)]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.bin"
        chorus.export(args.model, file, "ggml", types="f16")
        settings = {
            "its defaults (flash attention, signs for sounds)": (Unpinned, True),
            "flash attention alone": (whisper_cpp.WhisperCpp, True),
            "as pinned here": (whisper_cpp.WhisperCpp, False),
        }
        rows = []
        for name, (kind, flash) in settings.items():
            found = heard(kind, file, sounds, flash=flash)
            other = sum(one != two for one, two in zip(found, wanted, strict=True))
            rows.append({"whisper.cpp": name, "recordings": len(sounds), "other transcripts": other})
            print(rows[-1], flush=True)
    common.report("whisper_cpp_defaults", rows)


if __name__ == "__main__":
    main()
