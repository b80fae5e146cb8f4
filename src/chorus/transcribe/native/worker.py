"""The child of remote.py: makes one object of a file, then calls its methods by name until its input ends.

A request is a line of JSON, with the raw float32 of its arrays behind it; a reply has at most one array.
"""

from __future__ import annotations

import json
import math
import sys
from importlib import import_module
from typing import BinaryIO

import numpy as np

from chorus.plain import JsonObject
from chorus.transcribe.backends.child import pipes
from chorus.transcribe.backends.messages import told_error
from chorus.transcribe.native.whisper_cpp import Floats


def serve(asked: JsonObject, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer every request; an error is an answer too."""
    made: object = None
    while line := requests.readline():
        found: object = None
        reply: JsonObject
        try:
            request = json.loads(line)
            # read before anything can fail, so that the next line is a request again
            arrays = {name: _array(requests, shape) for name, shape in request["shapes"].items()}
            if made is None:
                module, _, name = asked["made_by"].partition(":")
                made = getattr(import_module(module), name)(**asked["settings"])
            found = getattr(made, request["call"])(**request["arguments"], **arrays)
            reply = {"shape": found.shape} if isinstance(found, np.ndarray) else {"value": found}
        except Exception as error:  # whatever is wrong is told by the parent
            reply = {"error": told_error(error)}
        data = np.ascontiguousarray(found, np.float32).tobytes() if "shape" in reply else b""
        replies.write(json.dumps(reply).encode() + b"\n" + data)
        replies.flush()
    if hasattr(made, "close"):
        made.close()


def _array(requests: BinaryIO, shape: list[int]) -> Floats:
    return np.frombuffer(requests.read(4 * math.prod(shape)), np.float32).reshape(shape)


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]), *pipes())
