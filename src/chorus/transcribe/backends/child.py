"""A process that answers one request after the other over pipes, and what is said when native code ends it.

Replies have a pipe of their own: whatever a library prints in the child goes to its stderr.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from contextlib import suppress
from typing import BinaryIO

from chorus.errors import ChorusError

LAST_BYTES = 4096  # of what a silent child has printed, in which its last words are looked for
CRASHED = ("assert", "error", "failed", "exception", "terminate")


class EndedError(ChorusError):
    """A child ended before it answered: `how` it did, and its last words where they were kept."""

    def __init__(self, what: str, how: str, words: str = "") -> None:
        super().__init__(f"{what} ended ({how}{f': {words}' if words else ''})")
        self.how, self.words = how, words


class Child:
    """`python -m module argument`. `silent`: what it prints is kept for the message of its end, not shown."""

    def __init__(self, module: str, argument: str, *, what: str, silent: bool = False) -> None:
        self.what = what
        self._printed = tempfile.TemporaryFile() if silent else None  # noqa: SIM115 - closed with the child
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._printed,
        )  # fmt: skip

    def ask(self, *parts: bytes) -> bytes:
        """Send a request; the line that answers it. `EndedError` where the process has ended instead."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            for part in parts:
                self._process.stdin.write(part)
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = b""
        return line or self._ended()

    def read(self, count: int) -> bytes:
        """So many bytes that follow a line."""
        assert self._process.stdout is not None
        data = self._process.stdout.read(count)
        return data if len(data) == count else self._ended()

    def _ended(self) -> bytes:
        code = self._process.wait()
        words = self._last_words()
        self.close()
        raise EndedError(self.what, f"signal {-code}" if code < 0 else f"exit code {code}", words)

    def _last_words(self) -> str:
        """The last line that tells of a failure, else the last of all."""
        if self._printed is None:
            return ""
        size = self._printed.seek(0, os.SEEK_END)
        self._printed.seek(max(0, size - LAST_BYTES))
        lines = [line.strip() for line in self._printed.read().decode(errors="replace").splitlines() if line.strip()]
        told = [line for line in lines if any(word in line.lower() for word in CRASHED)]
        return (told or lines or [""])[-1]

    def close(self) -> None:
        """End it, by the end of its input, else by force."""
        process = self._process
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):  # what a dead child has not read
                    pipe.close()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if self._printed is not None:
            self._printed.close()


def pipes() -> tuple[BinaryIO, BinaryIO]:
    """In the child: where requests come from and replies go to; from here on stdout is stderr."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return sys.stdin.buffer, replies
