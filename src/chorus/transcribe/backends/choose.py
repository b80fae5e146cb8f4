"""The runtimes that there are, by name; others' come from the entry-point group `chorus.backends`."""

from __future__ import annotations

from collections.abc import Callable

from chorus.registry import Registry
from chorus.transcribe.backends import faster_whisper, huggingface
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System

Opener = Callable[[System, Decoding, str], Backend]


def _load() -> None:
    BACKENDS.add("transformers", huggingface.open_backend)
    BACKENDS.add("faster-whisper", faster_whisper.open_backend)


BACKENDS: Registry[Opener] = Registry("backend", "chorus.backends", _load)


def chosen_backend(name: str, system: System) -> str:
    """`auto` is faster-whisper for models that are converted for it, else transformers; `UsageError` for no backend."""
    if name == "auto":
        return "faster-whisper" if system.kind == "converted" else "transformers"
    BACKENDS.get(name)  # before anything is written: a misspelt name must leave no unfinished evaluation behind
    return name
