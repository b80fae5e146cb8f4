"""Splits, audio, effects, features: the parts of the data room that stand alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from chorus.cache import Cache
from chorus.data import effects
from chorus.data.audio import RATE, info, read_audio
from chorus.data.manifest import Row
from chorus.data.split import split_rows
from chorus.data.utterance import sound_key
from chorus.errors import DataError, UsageError
from chorus.models.features import LogMel
from sounds import BASE, corpus, tone

# ---- splits ----


@given(
    speakers=st.integers(3, 30),
    each=st.integers(1, 8),
    dev=st.floats(0.05, 0.3),
    test=st.floats(0.05, 0.3),
    seed=st.integers(0, 9),
)
def test_no_speaker_stands_on_two_sides_and_no_side_is_empty(speakers, each, dev, test, seed):
    rows = [
        Row(f"{s}-{i}.wav", "x", speaker=f"s{s}", duration=1.0 + s % 3) for s in range(speakers) for i in range(each)
    ]
    found = split_rows(rows, dev=dev, test=test, seed=seed)
    sides = {}
    for row in found:
        sides.setdefault(row.speaker, set()).add(row.split)
    assert all(len(s) == 1 for s in sides.values())
    assert {r.split for r in found} == {"train", "dev", "test"}
    assert [r.path for r in found] == [r.path for r in rows]
    assert split_rows(rows, dev=dev, test=test, seed=seed) == found


def test_shares_hold_within_each_domain():
    rows = [Row(f"{d}{s}{i}", "x", speaker=f"{d}{s}", domain=d) for d in "ab" for s in range(40) for i in range(5)]
    found = split_rows(rows, dev=0.2, test=0.1, stratify="domain", seed=3)
    for domain in "ab":
        mine = [r for r in found if r.domain == domain]
        assert sum(r.split == "dev" for r in mine) / len(mine) == pytest.approx(0.2, abs=0.03)
        assert sum(r.split == "test" for r in mine) / len(mine) == pytest.approx(0.1, abs=0.03)


def test_other_ways_to_keep_things_together():
    rows = [Row(f"f{i // 3}/{i}.wav", "x") for i in range(30)]
    folders = {}
    for row in split_rows(rows, by="folder"):
        folders.setdefault(row.path.split("/")[0], set()).add(row.split)
    assert all(len(s) == 1 for s in folders.values())
    assert sum(r.split == "dev" for r in split_rows(rows, by="row", dev=0.1)) == 3
    assert {r.split for r in split_rows(rows[:3], by="folder")} == {"train"}  # one group: nothing can be held out


def test_splits_that_cannot_be():
    rows = [Row("a", "x", domain="d")]
    with pytest.raises(UsageError, match="leave nothing to train on"):
        split_rows(rows, dev=0.5, test=0.5)
    with pytest.raises(DataError, match='no row has the column "speaker"'):
        split_rows(rows)
    with pytest.raises(DataError, match='no row has the column "domian"; did you mean "domain"'):
        split_rows(rows, by="domian")


# ---- audio ----


@pytest.mark.parametrize(
    ("name", "options", "tolerance"),
    [
        ("a.wav", {}, 2e-3),
        ("a.flac", {}, 2e-3),
        ("a.mp3", {"format": "MP3"}, 0.1),
        ("a.ogg", {"format": "OGG", "subtype": "VORBIS"}, 0.1),
        ("a.opus", {"format": "OGG", "subtype": "OPUS"}, 0.1),
    ],
)
@pytest.mark.parametrize("rate", [8000, 16_000, 48_000])
def test_any_format_rate_and_channels_become_mono_at_16_khz(tmp_path, name, options, tolerance, rate):
    time = np.arange(rate) / rate
    wave = 0.4 * np.sin(2 * np.pi * 440 * time)
    soundfile.write(tmp_path / name, np.stack([wave, wave], axis=1), rate, **options)
    audio = read_audio(tmp_path / name)
    expected = 0.4 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    middle = slice(4000, 12_000)
    assert audio.dtype == np.float32
    assert abs(len(audio) - RATE) < RATE // 10
    if tolerance < 0.01:
        assert np.abs(audio[middle] - expected[middle]).max() < tolerance
    spectrum = np.abs(np.fft.rfft(audio[middle]))
    assert np.argmax(spectrum) * RATE / 8000 == pytest.approx(440, abs=4)
    assert info(tmp_path / name).channels == 2


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_an_ogg_that_ends_within_a_page_is_told(tmp_path, subtype):
    """libsndfile takes what is there for the whole."""
    noise = np.random.default_rng(0).normal(0, 0.1, 20 * RATE)
    soundfile.write(tmp_path / "whole.ogg", noise, RATE, format="OGG", subtype=subtype)
    whole = (tmp_path / "whole.ogg").read_bytes()
    pages = [at for at in range(len(whole)) if whole.startswith(b"OggS\0", at)]
    assert len(pages) > 4
    for at in range(5):
        cut = pages[-2] + (pages[-1] - pages[-2]) * at // 5 + 20 * (at == 0)
        (tmp_path / "cut.ogg").write_bytes(whole[:cut])
        for source in (tmp_path / "cut.ogg", whole[:cut]):
            with pytest.raises(DataError, match=r"damaged audio \(it ends within a page"):
                read_audio(source)
    # what a station sends, and somebody stops to listen to between two pages, is read as far as it goes
    (tmp_path / "cut.ogg").write_bytes(whole[: pages[-1]])
    assert 10 < len(read_audio(tmp_path / "cut.ogg")) / RATE < 20


def test_a_cut_is_what_stands_between_its_times(tmp_path):
    audio = tone(2.0)
    soundfile.write(tmp_path / "a.wav", audio, RATE, subtype="FLOAT")
    assert np.array_equal(read_audio(tmp_path / "a.wav", start_s=0.5, end_s=1.25), audio[8000:20_000])
    assert np.array_equal(read_audio(tmp_path / "a.wav", start_s=1.5), audio[24_000:])
    assert np.array_equal(read_audio((tmp_path / "a.wav").read_bytes()), audio)
    with pytest.raises(DataError, match="no audio between 3 and its end"):
        read_audio(tmp_path / "a.wav", start_s=3)


def test_files_that_are_no_audio(tmp_path):
    (tmp_path / "a.m4a").write_bytes(b"\0" * 64)
    with pytest.raises(DataError) as error:
        read_audio(tmp_path / "a.m4a")
    assert "not readable as audio" in error.value.message
    assert "convert it" in error.value.hint
    with pytest.raises(DataError, match="no such audio file"):
        read_audio(tmp_path / "b.wav")


# ---- effects ----


def power_db(audio):
    return 10 * np.log10(np.mean(np.asarray(audio, np.float64) ** 2))


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr", [0.0, 10.0, 25.0])
def test_noise_has_the_level_that_was_asked_for(snr, colour):
    audio = tone(1.0)
    noisy = effects.add_noise(audio, snr, np.random.default_rng(0), colour)
    assert power_db(audio) - power_db(noisy - audio) == pytest.approx(snr, abs=1e-3)


def test_speed_changes_length_and_pitch_alike():
    fast = effects.change_speed(tone(1.0, 400), 1.25)
    assert len(fast) == pytest.approx(RATE / 1.25, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast) == pytest.approx(500, abs=3)


def test_a_telephone_line_keeps_its_band_only():
    inside, below, above = (effects.telephone(tone(1.0, f, seed=1)) for f in (1000, 100, 5000))
    assert power_db(inside) - power_db(tone(1.0, 1000)) == pytest.approx(0, abs=1)
    assert power_db(below) < power_db(inside) - 25
    assert power_db(above) < power_db(inside) - 25


def test_reverberation_falls_by_sixty_decibels_in_its_time():
    click = np.zeros(RATE, np.float32)
    click[0] = 1.0
    tail = effects.reverberate(click, 0.5, np.random.default_rng(0), wet=1.0)
    early, late = power_db(tail[:400]), power_db(tail[7000:7400])
    assert early - late == pytest.approx(60 * 6800 / 8000, abs=3)
    assert np.all(tail[8000:] == pytest.approx(0, abs=1e-6))


@pytest.mark.parametrize("codec", effects.CODECS)
def test_codecs_keep_length_and_most_of_the_sound(codec):
    audio = tone(1.0, 300)
    coded = effects.through_codec(audio, codec)
    assert coded.shape == audio.shape
    assert not np.array_equal(coded, audio)
    spectrum = np.abs(np.fft.rfft(coded[2000:14_000]))
    assert np.argmax(spectrum) * RATE / 12_000 == pytest.approx(300, abs=3)


def test_mu_law_is_the_formula():
    x = np.linspace(-1, 1, 2001).astype(np.float32)
    assert np.abs(effects.mu_law(x) - x).max() < 0.023  # half a step at full scale
    assert np.abs(effects.mu_law(x[990:1010]) - x[990:1010]).max() < 4e-4


def test_silence_stays_silence():
    silence = np.zeros(1000, np.float32)
    assert np.array_equal(effects.add_noise(silence, 10, np.random.default_rng(0)), silence)
    assert np.array_equal(effects.change_gain(silence, 6), silence)


# ---- features ----


@pytest.fixture(scope="module")
def extractor():
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor.from_pretrained(BASE)


@pytest.mark.parametrize("seconds", [0.013, 0.5, 1.0, 7.77, 29.99, 30.0, 31.0])
def test_features_are_the_extractors_own_over_the_whole_window(extractor, seconds):
    audio = tone(seconds, seed=4)
    log_mel = LogMel(extractor)
    mine = log_mel.window([log_mel(audio)], 3000)
    theirs = extractor(audio, sampling_rate=RATE, return_tensors="pt").input_features
    assert mine.shape == theirs.shape == (1, 80, 3000)
    assert float((mine - theirs).abs().max()) < 2e-6


def test_short_audio_costs_little_room(extractor):
    assert LogMel(extractor)(tone(1.0)).shape == (80, 103)


def test_windows_are_filled_with_silence_or_with_zeros(extractor):
    log_mel = LogMel(extractor)
    features = log_mel(tone(0.5))
    batch = log_mel.window([features, features], 300, [False, True])
    assert float(batch[0, 0, -1]) == pytest.approx(float(features[0, -1]))
    assert float(batch[1, 0, 60:].abs().max()) == 0.0


def test_the_cache_is_keyed_by_content_and_settings(extractor, tmp_path, cache):
    _, rows = corpus(tmp_path, 2)
    log_mel = LogMel(extractor, Cache())
    path = rows[0].audio
    calls = []

    def load():
        calls.append(1)
        return read_audio(path)

    key = sound_key(rows[0])
    first = log_mel.cached(key, load)
    copy = tmp_path / "copy.flac"
    copy.write_bytes(path.read_bytes())
    same = sound_key(replace(rows[0], path=str(copy)))
    assert same == key
    assert np.array_equal(log_mel.cached(same, load), first)
    assert len(calls) == 1
    assert sound_key(replace(rows[0], start=0.1, end=0.2)) != key
    other = LogMel(type(extractor)(feature_size=128), Cache())
    assert other.cached(key, load).shape[0] == 128
    path.write_bytes(rows[1].audio.read_bytes())
    assert sound_key(rows[0]) != key


def test_the_cache_can_be_off(extractor, tmp_path, monkeypatch):
    monkeypatch.setenv("CHORUS_CACHE_LIMIT", "0")
    log_mel = LogMel(extractor, Cache())
    calls = []
    for _ in range(2):
        log_mel.cached("k", lambda: calls.append(1) or tone(0.1))
    assert len(calls) == 2
