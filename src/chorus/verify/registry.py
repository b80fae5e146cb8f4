"""The formats that can be verified; others' come from the entry-point group `chorus.verifiers`."""

from __future__ import annotations

from pathlib import Path

from chorus.errors import UsageError
from chorus.files import shown
from chorus.registry import Registry
from chorus.verify.protocol import Verifier


def _load() -> None:
    from chorus.verify.formats.ctranslate2 import CTranslate2Verifier
    from chorus.verify.formats.ggml import GgmlVerifier
    from chorus.verify.formats.gguf import GgufVerifier
    from chorus.verify.formats.gguf_adapter import GgufAdapterVerifier
    from chorus.verify.formats.hf import HfVerifier
    from chorus.verify.formats.onnx import OnnxVerifier
    from chorus.verify.formats.openai import OpenaiVerifier

    VERIFIERS.add("ctranslate2", CTranslate2Verifier())
    VERIFIERS.add("ggml", GgmlVerifier())
    VERIFIERS.add("gguf", GgufVerifier())
    VERIFIERS.add("gguf-adapter", GgufAdapterVerifier())
    VERIFIERS.add("hf", HfVerifier())
    VERIFIERS.add("onnx", OnnxVerifier())
    VERIFIERS.add("openai", OpenaiVerifier())


NAMED = {".pt": "openai", ".gguf": "gguf"}  # names that one format alone has
VERIFIERS: Registry[Verifier] = Registry("format of verification", "chorus.verifiers", _load)


def format_of(path: Path) -> str:
    """The format that an export is in; `UsageError` where it is none that is known.

    A file that begins as none of them is held to be, damaged, what its name says.
    """
    for name in VERIFIERS.names():
        if VERIFIERS.get(name).takes(path):
            return name
    if path.is_file() and path.suffix in NAMED:
        return NAMED[path.suffix]
    raise UsageError(
        f"{shown(path)}: in no format that can be verified ({', '.join(VERIFIERS.names())})",
        "give what `chorus export` wrote; --format says what a damaged file should be",
    )
