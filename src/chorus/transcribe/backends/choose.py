"""The runtimes that there are, by name; others' come from the entry-point group `chorus.backends`."""

from __future__ import annotations

from collections.abc import Callable

from chorus.registry import Registry
from chorus.transcribe.backends import (
    faster_whisper,
    huggingface,
    onnx_graphs,
    openai_whisper,
    sherpa_onnx,
    whisper_cpp,
)
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import RUNTIMES, System

Opener = Callable[[System, Decoding, str], Backend]


def _load() -> None:
    BACKENDS.add("transformers", huggingface.open_backend)
    BACKENDS.add("faster-whisper", faster_whisper.open_backend)
    BACKENDS.add("whisper.cpp", whisper_cpp.open_backend)
    BACKENDS.add("openai-whisper", openai_whisper.open_backend)
    BACKENDS.add("onnxruntime", onnx_graphs.open_backend)
    BACKENDS.add("sherpa-onnx", sherpa_onnx.open_backend)


BACKENDS: Registry[Opener] = Registry("backend", "chorus.backends", _load)


def chosen_backend(name: str, system: System) -> str:
    """`auto` is the runtime that a model is converted for, else transformers; `UsageError` for no backend."""
    if name == "auto":
        return RUNTIMES.get(system.kind, ("", "transformers"))[1]
    BACKENDS.get(name)  # before anything is written: a misspelt name must leave no unfinished evaluation behind
    return name
