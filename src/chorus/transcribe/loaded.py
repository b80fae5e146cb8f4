"""One loaded model that takes the weights of many systems, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.errors import CheckpointError
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System
from chorus.transcribe.transcriber import load_backend


class LoadedBackend:
    """The one model that merges are put into, one after the other; loaded anew where that would not be the merge."""

    def __init__(self) -> None:
        self.backend: Backend | None = None
        self.system: System | None = None

    def with_weights(self, request: Request, tensors: Mapping[str, LazyTensor]) -> Backend:
        """A backend of the request's system with these weights."""
        if self.backend is not None and self.system is not None and same_but_weights(self.system, request.system):
            try:
                self.backend.replace(tensors)
                return self.backend
            except CheckpointError:
                pass
        # before loading, which may fail: two models may not fit, and a closed one must not be closed again
        self.close()
        self.backend = load_backend(replace(request, system=replace(request.system, tensors=tensors)))
        self.system = request.system
        return self.backend

    def close(self) -> None:
        backend, self.backend = self.backend, None
        if backend is not None:
            backend.close()


def same_but_weights(one: System, other: System) -> bool:
    """Whether tokenizer, config and generation settings are the same: a method without a base has another donor."""
    return (one.directory, one.tokenizer, one.config, one.generation) == (
        other.directory, other.tokenizer, other.config, other.generation
    )  # fmt: skip
