"""Every finding of `chorus data check`, each on a recording that was made to have it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from chorus.data.audio import RATE, read_audio
from chorus.data.check import ERRORS, WARNINGS, check, measure
from chorus.data.manifest import Row
from chorus.models.loading import limits_of
from sounds import BASE, corpus, tiny, tone


def kinds(rows, **more):
    return {f.kind: f.rows for f in check(rows, **more).findings}


def test_a_sound_corpus_has_no_finding_but_texts_in_two_splits(tmp_path):
    _, rows = corpus(tmp_path)
    report = check(rows, limits=limits_of(str(BASE)))
    assert {f.kind for f in report.findings} == {
        "repeated text",
        "same text in two splits",
        "speaker in two splits",
    }
    assert report.errors == 0
    assert report.hours == pytest.approx(sum(len(read_audio(r.audio)) for r in rows) / RATE / 3600)
    assert report.hours_by["domain"].keys() == {"d0", "d1"}
    assert report.rates == {RATE: 12}
    assert report.as_dict()["warnings"] == report.warnings


@pytest.mark.parametrize("jobs", [1, 3])
def test_every_error_of_the_audio(tmp_path, jobs):
    _, rows = corpus(tmp_path, 6)
    (tmp_path / "text.wav").write_text("no audio")
    whole = (tmp_path / "audio" / "000.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(whole[: len(whole) // 2])
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE, np.float32), RATE)
    soundfile.write(tmp_path / "hush.wav", np.random.default_rng(0).normal(0, 2e-4, RATE).astype(np.float32), RATE)
    bad = tone(1.0)
    bad[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, RATE, subtype="FLOAT")
    names = ["none.wav", "text.wav", "cut.flac", "empty.wav", "silent.wav", "hush.wav", "nan.wav"]
    extra = [Row(n, f"text {n}", root=tmp_path) for n in names]
    extra.append(replace(rows[0], start=5.0, end=6.0, text="behind"))
    extra.append(replace(rows[0], text="  ", path="audio/001.flac"))
    found = kinds([*rows, *extra], jobs=jobs)
    assert found["missing audio"] == ["none.wav"]
    assert {r.split(":")[0] for r in found["unreadable audio"]} == {"text.wav", "cut.flac"}
    assert {r.split(":")[0] for r in found["empty audio"]} == {"empty.wav", "audio/000.flac [5 to 6 s]"}
    assert found["silent audio"] == ["silent.wav: digital silence", "hush.wav: -74 dBFS"]
    assert found["not finite"] == ["nan.wav"]
    assert found["empty text"] == ["audio/001.flac"]


def test_clipping_is_a_run_at_full_scale_not_a_loud_peak(tmp_path):
    loud = tone(1.0, level=0.9)
    loud[::1000] = 1.0
    soundfile.write(tmp_path / "loud.wav", loud, RATE)
    soundfile.write(tmp_path / "clipped.wav", np.clip(9 * tone(1.0), -1, 1), RATE)
    rows = [Row("loud.wav", "a", root=tmp_path), Row("clipped.wav", "b", root=tmp_path)]
    assert [r.split(":")[0] for r in kinds(rows)["clipped audio"]] == ["clipped.wav"]


def test_durations_and_speaking_rates_far_from_the_others(tmp_path):
    _, rows = corpus(tmp_path, 20)
    soundfile.write(tmp_path / "long.wav", tone(8.0), RATE)
    soundfile.write(tmp_path / "click.wav", tone(0.05), RATE)
    extra = [
        Row("long.wav", "a whole sentence of many words, said slowly", "en", root=tmp_path),
        Row("click.wav", "o", "en", duration=1.0, root=tmp_path),
        replace(
            rows[3], path="audio/003.flac", text="far too much text for half a second of speech " * 3, duration=None
        ),
    ]
    found = kinds([*rows[:3], *rows[4:], *extra])
    assert {r.split(":")[0] for r in found["duration outlier"]} == {"long.wav", "click.wav"}
    assert [r.split(":")[0] for r in found["very short audio"]] == ["click.wav"]
    assert [r.split(":")[0] for r in found["duration differs"]] == ["click.wav"]
    assert {r.split(":")[0] for r in found["speaking rate outlier"]} == {"click.wav", "audio/003.flac"}


def test_texts_that_come_again_are_told_once_with_their_count(tmp_path):
    _, rows = corpus(tmp_path)
    found = kinds([*rows, replace(rows[0], split="dev"), replace(rows[6], text="")])["repeated text"]
    assert found == [
        "audio/000.flac: 'one' 2 times in train",
        "audio/001.flac: 'two' 2 times in train",
    ]


def test_copies_are_found_whatever_they_are_called(tmp_path):
    _, rows = corpus(tmp_path, 6)
    (tmp_path / "copy.flac").write_bytes((tmp_path / rows[0].path).read_bytes())
    audio, rate = soundfile.read(tmp_path / rows[1].path, dtype="int16")
    soundfile.write(tmp_path / "converted.wav", audio, rate)
    extra = [
        replace(rows[0], path="copy.flac", split="dev"),
        replace(rows[1], path="converted.wav"),
    ]
    found = kinds([*rows, *extra])
    assert found["same audio in two splits"] == ["copy.flac: dev; audio/000.flac is train"]
    assert found["duplicate audio"] == ["converted.wav: the same as audio/001.flac"]


def test_a_file_that_several_rows_name_is_told_by_their_lines(tmp_path):
    _, rows = corpus(tmp_path, 6)
    named = [replace(row, line=2 + i) for i, row in enumerate(rows)]
    again = [replace(named[0], line=9, text="other"), replace(named[1], line=10, split="dev")]
    found = kinds([*named, *again])
    assert found["duplicate audio"] == ["audio/000.flac: lines 2 and 9 name the same file"]
    assert found["same audio in two splits"] == ["audio/001.flac: lines 3 (train) and 10 (dev) name the same file"]


def test_texts_that_the_model_cannot_take(tmp_path):
    _, rows = corpus(tmp_path, 3)
    whisper = limits_of(str(BASE))
    long = replace(rows[0], text="ninety-nine " * 300)
    found = kinds([long, replace(rows[1], language="tlh"), replace(rows[2], language="English")], limits=whisper)
    assert found["text too long"][0].endswith("the decoder takes 443")
    assert found["unknown language"] == ["audio/001.flac: tlh"]
    letters = limits_of(str(tiny(tmp_path / "ctc", "wav2vec2")))
    found = kinds([replace(rows[0], text="One"), replace(rows[1], text="zwölf")], limits=letters)
    assert found["unwritable text"] == ["audio/001.flac: 'l' 'z' 'ö'"]


def test_audio_longer_than_the_model_hears(tmp_path):
    soundfile.write(tmp_path / "long.flac", tone(31.0), RATE)
    found = kinds([Row("long.flac", "x", root=tmp_path)], limits=limits_of(str(BASE)))
    assert found["audio too long"] == ["long.flac: 31.0 s, the model takes 30"]


def test_any_rate_and_channels_and_long_files_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr("chorus.data.audio.BLOCK", 1000)
    stereo = np.stack([tone(0.5), 0.5 * tone(0.5)], axis=1)
    soundfile.write(tmp_path / "s.wav", stereo, 44_100)
    one = measure(Row("s.wav", "x", root=tmp_path))
    assert (one.rate, one.channels, one.problem) == (44_100, 2, "")
    assert one.duration_s == pytest.approx(0.5 * RATE / 44_100)
    assert one.rms_dbfs == pytest.approx(10 * np.log10(np.mean(stereo.mean(axis=1) ** 2)), abs=0.01)


def test_all_kinds_have_a_place_and_somebody_who_finds_them():
    from pathlib import Path

    import chorus.data.check
    import chorus.data.choices
    import chorus.models.limits

    modules = (chorus.data.check, chorus.data.choices, chorus.models.limits)
    source = "".join(Path(module.__file__).read_text() for module in modules)
    assert all(source.count(f'"{kind}"') >= 2 for kind in (*ERRORS, *WARNINGS))
    assert len(set(ERRORS) | set(WARNINGS)) == len(ERRORS) + len(WARNINGS) == 26


# ---- tasks ----


@pytest.fixture
def speech(tmp_path):
    """Two recordings, and files that are none."""
    for i, name in enumerate("abc"):
        soundfile.write(tmp_path / f"{name}.wav", tone(1.0, 200 + 50 * i, seed=i), RATE)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0, np.float32), RATE)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "columns", "told"),
    [
        (
            "kws",
            {"keyword": "six", "choices": "one|two"},
            'task kws: its answer "six" is none of its choices (one, two)',
        ),
        ("custom", {"answer": "x"}, "task custom: no instruction"),
        ("speech_qa", {"answer": "x"}, "task speech_qa: no question"),
        ("speaker_ver", {"answer": "yes"}, "task speaker_ver: no second recording"),
        ("emotion", {}, "task emotion: no answer"),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_a_row_that_cannot_be_answered_is_an_error_of_its_task(speech, task, columns, told, named):
    row = Row("a.wav", root=speech, extra={**columns, **({"task": task} if named else {})})
    assert kinds([row], task="asr" if named else task) == {"cannot be answered": [f"a.wav: {told}"]}


def test_labels_are_no_texts_that_are_empty_or_come_again(speech):
    rows = [
        Row(f"{name}.wav", "", split=split, root=speech, extra={"task": task, "answer": label, "choices": "on|off"})
        for name, split in (("a", "train"), ("b", "train"), ("c", "dev"))
        for task, label in (("kws", "on"), ("intent", "off"))
    ]
    assert kinds(rows) == {}
    again = [replace(rows[0]), replace(rows[0], split="dev")]
    assert kinds([*rows, *again]).keys() == {"duplicate audio", "same audio in two splits"}
    assert kinds([replace(rows[0], extra={"task": "kwz"})]) == {"unknown task": ["a.wav: kwz"]}


def test_of_a_pair_both_recordings_are_decoded(speech):
    def pair(second, first="a.wav", **more):
        return Row(first, root=speech, extra={"audio_2": second, "answer": "no", "task": "speaker_ver"}, **more)

    found = kinds([pair("empty.wav"), pair("none.wav"), pair("b.wav"), pair("c.wav")])
    assert found["empty audio"] == ["a.wav: second recording empty.wav: no samples"]
    assert found["missing audio"] == ["a.wav: second recording none.wav"]
    assert set(found) == {"empty audio", "missing audio"}, "a.wav in two pairs is no duplicate"
    assert check([pair("b.wav")]).hours == pytest.approx(2.5 / 3600)
    held = kinds([pair("b.wav", split="train"), pair("b.wav", first="c.wav", split="dev")])
    assert held == {"same audio in two splits": ["c.wav: dev; a.wav is train"]}
    soon = replace(pair("b.wav"), extra={**pair("b.wav").extra, "start_2": "soon"})
    assert kinds([soon])["unreadable audio"] == ["a.wav: start_2 or end_2 is no number"]
