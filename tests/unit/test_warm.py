"""The process that forks for each training: what a fork gets, how it ends, and what happens when one side goes."""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import weakref
from pathlib import Path
from threading import Thread

import pytest

from chorus.errors import ChorusError
from chorus.train import campaign, warm
from commands import FORKS

pytestmark = pytest.mark.skipif(not FORKS, reason="forks of a process with torch are for Linux")
HERE = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


@pytest.fixture
def light():
    """A process that has imported nothing of weight, so that tests of how it behaves are quick."""
    with warm.WarmProcess(["json", "no_such_module"], {**os.environ, "PYTHONPATH": HERE}) as made:
        yield made


def tell(arguments):
    """In a fork: what it was given, on both streams; then the exit code that is asked for."""
    facts = {
        "arguments": arguments,
        "directory": os.getcwd(),
        "environment": dict(os.environ),
        "input": sys.stdin.read(),
    }
    print(json.dumps({**facts, "imported": "json" in sys.modules}))
    print("told", file=sys.stderr)
    raise SystemExit(int(arguments[0]))


def wait_for(arguments):
    """In a fork: say that it has begun, then wait until a file is there."""
    print("begun", flush=True)
    while not Path(arguments[0]).exists():
        time.sleep(0.01)


def fail(arguments):
    raise ValueError(arguments[0])


def leave(arguments):
    """In a fork: what an interpreter does when it ends, and how it says so."""
    weakref.finalize(leave, lambda: print("finalized"))
    atexit.register(print, "at the end")
    Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
    raise SystemExit({"none": None, "text": "what was wrong"}[arguments[0]])


def started(process, function, *arguments, **environment):
    return process.start(f"test_warm:{function}", arguments, {"PATH": os.environ["PATH"], **environment})


@pytest.mark.parametrize("code", [0, 3])
def test_a_fork_has_its_own_streams_directory_environment_and_code(light, tmp_path, monkeypatch, code):
    monkeypatch.chdir(tmp_path)
    with started(light, "tell", str(code), "two words", ONLY="mine") as child:
        facts, told = json.loads(child.stdout.read()), child.stderr.read()
    assert child.returncode == child.wait() == child.poll() == code
    assert facts["arguments"] == [str(code), "two words"]
    assert facts["directory"] == str(tmp_path)
    assert facts["environment"] == {"PATH": os.environ["PATH"], "ONLY": "mine"}
    assert facts["input"] == ""
    assert facts["imported"]
    assert told == "told\n"


def test_an_error_in_a_fork_is_its_own(light):
    with started(light, "fail", "no such thing") as child:
        told = child.stderr.read()
    assert child.returncode == 1
    assert "Traceback" in told
    assert "ValueError: no such thing" in told
    with started(light, "tell", "0") as child:
        child.stdout.read()
    assert child.returncode == 0


@pytest.mark.parametrize(("said", "code", "told"), [("none", 0, ""), ("text", 1, "what was wrong\n")])
def test_a_fork_ends_as_an_interpreter_does(light, said, code, told):
    with started(light, "leave", said) as child:
        lines = child.stdout.read().splitlines()
        assert child.stderr.read() == told
    assert child.returncode == code
    assert lines[0] == "thread"  # threads are waited for
    assert set(lines[1:]) == {"finalized", "at the end"}


def test_requests_larger_than_a_piece_arrive_whole(light):
    long = "x" * (3 * warm.PIECE_BYTES)
    with started(light, "tell", "0", long) as child:
        assert json.loads(child.stdout.read())["arguments"][1] == long


def test_many_run_beside_each_other(light, tmp_path):
    gate = tmp_path / "gate"
    children = [started(light, "wait_for", str(gate)) for _ in range(6)]
    for child in children:
        assert child.stdout.readline() == "begun\n"
    assert [child.poll() for child in children] == [None] * 6
    assert len({child.pid for child in children}) == 6
    gate.touch()
    for child in children:
        with child:
            assert child.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_a_fork_that_a_signal_ends_tells_which(light, tmp_path, number):
    with started(light, "wait_for", str(tmp_path / "never")) as child:
        assert child.stdout.readline() == "begun\n"
        if number == signal.SIGTERM:
            child.terminate()
        else:
            os.kill(child.pid, number)
        assert child.wait() == -number
        child.terminate()  # of one that has ended: nothing


def test_forks_go_on_when_the_process_is_closed(tmp_path):
    gate = tmp_path / "gate"
    with warm.WarmProcess(["json"], {**os.environ, "PYTHONPATH": HERE}) as made:
        child = started(made, "wait_for", str(gate))
    assert child.poll() is None
    gate.touch()
    with child:
        assert child.stdout.read() == "begun\n"
    assert child.returncode == 0


def test_nothing_is_begun_after_the_process_is_closed():
    """Ctrl-C while the imports run: who waits for a fork is told, and so is who asks later."""
    made = warm.WarmProcess(["json"], {**os.environ, "PYTHONPATH": HERE})
    folder = Path(made.address).parent.resolve()
    os.kill(made._process.pid, signal.SIGSTOP)  # as good as an import that takes long
    waiting = warm.ask(made.address, warm.ForkCall("test_warm:tell", ["0"], "/", {}), (0, 1, 2))
    os.kill(made._process.pid, signal.SIGKILL)
    made.close()
    with pytest.raises(ConnectionResetError), waiting:
        waiting.recv(warm.ANSWER.size)
    assert folder.name.startswith("chorus-")
    assert not folder.exists()
    with pytest.raises(ChorusError, match="the process that starts the trainings has ended"):
        started(made, "tell", "0")


def test_a_fork_that_does_not_begin_leaves_no_pipe_and_no_socket(tmp_path):
    def fds():
        return sorted(os.listdir("/proc/self/fd"))

    before, errors = fds(), []  # kept, with all that their frames hold: nothing is closed by the collector
    for _ in range(3):  # no one listens
        with pytest.raises(ChorusError) as caught:
            warm.Fork(str(tmp_path / "nobody"), warm.ForkCall("test_warm:tell", ["0"], "/", {}))
        errors.append(caught.value)
    assert fds() == before
    with socket.socket(socket.AF_UNIX) as silent:  # one that hangs up
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        hangs_up = Thread(target=lambda: silent.accept()[0].close())
        hangs_up.start()
        with pytest.raises(ChorusError) as caught:
            warm.Fork(str(tmp_path / "silent"), warm.ForkCall("test_warm:tell", ["0"], "/", {}))
        errors.append(caught.value)
        hangs_up.join()
    assert fds() == before


def test_a_temporary_folder_with_a_long_name_serves_too(tmp_path, monkeypatch):
    """The path of a socket has at most 107 bytes."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with warm.WarmProcess(["json"], {**os.environ, "PYTHONPATH": HERE}) as made:
        assert [path.name.startswith("chorus-") for path in long.iterdir()] == [True]
        with started(made, "tell", "0") as child:
            assert child.stderr.read() == "told\n"
        assert child.returncode == 0
    assert list(long.iterdir()) == []


def test_it_ends_with_the_process_that_began_it():
    code = (
        "import os, signal; from chorus.train.warm import WarmProcess; made = WarmProcess(['json'])\n"
        "print(made._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL
    pid, deadline = int(done.stdout), time.monotonic() + 10
    while Path(f"/proc/{pid}/cmdline").exists() and b"warm" in Path(f"/proc/{pid}/cmdline").read_bytes():
        assert time.monotonic() < deadline, "it stayed"
        time.sleep(0.02)


def test_no_one_else_may_connect(light):
    assert Path(light.address).parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("device", "best", "platform", "forks"),
    [
        ("cpu", "cuda", "linux", True), ("auto", "cpu", "linux", True), ("auto", "cuda", "linux", False),
        ("cuda", "cuda", "linux", False), ("cpu", "cpu", "darwin", False),
    ],
)  # fmt: skip
def test_only_trainings_on_linux_s_cpu_are_forks(monkeypatch, device, best, platform, forks):
    from chorus.train.layers import load_train_config

    config = load_train_config({"model": {"base": "b"}, "data": {"train": "m.csv"}, "device": device})
    monkeypatch.setattr(campaign, "pick_device", lambda asked: best)
    monkeypatch.setattr(sys, "platform", platform)
    assert campaign._may_fork(config) is forks
