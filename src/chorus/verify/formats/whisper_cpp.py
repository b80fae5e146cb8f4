"""whisper.cpp as what a ggml file is verified in."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from chorus.transcribe.native.remote import NativeWhisper
from chorus.verify.front_end import in_runtime
from chorus.verify.protocol import Client


def client(path: Path, tokens: Sequence[bytes]) -> Client:
    """The runtime for one file, whose text tokens are these."""
    opens = partial(NativeWhisper, path)
    return Client(
        "whisper.cpp", "chorus-merge[verify]", lambda: find_spec("_pywhispercpp") is not None, opens,
        partial(in_runtime, opens, "whisper.cpp", table=tokens),
    )  # fmt: skip
