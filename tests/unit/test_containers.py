"""Audio in MP4, WebM and the like: what PyAV reads, and what it is not let near."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.cli.main import run
from chorus.data.audio import RATE, info, read_audio
from chorus.data.containers import READERS, form_of
from chorus.errors import DataError
from sounds import tone

av: Any = pytest.importorskip("av", reason="PyAV is not installed")

FORMS = {  # suffix -> codec, writer, rate
    "m4a": ("aac", "mp4", 16_000), "mov": ("pcm_s16le", "mov", 16_000), "webm": ("libopus", "webm", 48_000),
    "mka": ("flac", "matroska", 16_000), "avi": ("pcm_s16le", "avi", 16_000), "aac": ("aac", "adts", 16_000),
    "wv": ("wavpack", "wv", 16_000), "flv": ("aac", "flv", 16_000), "ac3": ("ac3", "ac3", 48_000),
}  # fmt: skip


def written(path: Path, audio: np.ndarray, *, film: bool = False) -> Path:
    """The audio in the form that the suffix says; of a film beside a few grey pictures."""
    codec, form, rate = FORMS[path.suffix[1:]]
    with av.open(str(path), "w", format=form) as file:
        pictures = file.add_stream("mpeg4", rate=5) if film else None
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono"
        whole = av.AudioFrame.from_ndarray((audio[None] * 32767).astype(np.int16), format="s16", layout="mono")
        whole.sample_rate, whole.pts = RATE, 0
        shape = {"format": stream.format.name, "layout": "mono", "rate": rate}
        cut = av.AudioResampler(**shape, frame_size=stream.frame_size or 0)
        if pictures is not None:
            pictures.width, pictures.height = 32, 32
            for _ in range(5):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 99, np.uint8))
                file.mux(pictures.encode(picture))
            file.mux(pictures.encode(None))
        for frame in [*cut.resample(whole), *cut.resample(None)]:
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", FORMS)
def test_what_is_in_a_container_is_heard(suffix: str, tmp_path: Path) -> None:
    given = tone(2.0)
    path = written(tmp_path / f"a.{suffix}", given)
    heard = read_audio(path)
    assert heard.dtype == np.float32
    assert abs(len(heard) / RATE - 2.0) < 0.15, "encoders add some samples at either end"
    assert abs(info(path).duration_s - len(heard) / RATE) < 0.001
    at = np.abs(np.fft.rfft(heard[: 2 * RATE - 1600]))
    assert abs(np.argmax(at) * RATE / (2 * RATE - 1600) - 220) < 1, "the pitch"
    assert 0.2 < np.abs(heard[RATE // 2 : RATE]).max() < 0.4, "the level"
    assert np.array_equal(read_audio(path.read_bytes()), heard), "a cell of a dataset"


def test_lossless_sound_comes_back_and_parts_are_cut_from_it(tmp_path: Path) -> None:
    given = tone(3.0)
    path = written(tmp_path / "a.mka", given)
    whole = read_audio(path)
    assert np.abs(whole - given).max() < 1e-4
    assert np.array_equal(read_audio(path, start_s=1.0, end_s=1.5), whole[RATE : RATE + RATE // 2])
    assert np.array_equal(read_audio(path, start_s=2.5), whole[2 * RATE + RATE // 2 :])


def test_of_a_film_the_sound_is_heard(tmp_path: Path) -> None:
    given = tone(1.0)
    film = written(tmp_path / "a.avi", given, film=True)
    assert np.abs(read_audio(film) - given).max() < 1e-4


def test_a_film_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.avi"), "w") as file:
        pictures = file.add_stream("mpeg4", rate=5)
        pictures.width, pictures.height = 32, 32
        file.mux(pictures.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))))
        file.mux(pictures.encode(None))
    with pytest.raises(DataError, match=r"a\.avi: not readable as audio \(avi: no sound in it"):
        read_audio(tmp_path / "a.avi")


def test_why_a_container_is_not_read_is_told(tmp_path: Path) -> None:
    """Not that FFmpeg should convert it, which has just tried."""
    path = written(tmp_path / "a.m4a", tone(1.0))
    path.write_bytes(path.read_bytes()[:2_000])
    with pytest.raises(DataError, match=r"not readable as audio \(m4a: Invalid data found") as caught:
        read_audio(path)
    assert "ffmpeg" not in str(caught.value)


def test_what_unpacks_to_more_than_is_read_is_refused_before_it_is(tmp_path: Path, monkeypatch) -> None:
    """Two hours of silence take a few kilobytes in some codecs."""
    path = written(tmp_path / "a.mka", np.zeros(20 * RATE, np.float32))
    assert path.stat().st_size < 40_000
    monkeypatch.setattr("chorus.data.audio.LONGEST_S", 5.0)
    for read in (info, read_audio):
        with pytest.raises(DataError, match=r"more than 0\.00138889 h"):
            read(path)


@pytest.mark.parametrize("suffix", ["m4a", "webm", "mka", "avi", "aac", "flv", "wv"])
def test_damaged_containers_are_told_or_shorter_and_nothing_else(suffix: str, tmp_path: Path) -> None:
    whole = written(tmp_path / f"whole.{suffix}", tone(2.0)).read_bytes()
    path = tmp_path / f"a.{suffix}"
    told = 0
    rng = np.random.default_rng(0)
    for cut in [len(whole) * n // 10 for n in range(1, 10)]:
        path.write_bytes(whole[:cut])
        told += refused(path)
        noisy = bytearray(whole)
        for place in rng.integers(12, len(whole), 20):
            noisy[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(noisy))
        told += refused(path)
    assert told or suffix in ("aac", "webm", "flv", "mka", "avi", "wv"), "an MP4's index stands at its end"


@pytest.mark.parametrize("suffix", ["webm", "mka"])
def test_the_first_half_of_a_download_is_told(suffix: str, tmp_path: Path) -> None:
    """FFmpeg takes the end of a file for the end of its sound."""
    path = written(tmp_path / f"a.{suffix}", tone(6.0))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"damaged audio \(it ends after \d\.\d of 6\.\d s\)"):
        read_audio(path)


def test_what_does_not_tell_its_length_is_read_to_its_end(tmp_path: Path) -> None:
    """What a browser records live has no length in its header."""
    path = written(tmp_path / "a.mka", tone(6.0))
    raw = path.read_bytes()
    at = raw.index(b"\x44\x89")  # the element of the duration: made an empty one (void) of the same size
    half = raw[: len(raw) // 2].replace(raw[at : at + 11], b"\xec\x89" + bytes(9))
    path.write_bytes(half)
    assert 2 < len(read_audio(path)) / RATE < 4


def refused(path: Path) -> bool:
    try:
        heard = read_audio(path)
    except DataError:
        return True
    assert np.isfinite(heard).all()
    return False


def test_playlists_open_nothing(tmp_path: Path) -> None:
    """FFmpeg's readers of playlists would open what their lines name, here or on the network."""
    written(tmp_path / "secret.m4a", tone(1.0))
    lists = {
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nsecret.m4a\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile secret.m4a\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nm=audio 5004 RTP/AVP 0\n",
    }
    for name, text in lists.items():
        for suffix in ("m4a", "webm", "m3u8"):
            path = tmp_path / f"{name}.{suffix}"
            path.write_text(text)
            with pytest.raises(DataError, match="not readable as audio"):
                read_audio(path)


def test_no_reader_of_lists_is_ever_chosen() -> None:
    names = {reader for _, reader in READERS.values()}
    assert names.isdisjoint({"hls", "concat", "dash", "sdp", "rtsp", "applehttp", "lavfi", "image2", "tee"})
    assert len(names) == 12
    assert all(form_of(b"\0" * place + magic) for place, magic in READERS)
    assert form_of(b"RIFF....WAVE") == form_of(b"") == form_of(b"fLaC") == ""


def test_without_pyav_the_remedy_is_named_as_before(tmp_path: Path, monkeypatch) -> None:
    path = written(tmp_path / "a.m4a", tone(1.0))
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(DataError, match="m4a, to be converted by ffmpeg"):
        read_audio(path)


def test_a_manifest_of_containers_is_checked(tmp_path: Path, capsys) -> None:
    written(tmp_path / "a.m4a", tone(1.0))
    (tmp_path / "m.csv").write_text("path,text,language\na.m4a,one,en\n")
    assert run(["data", "check", str(tmp_path / "m.csv"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []
