"""The child of isolated.py: makes a backend, then answers one request after the other until its input ends."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from typing import BinaryIO

import numpy as np

from chorus.transcribe.backends.child import pipes
from chorus.transcribe.backends.messages import Call, Reply, row_of, told_error, told_hypotheses
from chorus.transcribe.backends.protocol import Decodes, Sound

SAMPLE_BYTES = 4


class Worker:
    """Answers requests for a backend that the first of them makes."""

    def __init__(self, opener: Callable[..., Decodes], requests: BinaryIO, replies: BinaryIO) -> None:
        self.opener, self.requests, self.replies = opener, requests, replies
        self.backend: Decodes | None = None

    def serve(self) -> bool:
        """One request; False at the end of the input."""
        line = self.requests.readline()
        if not line:
            if self.backend is not None:
                self.backend.close()
            return False
        try:
            reply = self.reply(json.loads(line))
        except Exception as error:  # whatever a runtime raises is told, and counted, by the parent
            reply = {"error": told_error(error)}
        self.replies.write(json.dumps(reply).encode() + b"\n")
        self.replies.flush()
        return True

    def reply(self, request: Call) -> Reply:
        if request["call"] == "make":
            self.backend = made = self.opener(**request["settings"])
            return {"facts": made.facts, "longest_s": made.longest_s, "long_form": made.long_form}
        # samples are read before anything can fail, so that the next line is a request again
        audio = [self._samples(n) for n in request["samples"]] if request["call"] == "transcribe" else []
        backend = self.backend
        assert backend is not None, "the first request makes the backend"
        if request["call"] == "sort_key":
            return {"key": backend.sort_key(request["seconds"])}
        rows = [row_of(row) for row in request["rows"]]
        if request["call"] == "check":
            backend.check(rows)
            return {}
        sounds = [Sound(samples, row) for samples, row in zip(audio, rows, strict=True)]
        return told_hypotheses(backend.transcribe(sounds))

    def _samples(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.frombuffer(self.requests.read(count * SAMPLE_BYTES), np.float32)


def main(made_by: str) -> None:
    """Serve `module:class` on stdin and stdout; what libraries print goes to stderr."""
    requests, replies = pipes()
    module, _, name = made_by.partition(":")

    def opener(**settings: object) -> Decodes:
        made: Decodes = getattr(import_module(module), name)(**settings)
        return made

    worker = Worker(opener, requests, replies)
    while worker.serve():
        pass


if __name__ == "__main__":
    main(sys.argv[1])
