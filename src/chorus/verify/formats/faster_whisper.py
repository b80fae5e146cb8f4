"""faster-whisper as what a CTranslate2 directory is verified in: logits by CTranslate2's own Whisper, in a child."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from chorus.errors import CheckpointError
from chorus.plain import JsonObject
from chorus.transcribe.backends.child import Child
from chorus.transcribe.backends.messages import error_of
from chorus.verify.protocol import Client

if TYPE_CHECKING:
    from chorus.verify.protocol import Floats

WHAT = "CTranslate2's process"


def client(path: Path, computed: str) -> Client:
    """The runtime for one directory; `computed` is the type that it is loaded in."""
    return Client(
        "faster-whisper", "evaluate", lambda: find_spec("faster_whisper") is not None,
        lambda: ForcedCTranslate2(path, computed), decoding={"dtype": computed},
        hears_otherwise="faster-whisper fills the window behind a sound with zeros, transformers with silence",
    )  # fmt: skip


class ForcedCTranslate2:
    """A directory loaded by CTranslate2 in a process of its own (see protocol.Native)."""

    def __init__(self, path: Path, computed: str) -> None:
        asked = json.dumps({"path": str(path), "computed": computed})
        # silent: what a library prints before it crashes belongs into the message
        self._child = Child("chorus.verify.formats.ctranslate2_worker", asked, what=WHAT, silent=True)
        self.versions: Mapping[str, str] = self._reply(self._child.ask(b"about\n"))["versions"]

    def _reply(self, line: bytes) -> JsonObject:
        found: JsonObject = json.loads(line)
        if "error" in found:
            self._child.close()
            raise error_of(found["error"])
        return found

    def logits(self, tokens: Sequence[int], *, mel: Floats) -> Floats:
        """As the protocol says."""
        request = json.dumps({"tokens": [int(i) for i in tokens], "shape": mel.shape}).encode()
        data = np.ascontiguousarray(mel, dtype=np.float32).tobytes()
        rows, size = self._reply(self._child.ask(request + b"\n", data))["shape"]
        if not rows or not size:
            raise CheckpointError("CTranslate2 gave no logits", "update CTranslate2")
        return np.frombuffer(self._child.read(4 * rows * size), np.float32).reshape(rows, size)

    def __enter__(self) -> ForcedCTranslate2:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._child.close()
