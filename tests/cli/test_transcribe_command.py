"""chorus transcribe as sentences, on a runtime that tells how long each sound is."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile

import chorus
from chorus.cli.main import run
from chorus.data.audio import write_flac
from chorus.data.manifest import Row
from chorus.errors import CheckpointError, DataError
from chorus.models.times import Segment, Word
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System
from sounds import BASE, tone


class Hours:
    """A runtime that says of each sound how many tenths of a second it has, and when."""

    longest_s: float | None = 30.0
    long_form = True
    facts: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, system: System, decoding: Decoding, asked: list[Decoding]) -> None:
        self.system, self.decoding = system, decoding
        asked.append(decoding)

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        pass

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [self._one(sound) for sound in sounds]

    def _one(self, sound: Sound) -> Hypothesis:
        assert self.decoding.detail != "text", "transcribing asks for times"
        text = f"{self.system.label} heard {round(10 * sound.seconds)} tenths"
        if not np.any(sound.audio):
            return Hypothesis("", "en")
        if not self.decoding.timestamps:
            return Hypothesis(text, "en")
        words = tuple(Word(i / 10, (i + 1) / 10, f" {w}", 0.5) for i, w in enumerate(text.split()))
        return Hypothesis(text, "en", segments=(Segment(0.0, 0.5, text, words * (self.decoding.detail == "words")),))

    def replace(self, tensors: object) -> None:
        raise CheckpointError("no other weights", "load it anew")

    def close(self) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Decoding]:
    """What was asked of the runtime `hours`."""
    found: list[Decoding] = []
    BACKENDS.names()
    monkeypatch.setitem(BACKENDS._items, "hours", lambda system, decoding, device: Hours(system, decoding, found))
    return found


@pytest.fixture
def talks(tmp_path: Path) -> Path:
    """Two recordings in two folders, of one name, and one that is damaged."""
    for name, seconds in (("mon/talk.flac", 1.0), ("tue/talk.flac", 1.5)):
        write_flac(tmp_path / "talks" / name, tone(seconds))
    return tmp_path / "talks"


def transcribe(*line: object) -> int:
    return run(["transcribe", *map(str, line), "--backend", "hours", "--device", "cpu"])


def test_one_recording_is_its_text_alone(asked, talks, capsys):
    assert transcribe(BASE, talks / "mon" / "talk.flac") == 0
    assert capsys.readouterr().out == "base heard 10 tenths\n"
    assert [(one.language, one.timestamps, one.detail) for one in asked] == [("detect", False, "segments")]


def test_several_recordings_are_told_apart_on_standard_output(asked, talks, capsys):
    assert transcribe(BASE, talks, "-q") == 0
    first, second = talks / "mon" / "talk.flac", talks / "tue" / "talk.flac"
    told = capsys.readouterr()
    assert told.out == f"==> {first} <==\nbase heard 10 tenths\n\n==> {second} <==\nbase heard 15 tenths\n"
    assert told.err == ""


def test_subtitles_are_decoded_with_timestamps_and_files_have_their_recordings_names(asked, talks, tmp_path, capsys):
    assert transcribe(BASE, talks, "-f", "srt,vtt", "-o", tmp_path / "out") == 0
    assert asked[0].timestamps
    found = {p.name: p.read_text() for p in (tmp_path / "out").iterdir()}
    assert sorted(found) == ["mon-talk.flac.srt", "mon-talk.flac.vtt", "tue-talk.flac.srt", "tue-talk.flac.vtt"]
    assert found["mon-talk.flac.srt"] == "1\n00:00:00,000 --> 00:00:00,500\nbase heard 10 tenths\n\n"
    told = capsys.readouterr()
    assert told.out == ""
    assert "mon-talk.flac.srt" in told.err


def test_what_is_there_is_not_replaced_unasked_and_nothing_is_decoded_for_it(asked, talks, tmp_path, capsys):
    line = (BASE, talks / "mon" / "talk.flac", "-o", tmp_path / "out")
    assert transcribe(*line) == 0
    (tmp_path / "out" / "talk.txt").write_text("mine")
    assert transcribe(*line) == 4
    assert "talk.txt: exists" in capsys.readouterr().err
    assert len(asked) == 1
    assert (tmp_path / "out" / "talk.txt").read_text() == "mine"
    assert transcribe(*line, "--overwrite") == 0
    assert (tmp_path / "out" / "talk.txt").read_text() == "base heard 10 tenths\n"


def test_a_place_that_takes_no_files_is_told_before_anything_is_decoded(asked, talks, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert transcribe(BASE, talks, "-o", tmp_path / "file" / "below") == 4
    told = capsys.readouterr().err
    assert str(tmp_path / "file" / "below") in told
    assert "choose another output directory" in told
    assert asked == []


def test_names_of_files_steer_no_terminal(asked, talks, tmp_path, capsys):
    (talks / "mon" / "talk.flac").rename(talks / "mon" / "a\x1b[2Jb.flac")
    assert transcribe(BASE, talks / "mon", "-o", tmp_path / "out") == 0
    assert transcribe(BASE, talks) == 0
    told = capsys.readouterr()
    assert "a\\x1b[2Jb.txt" in told.err
    assert "\x1b" not in told.out + told.err


@pytest.mark.parametrize(("name", "near"), [("Klingon", 'did you mean "lingala"?'), ("of the hills", "")])
def test_a_language_that_there_is_not_is_refused_before_anything_is_heard(asked, talks, capsys, name, near):
    """By a model that takes any, and has none to choose from."""
    assert transcribe(BASE, talks, "--language", name) == 2
    told = capsys.readouterr()
    assert f'unknown language "{name}"' in told.err
    assert near in told.err
    assert not told.out
    assert not asked
    assert transcribe(BASE, talks, "--language", "umb") == 0, "a code of a language that the table lacks"


def test_a_language_that_a_model_cannot_be_asked_for_is_told_once(asked, talks, capsys):
    """The runtime of these tests hears English alone."""
    assert transcribe(BASE, talks, "--language", "Portuguese") == 0
    assert capsys.readouterr().err.count("--language pt has no effect") == 1
    for language in ("en", "English", "detect"):
        assert transcribe(BASE, talks, "--language", language) == 0
    assert "no effect" not in capsys.readouterr().err


def test_standard_input_is_heard(asked, talks, capsys, monkeypatch):
    data = (talks / "tue" / "talk.flac").read_bytes()
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(data), isatty=lambda: False))
    assert transcribe(BASE, "-", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["text"], told["seconds"]) == ("stdin", "base heard 15 tenths", 1.5)
    assert told["segments"] == [{"id": 0, "start": 0.0, "end": 1.5, "text": "base heard 15 tenths"}]


def test_a_damaged_file_among_good_ones_is_told_and_the_others_go_on(asked, talks, capsys):
    whole = (talks / "mon" / "talk.flac").read_bytes()
    (talks / "a.flac").write_bytes(b"not audio at all")
    (talks / "b.flac").write_bytes(whole[: len(whole) // 2])
    (talks / "c.flac").write_bytes(b"")
    soundfile.write(talks / "d.wav", np.zeros(0, np.float32), 16_000)
    assert transcribe(BASE, talks, "nowhere.wav", "--json") == 1
    told = capsys.readouterr()
    heard = {Path(one["name"]).name: one for one in json.loads(told.out)}
    assert len(heard) == 6, "two talks are called alike"
    assert [name for name, one in heard.items() if "failed" in one] == [
        "a.flac",
        "b.flac",
        "c.flac",
        "d.wav",
        "nowhere.wav",
    ]
    for reason in ("not readable as audio", "damaged audio", "an empty file", "no audio there", "no such audio file"):
        assert reason in told.err
    assert "5 of 7 transcripts failed" in told.err
    assert f"base: {talks / 'a.flac'}: not readable" in told.err, "named once"


def test_where_nothing_can_be_read_no_model_is_loaded(asked, talks, capsys):
    assert transcribe(BASE, "nowhere.wav") == 4
    assert "nowhere.wav: no such audio file" in capsys.readouterr().err
    assert asked == []


def test_silence_is_no_text_and_no_failure(asked, tmp_path, capsys):
    write_flac(tmp_path / "quiet.wav.flac", np.zeros(8_000, np.float32))
    assert transcribe(BASE, tmp_path / "quiet.wav.flac", "-f", "srt") == 0
    assert capsys.readouterr().out == ""


def test_several_models_are_side_by_side_with_their_differences(asked, talks, tmp_path, capsys):
    line = (f"one={BASE}", f"two={BASE}", talks / "mon" / "talk.flac")
    assert transcribe(*line, "-q") == 0
    told = capsys.readouterr().out
    assert "one heard 10 tenths" in told
    assert "[-one-]{+two+} heard 10 tenths" in told
    assert transcribe(*line, "--json", "-q") == 0
    assert [one["model"] for one in json.loads(capsys.readouterr().out)] == ["one", "two"]
    assert transcribe(*line, "-o", tmp_path / "out", "-f", "tsv", "-q") == 0
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.tsv")) == [
        "one/talk.tsv", "two/talk.tsv"
    ]  # fmt: skip
    assert "what each model heard" in capsys.readouterr().out


def test_the_flags_of_whisper_are_understood_and_what_means_nothing_is_named_once(asked, talks, tmp_path, capsys):
    line = [
        "transcribe", talks / "mon" / "talk.flac", "--model", BASE, "--backend", "hours", "--language", "Portuguese",
        "--output_format", "srt", "--output_dir", tmp_path / "out", "--task", "translate", "--word_timestamps", "True",
        "--initial_prompt", "Dear all,", "--device", "cpu", "--fp16", "False", "--beam_size", "5", "--temperature", "0",
        "--best_of", "5", "--condition_on_previous_text", "False", "--logprob_threshold", "-1.0", "--threads", "4",
        "--max_line_width", "9", "--highlight_words", "False", "--verbose", "True",
    ]  # fmt: skip
    assert run([*map(str, line)]) == 0
    told = capsys.readouterr().err
    assert told.count("without effect here") == 1
    for name in ("--best_of 5", "--logprob_threshold -1.0", "--threads 4"):
        assert name in told
    for name in ("--temperature", "--condition_on", "--fp16", "--verbose", "--highlight"):
        assert name not in told
    (settings,) = asked
    assert (settings.task, settings.beam, settings.prompt, settings.language) == ("st", 5, "Dear all,", "Portuguese")
    assert settings.detail == "words"
    assert (tmp_path / "out" / "talk.srt").read_text().endswith("00:00:00,400\nbase\nheard 10\ntenths\n\n")


def test_none_leaves_a_flag_of_whisper_out(asked, talks, capsys):
    """Scripts give every flag a value, `--beam_size None` among them."""
    idle = ("--max_line_width", "--max_line_count", "--max_words_per_line", "--beam_size")
    assert transcribe(BASE, talks / "mon" / "talk.flac", *(word for name in idle for word in (name, "None"))) == 0
    assert asked[0].beam == 1
    assert transcribe(BASE, talks / "mon" / "talk.flac", "--beam_size", "0") == 2
    assert "--beam_size" in capsys.readouterr().err


def test_half_precision_is_whispers_on_a_gpu_alone(asked, talks, capsys):
    assert transcribe(BASE, talks / "mon" / "talk.flac", "--fp16", "True") == 0
    assert "--fp16 True" in capsys.readouterr().err
    assert asked[0].dtype == "float32"


def test_verbose_false_is_quiet(asked, talks, capsys):
    assert transcribe(BASE, talks / "mon" / "talk.flac", "--verbose", "False", "--best_of", "5") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (["BASE"], "no recording among"),
        (["TALK"], "no model among"),
        (["TALK"], "with --model all other names are recordings"),
        (["BASE", "TALK", "-f", "str"], 'unknown format "str"; did you mean "srt"'),
        (["BASE", "TALK", "-f", "srt,vtt"], "-o DIR"),
        (["BASE", "TALKS", "-f", "srt"], "--format srt of 2 recordings on one standard output"),
        (["a=BASE", "b=BASE", "TALK", "-f", "vtt"], "--format vtt of 2 models"),
        (["BASE", "BASE", "TALK"], 'two models are called "base"'),
        (["BASE", "TALK", "--max-line-width", "9"], "--max-line-width without the times of words"),
        (["BASE", "TALK", "--task", "transcrib"], 'did you mean "transcribe"'),
        (["BASE", "TALK", "--prompt", "<|endoftext|>"], "a special token"),
        (["BASE", "-", "-"], "standard input is named twice"),
        (["BASE", "EMPTY"], "no recordings below it"),
    ],
)
def test_what_is_wrong_with_a_line_is_told_before_anything_is_decoded(line, told, asked, talks, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    names = {"BASE": BASE, "TALK": talks / "mon" / "talk.flac", "TALKS": talks, "EMPTY": tmp_path / "empty"}
    given = [str(names.get(part, part)).replace("=BASE", f"={BASE}") for part in line]
    assert transcribe(*given) == 2
    assert told in capsys.readouterr().err
    assert asked == []


def test_from_python_a_list_comes_back_in_the_order_of_the_files(asked, talks):
    files = [talks / "tue" / "talk.flac", talks / "mon" / "talk.flac"]
    heard = chorus.transcribe(
        BASE, files, backend="hours", device="cpu", words=True, decoding=Decoding(timestamps=True)
    )
    assert [one.text for one in heard] == ["base heard 15 tenths", "base heard 10 tenths"]
    assert [word.text for word in heard[0].segments[0].words][:2] == [" base", " heard"]
    assert [one.name for one in heard] == [str(file) for file in files]
    with pytest.raises(DataError, match=r"no recording could be transcribed: nowhere\.wav"):
        chorus.transcribe(BASE, "nowhere.wav", backend="hours", device="cpu")
    with pytest.raises(DataError, match="no recording to transcribe"):
        chorus.transcribe(BASE, [], backend="hours", device="cpu")


def test_help_imports_no_model_library(tmp_path):
    code = "import sys; from chorus.cli.main import run; run(['transcribe', '-h']); print('torch' in sys.modules)"
    done: Any = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")
