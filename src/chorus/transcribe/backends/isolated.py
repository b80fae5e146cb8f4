"""A runtime in a process of its own: native code that crashes takes an utterance with it, not the evaluation.

The parent sends a line of JSON and the samples as raw float32; the child (worker.py) answers with a line of JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from chorus.data.manifest import Row
from chorus.errors import CheckpointError
from chorus.transcribe.backends.child import Child, EndedError
from chorus.transcribe.backends.messages import Call, Reply, error_of, hypotheses_of, told_row
from chorus.transcribe.backends.protocol import Hypothesis, Sound

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor


class Isolated:
    """The backend (see protocol.py) that `module:class` makes of `settings` (for JSON), in a child process.

    `silent`: what the child prints is shown only where it ends before its time.
    """

    def __init__(self, made_by: str, settings: Mapping[str, object], *, silent: bool = False) -> None:
        self.made_by, self.settings, self.silent = made_by, dict(settings), silent
        self._child: Child | None = None
        made = self._start()
        self.longest_s, self.long_form, self.facts = made["longest_s"], made["long_form"], made["facts"]

    def _start(self) -> Reply:
        worker = "chorus.transcribe.backends.worker"
        self._child = Child(worker, self.made_by, what="the decoder's process", silent=self.silent)
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
        """As the child does; `EndedError` where its process died, which the next call starts again."""
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
        assert self._child is not None
        try:
            reply: Reply = json.loads(self._child.ask(json.dumps(request).encode() + b"\n", data))
        except EndedError:
            self._child = None
            raise
        if "error" in reply:
            raise error_of(reply["error"])
        return reply

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
