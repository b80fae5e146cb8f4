"""A runtime in a process of its own: what is started again after a death, and what is not left behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from chorus.data.manifest import Row
from chorus.errors import ChorusError
from chorus.transcribe.backends.child import EndedError
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Hypothesis, Sound

SOUND = Sound(np.zeros(200_000, np.float32), Row("a.flac", "a", "en"))  # more than a pipe holds


class Fragile:
    """Dies when it is to transcribe, and cannot be made while the file `broken` is there."""

    facts: dict[str, str] = {}  # noqa: RUF012
    longest_s, long_form = 30.0, False

    def __init__(self, broken: str) -> None:
        if Path(broken).exists():
            raise ChorusError("out of memory", "wait")

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, seconds)

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        os.kill(os.getpid(), signal.SIGKILL)
        return []

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Path(__file__).parent, Path(__file__).parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))


def test_a_restart_that_fails_is_tried_again(tmp_path: Path) -> None:
    """Memory that the dead child has held may be free a moment later."""
    broken = tmp_path / "broken"
    made = Isolated("test_isolated:Fragile", {"broken": str(broken)})
    try:
        with pytest.raises(ChorusError, match="signal 9"):
            made.transcribe([SOUND])
        broken.touch()
        for _ in range(2):
            with pytest.raises(ChorusError, match="out of memory"):
                made.sort_key(1.0)
        broken.unlink()
        assert made.sort_key(1.0) == (0.0, 1.0)
    finally:
        made.close()


def test_a_child_that_was_killed_between_two_calls_is_told_and_closed(tmp_path: Path) -> None:
    made = Isolated("test_isolated:Fragile", {"broken": str(tmp_path / "broken")})
    assert made._child is not None
    child = made._child._process
    child.kill()
    child.wait()
    with pytest.raises(ChorusError, match="signal 9"):
        made.transcribe([SOUND])
    assert child.stdin is not None
    assert child.stdin.closed
    made.close()


class Loud:
    """Says a lot where it should be silent, and is ended by its own native code's check."""

    facts: dict[str, str] = {}  # noqa: RUF012
    longest_s, long_form = 30.0, False

    def __init__(self, words: str) -> None:
        os.write(1, b"loading\n" * 2000)
        os.write(2, words.encode())

    def sort_key(self, seconds: float) -> tuple[float, float]:
        os.abort()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("a.cpp:7: ASSERT(n > 0) failed\nbye\n", r"signal 6: a.cpp:7: ASSERT\(n > 0\) failed\)"),
        ("all is well\n\n", r"signal 6: all is well\)"),
        ("\xff", r"signal 6: \xff\)"),
    ],
)
def test_a_silent_child_has_last_words(words: str, told: str, capfd: pytest.CaptureFixture[str]) -> None:
    made = Isolated("test_isolated:Loud", {"words": words}, silent=True)
    with pytest.raises(EndedError, match=told):
        made.sort_key(1.0)
    made.close()
    assert capfd.readouterr() == ("", "")


def test_what_a_child_prints_is_shown_where_it_need_not_be_silent(capfd: pytest.CaptureFixture[str]) -> None:
    made = Isolated("test_isolated:Loud", {"words": "careful"})
    with pytest.raises(EndedError, match=r"\(signal 6\)"):
        made.sort_key(1.0)
    made.close()
    out, shown = capfd.readouterr()
    assert (out, shown.startswith("loading"), shown.endswith("careful")) == ("", True, True)
