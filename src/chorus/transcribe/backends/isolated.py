"""A runtime in a process of its own: native code that crashes takes an utterance with it, not the evaluation.

The parent sends a line of JSON and the samples as raw float32; the child (worker.py) answers with a line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError, DataError, MissingExtraError
from chorus.transcribe.backends.protocol import Hypothesis, Sound

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor


class Isolated:
    """The backend (see protocol.py) that `module:class` makes of `settings`, in a child process."""

    def __init__(self, made_by: str, settings: Mapping[str, Any], *, longest_s: float | None, long_form: bool) -> None:
        self.made_by, self.settings = made_by, dict(settings)
        self.longest_s, self.long_form = longest_s, long_form
        self.facts: dict[str, str] = {}
        self._child: subprocess.Popen[bytes] | None = None
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "chorus.transcribe.backends.worker", self.made_by]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        answer = self._ask(self.settings)
        self.facts = answer["facts"]

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        """As the child's `check` says."""
        self._ask({"check": [{"name": str(r), "language": r.language} for r in rows]})

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        """As the child does; `ChorusError` where its process died, which the next call starts again."""
        if self._child is None:
            self._start()
        arrays = [np.ascontiguousarray(s.audio, dtype=np.float32) for s in sounds]
        asked = {
            "samples": [len(a) for a in arrays],
            "rows": [{"name": str(s.row), "language": s.row.language} for s in sounds],
        }
        answer = self._ask(asked, b"".join(a.tobytes() for a in arrays))
        return [Hypothesis(**one) for one in answer["hypotheses"]]

    def replace(self, tensors: Mapping[str, LazyTensor]) -> None:
        """Refused: the child has converted weights, which nobody puts tensors into."""
        raise CheckpointError(f"{self.made_by.partition(':')[2]} takes no other weights in place", "load it anew")

    def _ask(self, message: Mapping[str, Any], data: bytes = b"") -> dict[str, Any]:
        child = self._child
        assert child is not None
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(message).encode() + b"\n" + data)
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            code = child.wait()
            self._child = None
            how = f"signal {-code}" if code < 0 else f"exit code {code}"
            raise ChorusError(f"the decoder's process ended ({how})")
        answer: dict[str, Any] = json.loads(line)
        if "missing" in answer:
            self.close()
            raise MissingExtraError("evaluate", answer["missing"])
        if "data" in answer:
            raise DataError(answer["data"])
        if "error" in answer:
            raise ChorusError(answer["error"])
        return answer

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                child.wait(timeout=5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
