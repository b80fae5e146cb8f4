"""One loaded model that takes the weights of many systems, one after the other, under one decoding or several."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.errors import CheckpointError
from chorus.transcribe.backends.protocol import AsksAnew, Backend
from chorus.transcribe.request import Request
from chorus.transcribe.systems import System
from chorus.transcribe.transcriber import load_backend


class LoadedBackend:
    """The one model that systems are put into, one after the other; loaded anew where that would not be the system."""

    def __init__(self) -> None:
        self.backend: Backend | None = None
        self.request: Request | None = None
        self.tensors: Mapping[str, LazyTensor] | None = None

    def of(self, request: Request) -> Backend:
        """A backend of the request's system as it lies on disk."""
        held = self._held(request) if self.request is not None and self.request.system == request.system else None
        return held if held is not None else self._loaded(request, None)

    def with_weights(self, request: Request, tensors: Mapping[str, LazyTensor]) -> Backend:
        """A backend of the request's system with these weights, which are put in once for all decodings."""
        held = self._held(request)
        if held is not None and self.tensors is not tensors:
            try:
                held.replace(tensors)
            except CheckpointError:
                held = None
            else:
                self.request, self.tensors = request, tensors
        return held if held is not None else self._loaded(request, tensors)

    def close(self) -> None:
        backend, self.backend, self.request, self.tensors = self.backend, None, None, None
        if backend is not None:
            backend.close()

    def _held(self, request: Request) -> Backend | None:
        """The loaded model as the request asks it; None where another must be loaded."""
        held = self.request
        if self.backend is None or held is None or not same_but_weights(held.system, request.system):
            return None
        if (held.backend, held.device) != (request.backend, request.device):
            return None
        if held.decoding != request.decoding:
            if not isinstance(self.backend, AsksAnew) or held.decoding.dtype != request.decoding.dtype:
                return None
            self.backend = self.backend.under(request.decoding)
            self.request = replace(held, decoding=request.decoding)
        return self.backend

    def _loaded(self, request: Request, tensors: Mapping[str, LazyTensor] | None) -> Backend:
        # before loading, which may fail: two models may not fit, and a closed one must not be closed again
        self.close()
        system = request.system if tensors is None else replace(request.system, tensors=tensors)
        self.backend = load_backend(replace(request, system=system))
        self.request, self.tensors = request, tensors
        return self.backend


def same_but_weights(one: System, other: System) -> bool:
    """Whether tokenizer, config and generation settings are the same: a method without a base has another donor."""
    return (one.directory, one.tokenizer, one.config, one.generation) == (
        other.directory, other.tokenizer, other.config, other.generation
    )  # fmt: skip
