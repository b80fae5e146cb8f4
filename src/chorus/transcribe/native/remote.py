"""A runtime's own numbers for an export, from a process of its own: a damaged file ends that one alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.errors import CheckpointError
from chorus.plain import JsonMap, JsonObject
from chorus.transcribe.backends.child import Child, EndedError
from chorus.transcribe.backends.messages import error_of
from chorus.transcribe.native.library import library_path
from chorus.transcribe.native.whisper_cpp import Floats

if TYPE_CHECKING:
    from chorus.data.audio import Audio


class Remote:
    """What `module:class` makes of `settings` (for JSON), in a child process; a context manager.

    An error there is raised here. A call that ends the process raises `EndedError`, and so does every call after it.
    """

    def __init__(self, made_by: str, settings: JsonMap, *, what: str) -> None:
        self.what = what
        asked = json.dumps({"made_by": made_by, "settings": dict(settings)})
        # silent: what a library prints before it crashes belongs into the message
        self._child: Child | None = Child("chorus.transcribe.native.worker", asked, what=what, silent=True)

    def ask(self, call: str, **given: Any) -> Any:
        """What a method returns: something of JSON, or an array of float32. Arrays may be given, too."""
        if self._child is None:
            raise EndedError(self.what, "before this call")
        arrays = {k: np.ascontiguousarray(v, np.float32) for k, v in given.items() if isinstance(v, np.ndarray)}
        plain = {key: value for key, value in given.items() if key not in arrays}
        request = {"call": call, "arguments": plain, "shapes": {key: one.shape for key, one in arrays.items()}}
        try:
            line = self._child.ask(json.dumps(request).encode() + b"\n", *(one.tobytes() for one in arrays.values()))
            reply: JsonObject = json.loads(line)
            if "shape" in reply:
                return np.frombuffer(self._child.read(4 * math.prod(reply["shape"])), np.float32).reshape(
                    reply["shape"]
                )
        except EndedError:
            self._child = None
            raise
        if "error" in reply:
            raise error_of(reply["error"])
        return reply["value"]

    def __enter__(self) -> Remote:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        child, self._child = self._child, None
        if child is not None:
            child.close()


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
        made_by = "chorus.transcribe.native.whisper_cpp:LoadedGgml"
        self._remote = Remote(made_by, {"path": str(self.path)}, what="whisper.cpp's process")
        try:
            about: JsonObject = self._remote.ask("about")
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
        found: list[list[int]] = self._remote.ask("tokens", texts=list(texts))
        return found

    def log_mel(self, audio: Audio) -> Floats:
        """[mel bins, frames] of audio at 16 kHz and of the half minute of silence that whisper.cpp puts after it."""
        found: Floats = self._remote.ask("log_mel", audio=audio)
        return found

    def logits(self, tokens: Sequence[int], *, audio: Audio | None = None, mel: Floats | None = None) -> Floats:
        """[tokens, vocabulary]: after each token, given those before it and the first half minute of a sound.

        The sound is `audio` at 16 kHz, through whisper.cpp's own front end, or a log-mel spectrum [mel bins, frames].
        """
        assert (audio is None) != (mel is None), "either audio or its spectrum"
        found: Floats = self._remote.ask("logits", tokens=[int(i) for i in tokens], audio=audio, mel=mel)
        return found

    def __enter__(self) -> NativeWhisper:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        self._remote.close()
