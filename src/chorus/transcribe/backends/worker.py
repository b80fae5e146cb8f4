"""The child of isolated.py: makes a backend, then answers one request after the other until its input ends."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO

import numpy as np

from chorus.data.manifest import Row
from chorus.errors import DataError, MissingExtraError
from chorus.transcribe.backends.protocol import Sound

SAMPLE_BYTES = 4


def main(made_by: str) -> None:
    """Serve `module:class` on stdin and stdout; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    module, _, name = made_by.partition(":")
    backend: Any = None

    def make(settings: dict[str, Any]) -> dict[str, Any]:
        nonlocal backend
        backend = getattr(import_module(module), name)(**settings)
        return {"facts": backend.facts}

    _serve(requests, answers, make)
    while _serve(requests, answers, lambda asked: _transcribe(backend, asked, requests)):
        pass


def _serve(requests: BinaryIO, answers: BinaryIO, work: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """One request; False at the end of the input."""
    line = requests.readline()
    if not line:
        return False
    try:
        answer = work(json.loads(line))
    except MissingExtraError as error:
        answer = {"missing": error.message.removesuffix(" needs packages that are not installed")}
    except DataError as error:
        answer = {"data": error.message}
    except Exception as error:  # whatever a runtime raises is told, and counted, by the parent
        answer = {"error": f"{type(error).__name__}: {error}"}
    answers.write(json.dumps(answer).encode() + b"\n")
    answers.flush()
    return True


def _transcribe(backend: Any, asked: dict[str, Any], requests: BinaryIO) -> dict[str, Any]:
    if "check" in asked:
        backend.check([Row(path=row["name"], language=row["language"]) for row in asked["check"]])
        return {}
    arrays = [np.frombuffer(requests.read(n * SAMPLE_BYTES), np.float32) for n in asked["samples"]]
    rows = [Row(path=row["name"], language=row["language"]) for row in asked["rows"]]
    hypotheses = backend.transcribe([Sound(audio, row) for audio, row in zip(arrays, rows, strict=True)])
    return {"hypotheses": [vars(one) for one in hypotheses]}


if __name__ == "__main__":
    main(sys.argv[1])
