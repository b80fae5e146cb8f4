"""What a training shows while it runs, on a terminal and elsewhere, and the curve that it leaves."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from rich.console import Console

from chorus.tasks.normalise import normaliser
from chorus.train.curve import curve, plot_curve
from chorus.train.measure import edits, error_rates, rates, with_metric
from chorus.train.progress import Progress


def state(step, **more):
    known = {"max_steps": 10, "num_train_epochs": 2, "is_world_process_zero": True}
    return SimpleNamespace(global_step=step, **{**known, **more})


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(value=100.0)
    for module in ("chorus.train.progress", "chorus.progress"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(monotonic=lambda: now.value))
    return now


def test_lines_away_from_a_terminal(clock, capsys):
    bar = Progress("george", hours_per_epoch=0.1, metric="wer", quiet=False)
    bar.on_log(None, state(0, max_steps=0), None, {"eval_wer": 46.0})
    bar.on_train_begin(None, state(0), None)
    bar.on_log(None, state(2), None, {"loss": 0.5})
    clock.value += 20
    bar.on_step_end(None, state(2), None)
    bar.on_step_end(None, state(3), None)  # too soon for another line
    bar.on_log(None, state(5), None, {"eval_wer": 30.0, "eval_loss": 1.0})
    bar.on_train_end(None, state(10), None)
    assert capsys.readouterr().err.splitlines() == [
        "george: before it, dev wer 46.0 %",
        "george: step 2 of 10, loss 0.500, dev wer 46.0 %, 7 s of speech/s, 80 s left",
        "george: step 5 of 10, loss 0.500, dev wer 30.0 %, 18 s of speech/s, 20 s left",
    ]


def test_after_a_resume_the_rate_counts_from_there(clock, capsys):
    bar = Progress("x", hours_per_epoch=0.1, metric="wer", quiet=False)
    bar.on_train_begin(None, state(6), None)
    clock.value += 20
    bar.on_step_end(None, state(8), None)
    assert "20 s left" in capsys.readouterr().err


def test_silence_where_asked_for_and_in_other_processes(clock, capsys):
    for quiet, more in ((True, {}), (False, {"is_world_process_zero": False})):
        bar = Progress("x", hours_per_epoch=0.1, metric="wer", quiet=quiet)
        bar.on_train_begin(None, state(0, **more), None)
        bar.on_log(None, state(5, **more), None, {"eval_wer": 1.0})
        clock.value += 60
        bar.on_step_end(None, state(6, **more), None)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    bar = Progress("x", hours_per_epoch=0.1, metric="wer", quiet=False)
    monkeypatch.setattr("chorus.progress.rich_console", SimpleNamespace(Console=lambda **given: Console(quiet=True)))
    bar.on_train_begin(None, state(0), None)
    bar.on_log(None, state(5), None, {"eval_wer": 12.5})
    bar.on_step_end(None, state(6), None)
    shown = bar.display._bar
    assert shown is not None
    assert shown.tasks[0].completed == 6
    assert "dev wer 12.5 %" in shown.tasks[0].fields["told"]
    bar.on_train_end(None, state(10), None)
    assert bar.display._bar is None


HISTORY = [
    {"step": 0, "eval_loss": 2.0, "eval_wer": 80.0, "eval_cer": 40.0},
    {"step": 5, "loss": 1.5, "grad_norm": 1.0},
    {"step": 5, "eval_loss": 1.8, "eval_wer": 60.0},
    {"step": 10, "loss": 1.0},
]


def test_the_curve_as_numbers_and_as_a_picture(tmp_path):
    points = curve(HISTORY, "wer")
    assert points == {
        "loss": [[5, 1.5], [10, 1.0]],
        "dev_loss": [[0, 2.0], [5, 1.8]],
        "dev_wer": [[0, 80.0], [5, 60.0]],
    }
    path = tmp_path / "curve.png"
    plot_curve(points, "wer", path, "a model", 5)
    assert path.stat().st_size > 5000
    plot_curve(curve(HISTORY, "loss"), "loss", path, "a language model", None)
    assert path.stat().st_size > 5000


# ---- the measure ----


def test_edits_are_summed_before_they_are_divided():
    sums = edits(["one two", "three", ""], ["one too", "", "four five"])
    assert sums == {"word_edits": 1 + 1 + 2, "words": 3, "char_edits": 1 + 5 + 9, "chars": 12}
    assert rates(sums) == {"wer": pytest.approx(400 / 3), "cer": pytest.approx(1500 / 12)}
    assert rates(edits([], [])) == {"wer": 0.0, "cer": 0.0}


def test_error_rates_are_jiwers():
    import jiwer

    truth, heard = ["the cat sat", "on the mat", "a b c d"], ["the cat", "on a mat now", "a b c d"]
    found = rates(edits(truth, heard))
    assert found["wer"] == pytest.approx(100 * jiwer.wer(truth, heard))
    assert found["cer"] == pytest.approx(100 * jiwer.cer(truth, heard))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("raw", "  Olá,   Mundo! ", "Olá, Mundo!"),
        ("basic", "Olá, Mundo!", "olá mundo"),
        ("english", "Mr. Brown can't colour it", "mister brown can not color it"),
    ],
)
def test_normalisers(name, text, expected):
    assert normaliser(name)(text).strip() == expected


@pytest.mark.parametrize(
    ("languages", "given", "expected"),
    [
        (["ja", "zh"], None, "cer"),
        (["ja", "en"], None, "wer"),
        (["th"], "wer", "wer"),
        ([], None, "wer"),
        ([""], None, "wer"),
    ],
)
def test_characters_are_counted_where_words_have_no_spaces(languages, given, expected):
    from chorus.data.manifest import Row
    from chorus.data.utterance import Utterance
    from chorus.train.layers import load_train_config

    config = load_train_config(
        {"model": {"base": "b"}, "data": {"train": "m"}, "dev": {"metric": given} if given else {}}
    )
    assert with_metric(config, [Utterance(Row(language=x)) for x in languages]).metric == expected


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_every_process_decodes_as_often_and_each_row_counts_once(processes):
    from chorus.data.manifest import Row
    from chorus.data.utterance import Utterance

    rows = [Utterance(Row(f"{i}.wav", f"word{i}"), duration_s=float(i)) for i in range(11)]
    calls = []

    class Echo:
        def transcribe(self, model, utterances, **settings):
            assert settings == {"max_new_tokens": rank, "window_s": 5, "synced_gpus": True}
            calls.append((rank, len(utterances)))
            return [u.row.text for u in utterances]

    sums = []
    for rank in range(processes):
        given = {"max_new_tokens": rank, "window_s": 5, "synced_gpus": True}
        sums.append(error_rates(Echo(), None, rows, normalise=str, batch_size=3, share=(rank, processes), **given))
    assert sum(s["words"] for s in sums) == 11
    assert sum(s["word_edits"] for s in sums) == 0
    assert len({sum(r == rank for r, _ in calls) for rank in range(processes)}) == 1
