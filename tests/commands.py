"""Commands of `chorus` and pieces of Python as forks of one process that has imported torch: seconds less for each.

A test for which a process of its own is the point (kills, imports, entry points) starts one with `subprocess`. Where
forks are not safe (macOS), so does this.
"""

from __future__ import annotations

import functools
import os
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from chorus.train import warm

HERE = Path(__file__).parent
FORKS = sys.platform == "linux"
MODULES = (
    *warm.MODULES, "commands", "warmed", "chorus.cli.main", "chorus.train.campaign", "chorus.linalg.kernels",
    "datasets", "peft", "scipy.stats",
    "transformers.models.whisper.modeling_whisper", "transformers.models.qwen2.modeling_qwen2",
)  # fmt: skip
CLIENT = """#!{python} -IS
# `chorus` for shells: hands its arguments, directory, environment and streams to the process at {address}
import json, os, socket, struct, sys
answers = socket.socket(socket.AF_UNIX)
answers.connect({address!r})
command = {{"function": "commands:enter", "arguments": [{address!r}, "chorus", *sys.argv[1:]],
            "directory": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(answers, [json.dumps(command).encode() + b"\\n"], [0, 1, 2])
answers.recv(4, socket.MSG_WAITALL)
code, = struct.unpack("i", answers.recv(4, socket.MSG_WAITALL))
sys.exit(code if code >= 0 else 128 - code)
"""


@functools.cache
def process() -> warm.WarmProcess:
    """This worker's; it ends with the worker."""
    path = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    return warm.WarmProcess(MODULES, {**os.environ, "PYTHONPATH": path})


def enter(arguments: Sequence[str]) -> None:
    """In the fork: a command line of `chorus`, or a piece of Python; campaigns ask the same process for their forks."""
    address, kind, *rest = arguments
    sys.path[0] = os.getcwd()  # as `python -c` and `python -m` have it
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [place for place in named if place and place not in sys.path]
    share(lambda: address)
    if kind == "python":
        exec(compile(rest[0], "<python>", "exec"), {"__name__": "__main__"})
        return
    from chorus.cli.main import main

    main(rest)


class Shared:
    """In the place of a campaign's own warm process: the one at `address`, which stays."""

    def __init__(self, address: str) -> None:
        self.address = address

    def start(self, function: str, arguments: Sequence[str], environment: Mapping[str, str]) -> warm.Fork:
        assert function == "chorus.cli.main:main"
        command = warm.ForkCall("commands:enter", [self.address, "chorus", *arguments], os.getcwd(), dict(environment))
        return warm.Fork(self.address, command)

    def close(self) -> None:
        pass


def share(address: Callable[[], str]) -> None:
    """Have the campaigns of this process fork from the process at that address."""
    from chorus.train import campaign

    campaign.WarmProcess = lambda **settings: Shared(address())


def share_own() -> None:
    """Have the campaigns that tests run themselves fork from this worker's process, begun by the first."""
    share(lambda: process().address)


def _run(kind: str, arguments: Sequence[str], cwd: Path | None, env: Mapping[str, str] | None, forks: bool = FORKS):
    environment = dict(os.environ if env is None else env)
    if not forks:
        how = ["-m", "chorus"] if kind == "chorus" else ["-c"]
        command = [sys.executable, *how, *arguments]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    address = process().address
    command = warm.ForkCall("commands:enter", [address, kind, *arguments], str(cwd or Path.cwd()), environment)
    with open(os.devnull) as nothing, tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as told:
        with warm.ask(address, command, [f.fileno() for f in (nothing, out, told)]) as answers:
            answers.recv(warm.ANSWER.size, socket.MSG_WAITALL)
            (code,) = warm.ANSWER.unpack(answers.recv(warm.ANSWER.size, socket.MSG_WAITALL))
        out.seek(0)
        told.seek(0)
        return subprocess.CompletedProcess([kind, *arguments], code, out.read(), told.read())


def chorus(*arguments: object, cwd: Path | None = None, env: Mapping[str, str] | None = None):
    """`chorus` with these arguments, as `subprocess.run` would tell of it."""
    return _run("chorus", [str(a) for a in arguments], cwd, env)


def python(code: str, *, cwd: Path | None = None, env: Mapping[str, str] | None = None, forks: bool = FORKS):
    """`python -c code`, as `subprocess.run` would tell of it."""
    return _run("python", [code], cwd, env, forks)


def shell(text: str, *, cwd: Path, env: Mapping[str, str] | None = None, forks: bool = FORKS):
    """A script of bash, which stops at the first failure; `chorus` in it is a fork too, unless `forks` is false."""
    with tempfile.TemporaryDirectory() as folder:
        client = Path(folder) / "chorus"
        if forks:
            client.write_text(CLIENT.format(python=sys.executable, address=process().address))
            client.chmod(0o755)
        environment = dict(os.environ if env is None else env)
        environment["PATH"] = os.pathsep.join([folder, sysconfig.get_path("scripts"), environment["PATH"]])
        command = ["bash", "-e", "-c", text]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
