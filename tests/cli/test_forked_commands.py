"""The commands that tests run as forks are told apart from real ones by nothing but their speed."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

import commands
from chorus.train import campaign

CHORUS = Path(sysconfig.get_path("scripts")) / "chorus"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--version"], 0),
        (["methods", "ties"], 0),
        (["plan", "none.yml"], 2),
        (["marge", "x"], 2),
        (["evaluate", "none", "--data", "none.csv", "-o", "out"], 4),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_fork_tells_what_a_process_tells(tmp_path, arguments, code):
    real = subprocess.run([CHORUS, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)
    fork = commands.chorus(*arguments, cwd=tmp_path)
    assert (fork.returncode, fork.stdout, fork.stderr) == (real.returncode, real.stdout, real.stderr)
    assert fork.returncode == code
    shell = commands.shell("chorus " + " ".join(arguments), cwd=tmp_path)
    assert (shell.returncode, shell.stdout, shell.stderr) == (code, real.stdout, real.stderr)


@pytest.mark.parametrize(
    "code",
    [
        "print(__name__); import sys; sys.exit(3)",
        "import sys; print(sys.stdin.read(), file=sys.stderr)",
        "assert False",
    ],
)
def test_python_too(code):
    real = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    fork = commands.python(code)
    assert (fork.returncode, fork.stdout) == (real.returncode, real.stdout)
    assert fork.stderr.splitlines()[-1:] == real.stderr.splitlines()[-1:]


def test_nothing_of_one_command_is_there_in_the_next(tmp_path):
    place = str(tmp_path.parent)  # no folder that another test, left there, could spoil
    change = f"import os, chorus.errors; os.environ['LEFT'] = '1'; os.chdir({place!r}); chorus.errors.left = 1"
    assert commands.python(change).returncode == 0
    look = "import os, chorus.errors; print(os.getcwd(), 'LEFT' in os.environ, hasattr(chorus.errors, 'left'))"
    assert commands.python(look, cwd=tmp_path).stdout == f"{tmp_path} False False\n"
    named = {**os.environ, "NAMED": "mine"}
    assert commands.python("import os; print(os.environ['NAMED'])", env=named).stdout == "mine\n"


def test_a_shell_stops_at_the_first_failure_and_pipes(tmp_path):
    done = commands.shell("chorus methods | head -1\nchorus plan none.yml\necho after", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stdout.splitlines()) == 1
    assert "none.yml" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not commands.FORKS, reason="no forks here")
def test_a_fork_asks_the_same_process_for_the_forks_of_a_campaign():
    made = campaign.WarmProcess(environment={})
    assert isinstance(made, commands.Shared)
    assert made.address == commands.process().address
    code = "from chorus.train import campaign; print(campaign.WarmProcess(environment={}).address)"
    assert commands.python(code).stdout.strip() == made.address
