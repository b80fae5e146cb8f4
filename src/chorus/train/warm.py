"""A process that has imported what trainings need and forks once for each: a small one takes less than its imports.

For trainings on the CPU of Linux; the libraries of macOS do not survive a fork, nor does a CUDA that has started.
Every command is one connection to a Unix socket: the request, a line of JSON with the command's stdin, stdout and
stderr, and two answers of four bytes, the process id when it has begun and the exit code when it has ended.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import IO

from chorus.errors import ChorusError

MODULES = ("chorus.train.run", "chorus.train.trainer", "matplotlib.figure")
ANSWER = struct.Struct("i")
PIECE_BYTES = 65536
WAITING = 128  # commands that may be asked for while the imports run


@dataclass(frozen=True)
class ForkCall:
    """What a fork does: `module:function` with `arguments`, in a directory and an environment of its own."""

    function: str
    arguments: Sequence[str]
    directory: str
    environment: Mapping[str, str]


def ask(address: str, call: ForkCall, streams: Sequence[int]) -> socket.socket:
    """Have `call` begun with `streams` as its stdin, stdout and stderr; returned is where the answers come."""
    with ExitStack() as held:
        answers = held.enter_context(socket.socket(socket.AF_UNIX))
        answers.connect(address)
        socket.send_fds(answers, [json.dumps(asdict(call)).encode() + b"\n"], list(streams))
        held.pop_all()
    return answers


class Fork:
    """A command that runs as a fork: what `subprocess.Popen` offers, as far as a campaign uses it."""

    def __init__(self, address: str, call: ForkCall) -> None:
        self.returncode: int | None = None
        # closed where anything fails; what is the fork's in any case
        with ExitStack() as ours, ExitStack() as forks:
            nothing = forks.enter_context(open(os.devnull, "rb"))
            self.stdout, out_end = _pipe(ours, forks)
            self.stderr, told_end = _pipe(ours, forks)
            try:
                self._answers = ours.enter_context(ask(address, call, (nothing.fileno(), out_end, told_end)))
                (self.pid,) = ANSWER.unpack(self._answers.recv(ANSWER.size, socket.MSG_WAITALL))
            except (OSError, struct.error) as error:  # no one listens, or no one answers
                raise ChorusError("the process that starts the trainings has ended", "what it said is above") from error
            ours.pop_all()

    def poll(self) -> int | None:
        """The exit code, or None while it runs; minus the number of a signal that ended it."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self) -> int:
        if self.returncode is None:  # looked at, not taken: another thread may ask too
            told = self._answers.recv(ANSWER.size, socket.MSG_WAITALL | socket.MSG_PEEK)
            self.returncode = ANSWER.unpack(told)[0] if len(told) == ANSWER.size else -signal.SIGKILL
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def __enter__(self) -> Fork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stdout.close()
        self.stderr.close()
        self.wait()
        self._answers.close()


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[IO[str], int]:
    """A pipe's end to read from, as text, and its end to write to."""
    out, end = os.pipe()
    writing.callback(os.close, end)
    return reading.enter_context(os.fdopen(out, encoding="utf-8")), end


class WarmProcess:
    """Starts the process, which imports `modules`, and asks it for forks; `environment` is what libraries read once."""

    def __init__(self, modules: Sequence[str] = MODULES, environment: Mapping[str, str] | None = None) -> None:
        with ExitStack() as held:
            # no one else's: who connects may run anything
            folder = held.enter_context(tempfile.TemporaryDirectory(prefix="chorus-"))
            inside = os.open(folder, os.O_RDONLY)
            held.callback(os.close, inside)
            # by its number: a socket's path may have 107 bytes (unix(7)), and a TMPDIR may have more
            self.address = f"/proc/{os.getpid()}/fd/{inside}/warm"  # not self: any process of the user may ask
            listener = held.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(self.address)
            listener.listen(WAITING)
            number = listener.fileno()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "chorus.train.warm", str(number), *modules],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[number], env=environment,
            )  # fmt: skip
            listener.close()
            self._held = held.pop_all()

    def start(self, function: str, arguments: Sequence[str], environment: Mapping[str, str]) -> Fork:
        """`module:function` in a fork, in this process's directory."""
        return Fork(self.address, ForkCall(function, list(arguments), str(Path.cwd()), dict(environment)))

    def close(self) -> None:
        """No more forks; those that run go on, and who waits for one to begin waits no more."""
        assert self._process.stdin is not None
        self._process.terminate()
        self._process.stdin.close()
        self._process.wait()
        self._held.close()

    def __enter__(self) -> WarmProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


# ---- in the process ----


def main(number: int, modules: Sequence[str]) -> None:
    """Serve until stdin ends; a fork leaves by the same way, with the exit code of its command."""
    code = [1]  # a fork's, unless its call returns or says another
    atexit.register(lambda: _leave(code[0]))  # registered first, so called last
    interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the forks answer it
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no child of this process is waited for
    for name in modules:
        with suppress(ImportError):  # the command that needs it says how to install it
            import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection in a fork would copy every page
    call = _serve(socket.socket(fileno=number))
    if call is not None:
        signal.signal(signal.SIGINT, interrupted)
        code[0] = _run(call)


def _leave(code: int) -> None:
    """End without freeing what was imported, which would copy every page for nothing."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader has gone
            stream.flush()
    os._exit(code)


def _run(call: ForkCall) -> int:
    """The exit code of a call; errors pass through, to be shown as Python shows them."""
    module, _, function = call.function.partition(":")
    try:
        getattr(import_module(module), function)(call.arguments)
    except SystemExit as stop:
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
            return 1
        return stop.code or 0
    return 0


def _serve(listener: socket.socket) -> ForkCall | None:
    """Returns in a fork, with its call, and at the end of stdin, with None."""
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if listener not in ready:
            return None
        answers, _ = listener.accept()
        data, streams = _request(answers)
        if data and _fork() == 0:
            listener.close()
            call = ForkCall(**json.loads(data))
            _begin(call, streams, answers)
            return call
        for stream in (*streams, answers.detach()):
            os.close(stream)


def _request(answers: socket.socket) -> tuple[bytes, list[int]]:
    """The line of JSON and the three streams; no line where the asker has gone."""
    data, streams, _, _ = socket.recv_fds(answers, PIECE_BYTES, 3)
    while not data.endswith(b"\n"):
        piece = answers.recv(PIECE_BYTES)
        if not piece:
            return b"", streams
        data += piece
    return data, streams


def _fork() -> int:
    """`os.fork`; the threads that there are belong to libraries that stop and restart theirs around it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of any thread
        return os.fork()


def _begin(call: ForkCall, streams: Sequence[int], answers: socket.socket) -> None:
    """Fork once more, and return in the child: its parent stays to tell how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = _fork()
    if child:
        for stream in (*streams, 0, 2):  # who reads them must see the end of the child's
            os.close(stream)
        with suppress(OSError):  # the asker may have gone
            answers.sendall(ANSWER.pack(child))
        _, status = os.waitpid(child, 0)
        with suppress(OSError):
            answers.sendall(ANSWER.pack(os.waitstatus_to_exitcode(status)))
        os._exit(0)
    answers.close()
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(call.directory)
    os.environ.clear()
    os.environ.update(call.environment)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
