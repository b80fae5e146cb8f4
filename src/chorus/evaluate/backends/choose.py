"""The runtimes that there are, by name; others' come from the entry-point group `chorus.backends`."""

from __future__ import annotations

from collections.abc import Callable

from chorus.evaluate.backends import faster_whisper, huggingface
from chorus.evaluate.backends.protocol import Backend
from chorus.evaluate.settings import Decoding
from chorus.evaluate.systems import System
from chorus.registry import Registry

Opener = Callable[[System, Decoding, str], Backend]


def _load() -> None:
    BACKENDS.add("transformers", huggingface.open_backend)
    BACKENDS.add("faster-whisper", faster_whisper.open_backend)


BACKENDS: Registry[Opener] = Registry("backend", "chorus.backends", _load)


def chosen_backend(name: str, system: System) -> str:
    """`auto` is faster-whisper for models that are converted for it, else transformers."""
    if name == "auto":
        return "faster-whisper" if system.kind == "converted" else "transformers"
    return name
