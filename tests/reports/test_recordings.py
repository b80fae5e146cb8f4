"""Recordings that stopped a run, or were measured as what nobody hears: each ends its row at the most."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

import chorus
from chorus.data import audio
from chorus.data.audio import RATE, blocks, info, opened, read_audio, write_flac
from chorus.data.check import check, measure
from chorus.data.describe import describe
from chorus.data.manifest import Row, write_manifest
from chorus.errors import ChorusError, DataError
from chorus.models.ctc import CtcRecogniser
from chorus.models.finite import NotFiniteError
from chorus.models.loading import Origin, kind_at, load_parts
from chorus.models.recogniser import Speech
from chorus.tasks.normalise import normaliser
from chorus.train.backbones.choose import load_backbone
from chorus.train.layers import load_train_config
from chorus.train.measure import error_rates
from chorus.train.rows import gather
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.segments import stretches
from chorus.transcribe.test_sets import of_rows
from sounds import BASE, corpus, tiny, tone


def training(manifest: Path, folder: Path, **more):
    document = {
        "model": {"base": str(BASE)}, "data": {"train": str(manifest)}, "device": "cpu", "output": str(folder / "out"),
        "logs": str(folder / "logs"), "train": {"steps": 2, "batch_size": 4, "window_s": 2},
        "dev": {"max_new_tokens": 2},
    }  # fmt: skip
    return load_train_config(document, overrides=[f"{k}={v}" for k, v in more.items()])


def without_length(path: Path) -> Path:
    """The FLAC as a recorder leaves it that writes into a pipe: its header tells no number of samples."""
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    target = path.with_name("piped.flac")
    target.write_bytes(data)
    return target


def cut_off(path: Path) -> None:
    """A FLAC whose header reads and whose body does not."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


@pytest.mark.reported("flac-without-length")
def test_a_flac_that_does_not_tell_its_length_is_decoded(tmp_path):
    _, rows = corpus(tmp_path, 4, seconds=1.0)
    piped = without_length(rows[0].audio)
    assert soundfile.info(piped).frames > 1 << 62
    assert info(piped) == info(rows[0].audio)
    assert np.array_equal(read_audio(piped), read_audio(rows[0].audio))
    part = {"start_s": 0.25, "end_s": 0.5}
    assert np.array_equal(read_audio(piped, **part), read_audio(rows[0].audio, **part))
    with pytest.raises(DataError):
        read_audio(piped, start_s=5)
    mine = [replace(rows[0], path="piped.flac", root=piped.parent, split="train"), *rows[1:]]
    assert not [f for f in check(mine).findings if f.error]
    assert describe(mine)["duration_s"]["max"] < 1.2
    assert of_rows(mine).hours == pytest.approx(sum(info(r.audio).duration_s for r in mine) / 3600)
    done = chorus.train(training(write_manifest(mine, tmp_path / "m.csv"), tmp_path))
    assert (done.steps, done.left_out) == (2, {})
    made = chorus.evaluate(
        str(BASE), tmp_path / "m.csv", tmp_path / "e", decoding=Decoding(max_new_tokens=2, window_s=2)
    )
    assert not any(row.get("failed") for row in made.rows)


@pytest.mark.reported("flac-without-length")
def test_one_damaged_recording_ends_no_training(tmp_path):
    manifest, rows = corpus(tmp_path, 6)
    cut_off(rows[1].audio)
    with pytest.raises(DataError, match=r"audio/001.flac: .*damaged audio") as error:
        chorus.train(training(manifest, tmp_path))
    assert "--skip-bad" in error.value.hint
    told: list[str] = []
    config = training(manifest, tmp_path, **{"train.steps": 4})
    chorus.train(config, skip_bad=True, note=told.append)
    (left,) = [line for line in told if "damaged" in line]
    assert left.startswith("left out: ")
    assert "001.flac" in left
    cut_off(rows[5].audio)  # of dev: found before the model has learnt anything
    with pytest.raises(DataError, match=r"1 damaged audio files: audio/005.flac"):
        chorus.train(config, overwrite=True, restart=True)
    assert chorus.train(config, skip_bad=True, overwrite=True).left_out["damaged audio files"] == 1


def test_what_is_measured_is_the_mix_that_models_hear(tmp_path):
    one = tone(0.5)
    soundfile.write(tmp_path / "phases.wav", np.stack([one, -one], axis=1), RATE)
    soundfile.write(tmp_path / "left.wav", np.stack([one, 0 * one], axis=1), RATE)
    found = measure(Row("phases.wav", "a", root=tmp_path))
    assert found.problem == "silent audio"
    assert found.detail.endswith("when its 2 channels are mixed")
    left = measure(Row("left.wav", "a", root=tmp_path))
    heard = read_audio(tmp_path / "left.wav")
    assert left.rms_dbfs == pytest.approx(10 * np.log10(np.mean(heard**2)), abs=0.01)


def test_recordings_are_decoded_in_pieces_whatever_their_channels_and_rate(tmp_path, monkeypatch):
    monkeypatch.setattr(audio, "BLOCK", 8000)
    channels = np.stack([tone(1.0, 200 + i) for i in range(8)], axis=1)
    soundfile.write(tmp_path / "eight.flac", channels, 44_100)
    with opened(tmp_path / "eight.flac") as file:
        assert {block.shape for block in blocks(file)} == {(1000, 8)}
    import soxr

    decoded, _ = soundfile.read(tmp_path / "eight.flac", dtype="float32")
    whole = soxr.resample(decoded.mean(axis=1), 44_100, RATE)
    assert read_audio(tmp_path / "eight.flac") == pytest.approx(whole, abs=1e-6), "the same as at once"


@pytest.mark.parametrize("rate", [1, 999, 1_000_001, 1_000_000_000])
def test_sample_rates_that_nothing_is_recorded_at_are_refused(tmp_path, rate):
    soundfile.write(tmp_path / "r.wav", np.zeros(9000, np.float32), rate)
    with pytest.raises(DataError, match=rf"a sample rate of {rate:,} Hz \(1,000 to 1,000,000 are read\)"):
        info(tmp_path / "r.wav")


def test_more_than_is_read_at_once_is_refused_by_its_header(tmp_path, monkeypatch):
    for module in ("data.audio", "data.check", "transcribe.test_sets"):
        monkeypatch.setattr(f"chorus.{module}.LONGEST_S", 1.0)
    write_flac(tmp_path / "long.flac", tone(1.5))
    row = Row("long.flac", "a", root=tmp_path)
    for source in (tmp_path / "long.flac", without_length(tmp_path / "long.flac")):
        with pytest.raises(DataError, match=r"more than 0.000277778 h at once") as error:
            read_audio(source)
        assert "columns start and end" in error.value.hint
    assert len(read_audio(tmp_path / "long.flac", start_s=0.5)) == RATE
    with pytest.raises(DataError, match="1 of 1 recordings cannot be read"):
        of_rows([row])
    assert [f.kind for f in check([row]).findings] == ["audio too long"]


def test_a_long_form_is_given_stretches_cut_where_it_is_quiet():
    sound = np.concatenate([tone(3.0), np.zeros(RATE // 2, np.float32), tone(2.0)])
    parts = [sound[first:last] for first, last in stretches(sound, 4.0)]
    assert np.array_equal(np.concatenate(parts), sound)
    assert len(parts) == 2
    assert 3.0 <= len(parts[0]) / RATE <= 3.5
    assert stretches(sound, 60.0) == [(0, len(sound))]


@pytest.mark.parametrize(
    ("name", "data", "form", "remedy"),
    [
        ("a.m4a", b"\0\0\0\x20ftypM4A isom", "m4a, to be conv", "convert it: ffmpeg -i a.m4a a.flac"),
        ("a.wav", b"\0\0\0\x20ftypisom....", "m4a, to be conv", "convert it: ffmpeg -i a.wav a.flac"),
        ("a.webm", b"\x1a\x45\xdf\xa3 matroska", "webm, to be conv", "convert it: ffmpeg -i a.webm a.flac"),
        ("a.wma", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma, to be conv", "convert it: ffmpeg -i a.wma a.flac"),
        ("a.3gp", b"of no known beginning", "3gp, to be conv", "convert it: ffmpeg -i a.3gp a.flac"),
        ("a.raw", b"\0\1\2\3" * 9, "raw samples", "say what it holds: ffmpeg -f s16le -ar RATE -ac 1 -i a.raw a.flac"),
        ("a.flac", b"<html>not found</html>", "a web page", "download it again"),
        (
            "a.flac",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer",
            "fetch it with `git lfs pull`",
        ),
        ("a.wav", b"", "an empty file", "replace it"),
        ("a.wav", b"of no known beginning", "Format not recognised", "replace it"),
    ],
)
def test_formats_that_are_not_read_are_told_with_the_remedy(tmp_path, monkeypatch, name, data, form, remedy):
    """In lists of many files too, which have no room for a hint. What PyAV says of them, where it is there, is the
    tests' of containers."""
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match="not readable as audio") as error:
        info(tmp_path / name)
    assert error.value.hint == remedy
    assert f"({form}" in error.value.message
    assert f"({form}" in measure(Row(name, "a", root=tmp_path)).detail


@pytest.mark.parametrize("kind", ["PCM_16", "PCM_24", "FLOAT", "ULAW"])
def test_half_a_wav_is_damaged_and_not_short(tmp_path, kind):
    """libsndfile takes what is left for the whole; what writes to a pipe cannot know the length, and says so."""
    place = tmp_path / "a.wav"
    soundfile.write(place, tone(2.0), RATE, subtype=kind)
    whole = place.read_bytes()
    place.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"damaged audio \(it ends after [\d,]+ of 3[12],\d{3} samples"):
        read_audio(place)
    assert measure(Row("a.wav", "a", root=tmp_path)).problem == "unreadable audio"
    assert len(read_audio(place, end_s=0.5)) == RATE // 2, "what is there is heard"
    place.write_bytes(whole[:-40])
    assert len(read_audio(place)) > 1.9 * RATE, "a moment is no damage"
    at = whole.index(b"data") + 4
    for told in (b"\xff\xff\xff\xff", b"\xdb\xff\xff\x7f"):
        place.write_bytes(whole[:at] + told + whole[at + 4 :])
        assert len(read_audio(place)) == 2 * RATE


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(DataError, match=r"pipe.wav: a pipe, not a file"):
        info(tmp_path / "pipe.wav")
    assert measure(Row("pipe.wav", "a", root=tmp_path)).problem == "unreadable audio"
    with pytest.raises(DataError, match="not a file"):
        info(tmp_path)


def test_samples_that_are_no_numbers_are_not_heard(tmp_path):
    bad = tone(0.5)
    bad[100] = np.nan
    soundfile.write(tmp_path / "nan.wav", bad, RATE, subtype="FLOAT")
    with pytest.raises(DataError, match=r"nan.wav: samples that are no finite numbers"):
        read_audio(tmp_path / "nan.wav")


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """The digits example's Whisper with one weight that is no number."""
    backbone_rows, _ = corpus(tmp_path_factory.mktemp("rows"), 3)
    config = training(backbone_rows, tmp_path_factory.mktemp("t"))
    backbone = load_backbone(config, "cpu")
    with torch.no_grad():
        backbone.model.model.decoder.layer_norm.weight[3] = torch.nan
    place = tmp_path_factory.mktemp("model")
    backbone.parts.save(place)
    return place, backbone, gather(config).train, backbone_rows


@pytest.mark.parametrize("settings", [{}, {"beam": 2}, {"timestamps": True}])
def test_outputs_that_are_no_numbers_are_failed_decodes(broken, tmp_path, settings):
    place, _, _, manifest = broken
    with pytest.raises(ChorusError, match="every decode failed: the model's outputs are no finite numbers"):
        chorus.evaluate(str(place), manifest, tmp_path / "e", decoding=Decoding(window_s=2, **settings), device="cpu")
    assert (tmp_path / "e" / "results.jsonl").read_text().count("no finite numbers") == 3


def test_a_training_counts_them_as_empty(broken):
    _, backbone, rows, _ = broken
    sums = error_rates(backbone, backbone.model, rows, normalise=normaliser("raw"), batch_size=2, max_new_tokens=2)
    assert sums["word_edits"] == sums["words"] == len(rows)


def test_a_ctc_model_says_so_too(tmp_path):
    place = tiny(tmp_path / "w", "wav2vec2")
    origin = Origin(place)
    parts = load_parts(kind_at(origin, "decoded"), origin, "float32")
    with torch.no_grad():
        parts.model.lm_head.weight[0, 0] = torch.nan
    recogniser = CtcRecogniser(parts)
    with pytest.raises(NotFiniteError), torch.inference_mode():
        recogniser.texts(parts.model, recogniser.inputs([Speech(lambda: tone(0.5), lambda: "k")]))


@pytest.mark.parametrize("end_s", [None, 1.9, 9.0])
def test_an_mp3_that_ends_before_its_own_length_is_damaged_wherever_it_is_read(tmp_path, end_s):
    soundfile.write(tmp_path / "a.mp3", tone(2.0), RATE, bitrate_mode="VARIABLE", compression_level=0.2)
    cut_off(tmp_path / "a.mp3")
    assert info(tmp_path / "a.mp3").duration_s == pytest.approx(2.0, abs=0.2)
    row = Row("a.mp3", "a", root=tmp_path, start=None if end_s is None else 0.0, end=end_s)
    told = r"damaged audio \(it ends after [\d,]+ of [\d,]+ samples\)"
    with pytest.raises(DataError, match=told):
        read_audio(row.audio, end_s=end_s)
    found = measure(row)
    assert found.problem == "unreadable audio"
    assert re.fullmatch(told, found.detail)
    half = read_audio(row.audio, end_s=0.5)
    assert len(half) == RATE // 2, "what is there is heard"


def test_an_end_behind_an_mp3_that_does_not_tell_its_length_is_its_end(tmp_path):
    """As of any recording: a manifest's end may be rounded up."""
    path = tmp_path / "a.mp3"
    soundfile.write(path, tone(1.0), RATE)
    data = path.read_bytes()
    path.write_bytes(data[data.index(data[:2], 2) :])
    with opened(path) as file:
        assert audio.told_frames(file) is None
    found = measure(Row("a.mp3", "a", root=tmp_path, start=0.0, end=3.0))
    assert (found.problem, found.duration_s) == ("", info(path).duration_s)


@pytest.mark.parametrize("tagged", [True, False])
def test_an_mp3_that_does_not_tell_its_length_is_decoded_to_find_it(tmp_path, tagged):
    """Its first frame's bit rate says nothing of the others where the rate varies: silence first, then speech."""
    sound = np.concatenate([np.zeros(2 * RATE, np.float32), tone(2.0) + tone(2.0, 3111.0, seed=1)])
    path = tmp_path / "a.mp3"
    soundfile.write(path, sound, RATE, bitrate_mode="VARIABLE", compression_level=0.2)
    data = path.read_bytes()
    if not tagged:
        data = data[data.index(data[:2], 2) :]
    path.write_bytes(b"ID3\x03\0\0\0\0\x02\0" + bytes(256) + data)
    assert info(path).duration_s == info(path.read_bytes()).duration_s == pytest.approx(4.0, abs=0.2)
    assert len(read_audio(path)) / RATE == pytest.approx(4.0, abs=0.2)
    assert measure(Row("a.mp3", "a", root=tmp_path)).problem == ""
