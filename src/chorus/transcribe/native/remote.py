"""whisper.cpp's own numbers for a ggml file, from a process of its own: a damaged file ends that one alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.errors import CheckpointError
from chorus.plain import JsonObject
from chorus.transcribe.backends.child import Child, EndedError
from chorus.transcribe.backends.messages import error_of
from chorus.transcribe.native.library import library_path
from chorus.transcribe.native.whisper_cpp import Floats

if TYPE_CHECKING:
    from chorus.data.audio import Audio


class NativeWhisper:
    """A ggml file loaded by whisper.cpp in a child process; a context manager.

    Raises `CheckpointError` where whisper.cpp does not load it, a crash included; `MissingExtraError` without the
    package. A call that ends the process raises `EndedError`, and so does every call after it.

    dims: what the file's header says, by openai-whisper's names, and its `ftype`.
    special_ids: token -> id as whisper.cpp derives it from the size of the vocabulary.
    """

    def __init__(self, path: str | Path) -> None:
        library_path()  # without the package there is no child to start
        self.path = Path(path)
        self._child: Child | None = Child(
            "chorus.transcribe.native.worker", str(self.path), what="whisper.cpp's process", silent=True
        )
        try:
            about: JsonObject = self._asked({"call": "about"})
        except EndedError as error:
            raise CheckpointError(f"{self.path}: whisper.cpp cannot load it: {error.message}") from None
        except BaseException:
            self.close()
            raise
        self.versions: Mapping[str, str] = about["versions"]
        self.dims: Mapping[str, int] = about["dims"]
        self.special_ids: Mapping[str, int] = about["special_ids"]

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Each text as whisper.cpp's tokenizer cuts it; special tokens in it are text."""
        found: list[list[int]] = self._asked({"call": "tokens", "texts": list(texts)})
        return found

    def log_mel(self, audio: Audio) -> Floats:
        """[mel bins, frames] of audio at 16 kHz and of the half minute of silence that whisper.cpp puts after it."""
        return self._array({"call": "log_mel"}, audio)

    def logits(self, tokens: Sequence[int], *, audio: Audio | None = None, mel: Floats | None = None) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and the first half minute of a sound.

        The sound is `audio` at 16 kHz, through whisper.cpp's own front end, or a log-mel spectrum [mel bins, frames].
        """
        assert (audio is None) != (mel is None), "either audio or its spectrum"
        sound, values = ("audio", audio) if mel is None else ("mel", mel)
        assert values is not None
        return self._array({"call": "logits", "tokens": [int(i) for i in tokens], "sound": sound}, values)

    def _array(self, request: JsonObject, values: Floats | Audio) -> Floats:
        shape: list[int] = self._asked(request, values)
        assert self._child is not None
        return np.frombuffer(self._child.read(4 * math.prod(shape)), np.float32).reshape(shape)

    def _asked(self, request: JsonObject, values: Floats | Audio | None = None) -> Any:
        """The value of a reply, or the shape of the array behind it."""
        if self._child is None:
            raise EndedError("whisper.cpp's process", "before this call")
        data = b""
        if values is not None:
            sent = np.ascontiguousarray(values, dtype=np.float32)
            request, data = {**request, "shape": sent.shape}, sent.tobytes()
        try:
            reply: JsonObject = json.loads(self._child.ask(json.dumps(request).encode() + b"\n", data))
        except EndedError:
            self._child = None
            raise
        if "error" in reply:
            raise error_of(reply["error"])
        return reply["value"] if "value" in reply else reply["shape"]

    def __enter__(self) -> NativeWhisper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
