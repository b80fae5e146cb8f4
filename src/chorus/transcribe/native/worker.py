"""The child of remote.py: loads one ggml file, then answers until its input ends.

A request is a line of JSON, with raw float32 behind it where it has a `shape`; so is a reply.
"""

from __future__ import annotations

import json
import math
import sys
from typing import BinaryIO

import numpy as np

from chorus.plain import JsonObject
from chorus.transcribe.backends.child import pipes
from chorus.transcribe.backends.messages import told_error
from chorus.transcribe.native.whisper_cpp import Floats, LoadedGgml


def answer(model: LoadedGgml, request: JsonObject, values: Floats | None) -> tuple[object, Floats | None]:
    """What a request is answered with: something for JSON, or an array."""
    match request["call"]:
        case "about":
            return {"versions": model.versions(), "dims": model.dims, "special_ids": model.special_ids()}, None
        case "tokens":
            return model.tokens(request["texts"]), None
        case "log_mel":
            assert values is not None
            return None, model.log_mel(values)
        case "logits":
            return None, model.logits(request["tokens"], **{request["sound"]: values})
        case other:
            raise AssertionError(f"no such call: {other}")


def serve(path: str, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer every request; an error is an answer too."""
    model: LoadedGgml | None = None
    while line := requests.readline():
        found: Floats | None = None
        reply: JsonObject
        try:
            request = json.loads(line)
            # read before anything can fail, so that the next line is a request again
            values = _array(requests, request["shape"]) if "shape" in request else None
            model = model or LoadedGgml(path)
            value, found = answer(model, request, values)
            reply = {"value": value} if found is None else {"shape": found.shape}
        except Exception as error:  # whatever is wrong is told by the parent
            reply = {"error": told_error(error)}
        replies.write(json.dumps(reply).encode() + b"\n" + (b"" if found is None else found.tobytes()))
        replies.flush()
    if model is not None:
        model.close()


def _array(requests: BinaryIO, shape: list[int]) -> Floats:
    return np.frombuffer(requests.read(4 * math.prod(shape)), np.float32).reshape(shape)


if __name__ == "__main__":
    serve(sys.argv[1], *pipes())
