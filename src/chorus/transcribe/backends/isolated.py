"""A runtime in a process of its own: native code that crashes takes an utterance with it, not the evaluation.

The parent sends a line of JSON and the samples as raw float32; the child (worker.py) answers with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError
from chorus.transcribe.backends.messages import Call, Reply, error_of, hypotheses_of, told_row
from chorus.transcribe.backends.protocol import Hypothesis, Sound

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor


class Isolated:
    """The backend (see protocol.py) that `module:class` makes of `settings` (for JSON), in a child process."""

    def __init__(self, made_by: str, settings: Mapping[str, object]) -> None:
        self.made_by, self.settings = made_by, dict(settings)
        self._child: subprocess.Popen[bytes] | None = None
        made = self._start()
        self.longest_s, self.long_form, self.facts = made["longest_s"], made["long_form"], made["facts"]

    def _start(self) -> Reply:
        command = [sys.executable, "-m", "chorus.transcribe.backends.worker", self.made_by]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            return self._ask({"call": "make", "settings": self.settings})
        except BaseException:
            # a child without a backend can answer nothing: the next call must start another
            self.close()
            raise

    def sort_key(self, seconds: float) -> tuple[float, float]:
        kind, rank = self._ask({"call": "sort_key", "seconds": seconds})["key"]
        return kind, rank

    def check(self, rows: Sequence[Row]) -> None:
        """As the child does."""
        self._ask({"call": "check", "rows": [told_row(row) for row in rows]})

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """As the child does; `ChorusError` where its process died, which the next call starts again."""
        arrays = [np.ascontiguousarray(s.audio, dtype=np.float32) for s in sounds]
        request: Call = {
            "call": "transcribe", "rows": [told_row(s.row) for s in sounds], "samples": [len(a) for a in arrays]
        }  # fmt: skip
        return hypotheses_of(self._ask(request, b"".join(a.tobytes() for a in arrays)))

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Refused: tensors do not pass between the processes."""
        raise CheckpointError(f"{self.made_by.partition(':')[2]} takes no other weights in place", "load it anew")

    def _ask(self, request: Call, data: bytes = b"") -> Reply:
        if self._child is None:
            self._start()
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n" + data)
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = child.wait()
            self.close()
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ChorusError(f"the decoder's process ended ({how})")
        reply: Reply = json.loads(line)
        if "error" in reply:
            raise error_of(reply["error"])
        return reply

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(BrokenPipeError):  # what a dead child has not read
                        pipe.close()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
