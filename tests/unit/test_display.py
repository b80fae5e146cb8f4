"""How progress is shown: lines away from a terminal, a bar on one, nothing where it is quiet."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

import chorus.progress
from chorus.progress import STEPS, Display, shown


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    now = SimpleNamespace(value=100.0)
    monkeypatch.setattr(chorus.progress, "time", SimpleNamespace(monotonic=lambda: now.value))
    return now


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_bytes_and_units_are_told_with_their_rate(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    for unit in ("", "utterances"):
        display = Display(quiet=False, label="x", unit=unit)
        clock.value += 10
        display(250, 1000)
    assert lines(capsys) == [
        "x: 25 % of 1 kB, 25 bytes/s, 30 s left",
        "x: 25 % of 1000 utterances, 25/s, 30 s left",
    ]


def test_steps_are_counted_and_say_what_is_done(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=False, label="digits", unit=STEPS, every_s=1.0)
    clock.value += 2
    display(3, 10, "dev ties; about 7 s left")
    assert lines(capsys) == ["digits: step 3 of 10, dev ties; about 7 s left"]


def test_lines_come_every_few_seconds_and_at_once_where_asked(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    display = Display(quiet=False, label="x", unit="rows", every_s=5.0)
    for seconds in range(12):
        display(seconds, 12)
        clock.value += 1
    assert len(lines(capsys)) == 2
    display.line(12, 12, "now")
    assert lines(capsys) == ["x: 100 % of 12 rows, now"]


def test_before_anything_is_done_there_is_no_rate(clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(quiet=False, label="x", every_s=0.0)
    display(0, 1000)
    display(0, 0)
    assert lines(capsys) == ["x: 0 % of 1 kB", "x: 0 % of 0 bytes"]


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        monkeypatch.setattr("sys.stderr.isatty", lambda terminal=terminal: terminal)
        with shown(quiet=True, label="x", every_s=0.0) as display:
            display(1, 2)
            display.line(1, 2)
            display.note("a note")
    assert capsys.readouterr() == ("", "")


def test_a_bar_on_a_terminal_goes_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with shown(quiet=False, label="[x]", unit="utterances") as display:
        display(1, 4, "[/] told")
        display.line(2, 4, "more")
        assert display._bar is not None
        (task,) = display._bar.tasks
        assert (task.completed, task.total, task.fields["told"]) == (2, 4, "more")
        display.note("[a note]")
    assert display._bar is None


def test_a_display_is_taken_away_whatever_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    seen = []

    def interrupted() -> None:
        with shown(quiet=False, label="x") as display:
            seen.append(display)
            display(1, 2)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert seen[0]._bar is None
