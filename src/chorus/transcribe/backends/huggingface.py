"""The transformers backend: a system's kind says what decodes it."""

from __future__ import annotations

from collections.abc import Callable

from chorus.errors import UsageError
from chorus.models.kind import Kind, named_class
from chorus.models.loading import Origin, kind_at, load_parts
from chorus.models.parts import Parts
from chorus.runtime import quiet_libraries
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System, refuse_converted

OpenDecoder = Callable[[Kind, Parts, Decoding], Backend]


def origin_of(system: System) -> Origin:
    """Where a system is loaded from."""
    return Origin(
        system.directory, label=system.label, tensors=system.tensors, tokenizer=system.tokenizer, config=system.config,
        generation=system.generation,
    )  # fmt: skip


def open_backend(system: System, decoding: Decoding, device: str) -> Backend:
    """Load a system. `CheckpointError` where it cannot be, or where it takes no audio."""
    refuse_converted(system)
    if decoding.dtype == "int8":
        raise UsageError("int8 is faster-whisper's", "use --backend faster-whisper, or float32, float16, bfloat16")
    origin = origin_of(system)
    kind = kind_at(origin, "decoded")
    with quiet_libraries():
        parts = load_parts(kind, origin, decoding.dtype)
        parts.model = parts.model.eval().requires_grad_(False).to(device)
        opened: OpenDecoder = named_class(kind.decoder)
        return opened(kind, parts, decoding)
