"""Datasets as rows, what a manifest holds in numbers, effects by name, work in order, a voice that fails."""

from __future__ import annotations

import io
import json
import struct
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.data import espeak
from chorus.data.audio import RATE, info, read_audio, resample, write_flac
from chorus.data.describe import describe, plot
from chorus.data.effect_names import NAMED, effect_of
from chorus.data.hub import DatasetRows, decode, duration_s, open_dataset
from chorus.data.manifest import Row
from chorus.data.parallel import CHUNK, in_order
from chorus.data.split import split_rows
from chorus.data.utterance import Utterance, sound_key
from chorus.errors import ChorusError, DataError, MissingExtraError, UsageError
from sounds import tone


def flac(audio):
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, audio, RATE, format="FLAC")
    return buffer.getvalue()


# ---- datasets ----


@pytest.fixture
def saved(tmp_path):
    """A dataset on disk with encoded audio and two splits."""
    import datasets

    cells = [{"bytes": flac(tone(0.5 + i / 10)), "path": f"{i}.flac"} for i in range(3)]
    columns = {"audio": cells, "sentence": ["one", "two", None], "client_id": ["s0", "s1", "s0"], "age": [20, 30, 40]}
    made = datasets.Dataset.from_dict(columns).cast_column("audio", datasets.Audio(RATE, decode=False))
    datasets.DatasetDict({"train": made, "test": made.select([0])}).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def opened(source, split="train", **more):
    return open_dataset(str(source), **{"name": None, "split": split, "revision": None, "streaming": False, **more})


def test_a_saved_dataset_is_opened_with_its_audio_encoded(saved):
    dataset = opened(saved)
    assert len(dataset) == 3
    assert dataset[0]["audio"]["bytes"].startswith(b"fLaC")
    assert len(opened(saved, "test")) == 1


def test_other_names_of_columns_are_known(saved):
    rows = [row for row, _ in DatasetRows(opened(saved), {}, "mine")]
    assert [r.text for r in rows] == ["one", "two", ""]
    assert [r.speaker for r in rows] == ["s0", "s1", "s0"]
    assert [r.path for r in rows] == ["0.flac", "1.flac", "2.flac"]
    assert [r.line for r in rows] == [1, 2, 3]
    assert rows[1].extra == {"age": 30}


def test_columns_can_be_named(saved):
    rows = [row for row, _ in DatasetRows(opened(saved), {"speaker": "sentence", "text": "client_id"}, "mine")]
    assert [(r.speaker, r.text) for r in rows][:2] == [("one", "s0"), ("two", "s1")]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"txet": "sentence"}, '"txet" is no column of a manifest; did you mean "text"'),
        ({"text": "sentense"}, 'no column "sentense"; did you mean "sentence"'),
    ],
)
def test_columns_that_are_not_there(saved, columns, told):
    with pytest.raises((DataError, UsageError), match=told):
        DatasetRows(opened(saved), columns, "mine")


def test_a_dataset_without_texts_names_its_columns(saved):
    dataset = opened(saved).remove_columns(["sentence"])
    with pytest.raises(DataError, match="no column for the text; it has audio, client_id, age") as caught:
        DatasetRows(dataset, {}, "mine")
    assert "columns: {text: NAME}" in caught.value.hint


def test_a_stream_of_plain_records_is_read_too():
    records = [{"text": "one", "audio": None, "duration": 1.5}, {"text": "two", "audio": {"path": None}}]
    rows = [row for row, _ in DatasetRows(records, {}, "mine")]
    assert [r.path for r in rows] == ["mine#1", "mine#2"]
    assert [r.duration for r in rows] == [1.5, None]


@pytest.mark.parametrize("split", ["dev", "train[:x]"])
def test_a_split_that_is_not_there_is_told(saved, split):
    with pytest.raises(DataError, match="dataset") as caught:
        opened(saved, split)
    assert "split" in caught.value.hint


def test_without_datasets_it_says_how_to_install_it(monkeypatch, saved):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"chorus-merge\[train\]"):
        opened(saved)


def test_audio_of_every_form_of_cell(tmp_path):
    audio = tone(0.5)
    write_flac(tmp_path / "a.flac", audio)
    stored = read_audio(tmp_path / "a.flac")
    cells = [
        {"bytes": (tmp_path / "a.flac").read_bytes()},
        {"bytes": None, "path": str(tmp_path / "a.flac")},
        {"array": stored.astype(np.float64), "sampling_rate": RATE},
        str(tmp_path / "a.flac"),
    ]
    for cell in cells:
        assert np.array_equal(decode(cell), stored)
        assert duration_s(cell) == pytest.approx(0.5)
    half = decode({"array": stored[::2], "sampling_rate": RATE // 2})
    assert len(half) == len(stored)
    assert duration_s(None) == duration_s({"path": None}) == 0.0


@pytest.mark.parametrize("cell", [None, "", {"path": None}, {"bytes": b"", "path": ""}])
def test_a_row_without_audio_is_told(cell):
    with pytest.raises(DataError, match="a row of the dataset has no audio"):
        decode(cell)


# ---- utterances ----


def test_an_utterances_key_is_its_sound_and_its_cut(tmp_path):
    write_flac(tmp_path / "a.flac", tone(0.5))
    write_flac(tmp_path / "copy.flac", tone(0.5))
    write_flac(tmp_path / "b.flac", tone(0.5, 300))
    row = Row("a.flac", root=tmp_path)
    assert sound_key(row) == sound_key(Row("copy.flac", root=tmp_path))
    cut = Row("a.flac", root=tmp_path, start=0.1, end=0.2)
    assert len({sound_key(r) for r in (row, cut, Row("b.flac", root=tmp_path))}) == 3
    assert len(Utterance(cut).audio()) == RATE // 10
    assert Utterance(cut).key() == sound_key(cut)


def test_an_utterance_of_a_dataset_is_read_from_its_cell(saved):
    dataset = opened(saved)
    made = [Utterance(Row(f"{i}"), dataset=dataset, index=i, column="audio") for i in range(2)]
    assert [round(len(u.audio()) / RATE, 1) for u in made] == [0.5, 0.6]
    assert made[0].key() != made[1].key()
    plain = Utterance(Row("x"), dataset=[{"audio": {"bytes": flac(tone(0.5))}}], column="audio")
    assert plain.key() == Utterance(Row("y"), dataset=plain.dataset, column="audio").key()


# ---- numbers of a manifest ----


def rows_of(*lengths, **more):
    return [Row(f"{i}.flac", f"text {i}", duration=s, speaker=f"s{i % 2}", **more) for i, s in enumerate(lengths)]


def test_durations_and_counts_are_those_of_the_rows():
    found = describe(rows_of(*[float(s) for s in range(1, 101)], domain="d", language="pt"))
    assert found["duration_s"] == {"min": 1.0, "median": 51.0, "p95": 96.0, "max": 100.0}
    assert found["hours"] == round(5050 / 3600, 4)
    assert found["by"]["speaker"] == {
        "s0": {"rows": 50, "hours": round(2500 / 3600, 4)}, "s1": {"rows": 50, "hours": round(2550 / 3600, 4)}
    }  # fmt: skip
    assert set(found["by"]) == {"speaker", "domain", "language"}
    assert (found["rows"], found["distinct_texts"], found["words_per_row"]) == (100, 100, 2.0)


def test_the_rarest_letters_come_first():
    found = describe([Row("a.flac", "aaab", duration=1.0), Row("b.flac", "aab", duration=1.0)])
    assert found["rarest_characters"] == ["b", "a"]
    assert found["characters"] == 2


def test_an_empty_manifest_has_numbers_too():
    found = describe([])
    assert (found["rows"], found["hours"], found["words_per_row"], found["by"]) == (0, 0.0, 0.0, {})
    assert set(found["duration_s"].values()) == {0.0}


def test_lengths_that_the_manifest_does_not_tell_are_the_files(tmp_path):
    write_flac(tmp_path / "a.flac", tone(0.75))
    assert describe([Row("a.flac", root=tmp_path)])["durations"] == [info(tmp_path / "a.flac").duration_s] == [0.75]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_plot_is_what_its_name_says(tmp_path, suffix):
    rows = [Row(f"{i}.flac", "x", duration=1.0 + i, domain=f"d{i % 30}", split="train") for i in range(60)]
    path = plot(describe(rows), tmp_path / "folder" / f"p{suffix}", "mine")
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    assert path.read_bytes().startswith(starts[suffix])


def test_a_plot_of_rows_without_columns(tmp_path):
    assert plot(describe(rows_of(1.0)[:1]), tmp_path / "p.png", "one row").exists()


# ---- splits ----


def test_rows_without_the_column_are_groups_of_their_own():
    rows = [Row(f"{i}.flac", speaker="s" if i < 5 else "", duration=1.0) for i in range(25)]
    found = split_rows(rows, dev=0.2, test=0.2, seed=1)
    assert len({r.split for r in found[:5]}) == 1
    assert {r.split for r in found[5:]} == {"train", "dev", "test"}


def test_folders_are_groups_too():
    rows = [Row(f"book{i % 6}/{i}.flac", duration=1.0) for i in range(60)]
    found = split_rows(rows, by="folder", seed=3)
    for book in range(6):
        assert len({r.split for r in found if r.path.startswith(f"book{book}/")}) == 1


@pytest.mark.parametrize(("dev", "test"), [(0.5, 0.5), (1.0, 0.0), (-0.1, 0.1), (0.2, 0.9)])
def test_shares_that_leave_nothing(dev, test):
    with pytest.raises(UsageError, match="leave nothing to train on"):
        split_rows(rows_of(1.0, 1.0), dev=dev, test=test)


def test_the_same_seed_gives_the_same_sides_and_another_gives_others():
    rows = [Row(f"{i}.flac", speaker=f"s{i}", duration=1.0) for i in range(40)]
    sides = [[r.split for r in split_rows(rows, seed=seed)] for seed in (0, 0, 1)]
    assert sides[0] == sides[1] != sides[2]


# ---- effects by name ----


@pytest.mark.parametrize(
    "text", ["noise:15db", "noise:15", "pink-noise:10dB", "reverb:0.4s", "codec:mulaw", "speed:1.1", "gain:-6db",
             "telephone", "child", "elder"],
)  # fmt: skip
def test_every_named_effect_is_a_function_of_sound_and_chance(text):
    assert text.partition(":")[0] in NAMED
    audio = tone(0.3)
    one, two = (effect_of(text)(audio, np.random.default_rng(0)) for _ in range(2))
    assert np.array_equal(one, two)
    assert one.dtype == np.float32
    assert np.isfinite(one).all()
    assert np.array_equal(one, audio) == (text in ("child", "elder"))


@pytest.mark.parametrize(
    ("text", "told"),
    [("nois:1", 'did you mean "noise"'), ("noise", "needs a number"), ("noise:loud", "needs a number"),
     ("codec:opsu", 'unknown codec; did you mean "opus"'), ("codec", "unknown codec"), ("", "unknown effect")],
)  # fmt: skip
def test_effects_that_are_none(text, told):
    with pytest.raises(ValueError, match=told):
        effect_of(text)


def test_a_gain_is_in_decibels():
    audio = tone(0.1)
    assert np.allclose(effect_of("gain:-20db")(audio, None), audio / 10, atol=1e-6)


@given(st.integers(1, 2000), st.sampled_from([8000, 22050, 44100, 48000]))
def test_another_rate_keeps_the_time(count, rate):
    audio = np.zeros(count, np.float32)
    found = resample(audio, rate, RATE)
    assert found.dtype == np.float32
    assert abs(len(found) - count * RATE / rate) <= 1


# ---- work in order ----


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(jobs):
    def slow_first(x):
        time.sleep(0.002 if x % 7 == 0 else 0)
        return x * x

    assert list(in_order(slow_first, range(200), jobs)) == [x * x for x in range(200)]


def test_items_are_not_all_in_flight():
    taken = []

    def items():
        for i in range(10 * CHUNK):
            taken.append(i)
            yield i

    results = in_order(lambda x: x, items(), jobs=2)
    assert next(results) == 0
    assert len(taken) == 2 * CHUNK


def test_an_error_reaches_the_caller_and_one_job_needs_no_thread():
    here = threading.get_ident()
    assert set(in_order(lambda _: threading.get_ident(), range(3), jobs=1)) == {here}
    with pytest.raises(ZeroDivisionError):
        list(in_order(lambda x: 1 // x, [1, 0], jobs=2))


# ---- a voice that fails ----


def speaker_of(answers):
    return espeak.Speaker(io.BytesIO(), io.BytesIO(answers), 22050)


def test_speech_comes_as_numbers_between_one_and_minus_one():
    samples = np.int16([0, 16384, -32768])
    speaker = speaker_of(struct.pack("<i", 3) + samples.tobytes())
    assert speaker.say("one", voice="en", seed=4).tolist() == [0.0, 0.5, -1.0]
    asked = json.loads(speaker.stdin.getvalue())
    assert asked == {"text": "one", "voice": "en", "rate_wpm": 160, "pitch": 50, "range": 50, "seed": 4}


def test_what_the_library_refuses_is_told_in_its_words():
    message = b"no voice 'xx'"
    with pytest.raises(DataError, match="no voice 'xx'") as caught:
        speaker_of(struct.pack("<i", -len(message)) + message).say("one", voice="xx")
    assert "espeak-ng --voices" in caught.value.hint


@pytest.mark.parametrize("answers", [b"", b"\x01", struct.pack("<i", 10) + b"half"])
def test_a_child_that_ends_is_told_with_its_text(answers):
    with pytest.raises((ChorusError, EOFError)):
        speaker_of(answers).say("one", voice="en")


def test_a_library_that_cannot_be_started(monkeypatch):
    pytest.importorskip("espeakng_loader")

    @contextmanager
    def dead(*args, **kwargs):
        child = type("Child", (), {"stdin": io.BytesIO(), "stdout": io.BytesIO(), "wait": lambda self, s: 0})()
        yield child

    monkeypatch.setattr(espeak.subprocess, "Popen", dead)
    with pytest.raises(ChorusError, match="espeak-ng could not be started"), espeak.speaker():
        pass


class Library:
    """What espeak-ng answers, by hand."""

    def __init__(self, voice=0, synth=0):
        self.voice, self.synth, self.set = voice, synth, {}

    def espeak_SetVoiceByName(self, name):
        return self.voice

    def espeak_SetParameter(self, parameter, value, relative):
        self.set[parameter] = value

    def espeak_Synth(self, *arguments):
        return self.synth


def test_the_childs_side_sets_what_is_asked_and_tells_what_fails():
    request = {"text": "um", "voice": "pt", "rate_wpm": 150, "pitch": 40, "range": 60, "seed": 3}
    library = Library()
    assert espeak._speak(library, request) == ""
    assert library.set == {espeak.RATE: 150, espeak.PITCH: 40, espeak.RANGE: 60}
    assert espeak._speak(Library(voice=1), request) == "espeak-ng has no voice 'pt'"
    assert espeak._speak(Library(synth=1), request) == "espeak-ng cannot say 'um'"


def test_a_dataset_of_pairs_is_refused(saved):
    dataset = opened(saved).rename_column("age", "audio_2")
    with pytest.raises(DataError, match="pairs of recordings") as caught:
        DatasetRows(dataset, {}, "mine")
    assert "manifest" in caught.value.hint
    with pytest.raises(DataError, match="pairs of recordings"):
        DatasetRows(opened(saved), {"audio_2": "client_id"}, "mine")


def test_a_datasets_columns_of_tasks_can_be_named(saved):
    rows = [row for row, _ in DatasetRows(opened(saved), {"keyword": "client_id"}, "mine")]
    assert [row.get("keyword") for row in rows] == ["s0", "s1", "s0"]
