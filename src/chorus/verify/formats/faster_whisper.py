"""faster-whisper as what a CTranslate2 directory is verified in: logits by CTranslate2's own Whisper."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from chorus.verify.protocol import Client
from chorus.verify.runtime import RuntimeChild

LOADED = "chorus.verify.formats.ctranslate2_runtime:LoadedCTranslate2"


def client(path: Path, computed: str) -> Client:
    """The runtime for one directory; `computed` is the type that it is loaded in."""
    settings = {"path": str(path), "computed": computed}
    return Client(
        "faster-whisper", "chorus-merge[evaluate]", lambda: find_spec("faster_whisper") is not None,
        lambda: RuntimeChild(LOADED, settings, what="CTranslate2's process"), decoding={"dtype": computed},
        hears_otherwise="faster-whisper fills the window behind a sound with zeros, transformers with silence",
    )  # fmt: skip
