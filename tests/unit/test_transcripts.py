"""Transcripts as files: formats against openai-whisper's own writers, names, marks; Whisper's timestamps and words."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.data.manifest import Row
from chorus.errors import DataError, OutputError, UsageError
from chorus.models.times import Segment, Word, as_plain, from_plain
from chorus.transcribe.backends.hearing import asked_language, hypothesis_of
from chorus.transcribe.backends.messages import hypotheses_of, told_hypotheses
from chorus.transcribe.backends.protocol import Hypothesis
from chorus.transcribe.backends.whisper_times import by_timestamps, focused, path_starts
from chorus.transcribe.backends.words import with_marks
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.formats import FORMATS, Subtitles, clock
from chorus.transcribe.listening import Transcription
from chorus.transcribe.naming import hub_name, is_recording
from chorus.transcribe.recordings import Recording, recordings, stems, with_stdin
from chorus.transcribe.side_by_side import marked, side_by_side
from chorus.transcribe.writing import Writing

SEGMENTS = (
    Segment(0.0, 2.5, "One --> two"), Segment(2.5, 61.04, "three\tfour"), Segment(3661.9996, 3662.0004, "Fünf, 六.")
)  # fmt: skip
SPOKEN = (
    Segment(0.0, 1.0, "We have", (Word(0.0, 0.4, " We", 0.9), Word(0.4, 1.0, " have", 0.8))),
    Segment(5.0, 7.0, "four cards.", (Word(5.0, 5.5, " four", 0.7), Word(5.75, 7.0, " cards.", 0.6))),
)


def heard(*segments: Segment) -> Transcription:
    return Transcription("a.wav", " ".join(s.text for s in segments), "en", 70.0, segments)


# ---- formats ----


def test_subtitles_and_tables_as_they_are_written_by_hand() -> None:
    """What openai-whisper 20250625 writes of the same segments, whether it is installed or not."""
    plain = Subtitles()
    assert FORMATS["srt"](heard(*SEGMENTS), plain) == (
        "1\n00:00:00,000 --> 00:00:02,500\nOne -> two\n\n2\n00:00:02,500 --> 00:01:01,040\nthree\tfour\n\n"
        "3\n01:01:02,000 --> 01:01:02,000\nFünf, 六.\n\n"
    )
    assert FORMATS["vtt"](heard(*SEGMENTS), plain) == (
        "WEBVTT\n\n00:00.000 --> 00:02.500\nOne -> two\n\n00:02.500 --> 01:01.040\nthree\tfour\n\n"
        "01:01:02.000 --> 01:01:02.000\nFünf, 六.\n\n"
    )
    assert FORMATS["tsv"](heard(*SEGMENTS), plain) == (
        "start\tend\ttext\n0\t2500\tOne --> two\n2500\t61040\tthree four\n3662000\t3662000\tFünf, 六.\n"
    )
    assert FORMATS["txt"](heard(*SEGMENTS), plain) == "One --> two\nthree\tfour\nFünf, 六.\n"


def test_words_are_laid_out_and_underlined() -> None:
    filled = FORMATS["srt"](heard(*SPOKEN), Subtitles(line_width=7, lines=2))
    assert filled == "1\n00:00:00,000 --> 00:00:01,000\nWe have\n\n2\n00:00:05,000 --> 00:00:07,000\nfour\ncards.\n\n"
    marked_words = FORMATS["vtt"](heard(SPOKEN[1]), Subtitles(highlight=True))
    assert "<u>four</u> cards." in marked_words
    assert "00:05.500 --> 00:05.750\nfour cards." in marked_words, "between two words none is underlined"


def test_json_has_whispers_keys_and_what_is_not_known_is_left_out() -> None:
    told = json.loads(FORMATS["json"](heard(*SPOKEN), Subtitles()))
    assert told["text"] == "We have four cards."
    assert told["language"] == "en"
    assert told["segments"][1]["words"][0] == {"word": " four", "start": 5.0, "end": 5.5, "probability": 0.7}
    quiet = Transcription("a.wav", segments=(Segment(0, 1, "x", (Word(0, 1, " x"),)),), failed="why")
    assert json.loads(FORMATS["json"](quiet, Subtitles()))["failed"] == "why"
    assert "probability" not in FORMATS["json"](quiet, Subtitles())
    assert "words" not in FORMATS["json"](heard(*SEGMENTS), Subtitles())


def test_silence_makes_empty_files() -> None:
    written = {form: write(heard(), Subtitles()) for form, write in FORMATS.items()}
    assert (written["txt"], written["srt"], written["vtt"]) == ("", "", "WEBVTT\n\n")
    assert written["tsv"] == "start\tend\ttext\n"
    assert json.loads(written["json"])["segments"] == []


def test_a_line_break_in_a_text_breaks_no_file() -> None:
    """A speech LLM writes them; an empty line would end a subtitle."""
    one = heard(Segment(0.0, 1.0, "first\n\nsecond\u2028third"))
    assert [len(FORMATS[form](one, Subtitles()).splitlines()) for form in ("txt", "tsv", "srt", "vtt")] == [1, 2, 4, 5]


words_strategy = st.lists(
    st.sampled_from([" a", " word", ",", " longer-word", "字", " it's."]), min_size=1, max_size=12
)
gaps = st.sampled_from([0.0, 0.1, 0.26, 1.0, 3.5])


@st.composite
def spoken(draw: st.DrawFn) -> tuple[Segment, ...]:
    """Segments with words, now and then a pause between them."""
    now, found = draw(gaps), []
    for texts in draw(st.lists(words_strategy, min_size=1, max_size=5)):
        words = []
        for text in texts:
            start = round(now + draw(gaps), 3)
            now = round(start + draw(gaps), 3)
            words.append(Word(start, now, text, 0.5))
        found.append(Segment(words[0].start, words[-1].end, "".join(texts).strip(), tuple(words)))
    return tuple(found)


limits = st.one_of(st.none(), st.integers(1, 12))


@settings(max_examples=200, deadline=None)
@given(spoken(), limits, limits, limits, st.booleans(), st.booleans())
def test_every_layout_is_openai_whispers(
    segments: tuple[Segment, ...], width: int | None, lines: int | None, per: int | None, highlight: bool, words: bool
) -> None:
    theirs = pytest.importorskip("whisper.utils", reason="openai-whisper is not installed")
    kept = segments if words else tuple(Segment(s.start, s.end, s.text) for s in segments)
    told: dict[str, Any] = {"segments": [
        {"start": s.start, "end": s.end, "text": f" {s.text}"}
        | ({"words": [{"word": w.text, "start": w.start, "end": w.end} for w in s.words]} if words else {})
        for s in kept
    ]}  # fmt: skip
    for form in ("txt", "srt", "vtt", "tsv"):
        file = io.StringIO()
        asked = {"max_line_width": width, "max_line_count": lines, "max_words_per_line": per}
        theirs.get_writer(form, ".").write_result(told, file, options={**asked, "highlight_words": highlight})
        assert FORMATS[form](heard(*kept), Subtitles(width, lines, per, highlight)) == file.getvalue(), form


@given(st.floats(0, 400_000))
def test_clocks_are_read_back(seconds: float) -> None:
    for shown in (clock(seconds, hours=True), clock(seconds)):
        parts = [float(part) for part in shown.split(":")]
        assert math.isclose(sum(p * 60**i for i, p in enumerate(reversed(parts))), seconds, abs_tol=0.00051)


# ---- times ----


def test_segments_pass_between_processes_and_move_in_their_recording() -> None:
    assert from_plain(json.loads(json.dumps(as_plain(SPOKEN)))) == SPOKEN
    one = Hypothesis("We have", "en", False, SPOKEN)
    assert hypotheses_of(json.loads(json.dumps(told_hypotheses([one])))) == [one]
    moved = SPOKEN[0].later(30.0)
    assert (moved.start, moved.end, moved.words[1].start) == (30.0, 31.0, 30.4)


def told_by_a_runtime(start: float, end: float, text: str, tokens: int, seek: int = 0, **more: Any) -> dict[str, Any]:
    return {"start": start, "end": end, "text": text, "tokens": list(range(tokens)), "seek": seek, **more}


def test_segments_of_other_runtimes_are_within_their_sound() -> None:
    """Their windows go on to the thirtieth second, and a word may begin before the first sample."""
    word = {"start": -0.02, "end": 31.0, "word": " one", "probability": 0.56789}
    made = [told_by_a_runtime(0.0, 30.0, " one ", 2, words=[word]), told_by_a_runtime(1.0, 2.0, " ", 1, words=None)]
    asked = {"seconds": 1.5, "limit": 9}
    found = hypothesis_of(" one ", "en", made, **asked, told=True)
    assert found == Hypothesis("one", "en", False, (Segment(0.0, 1.5, "one", (Word(0.0, 1.5, " one", 0.5679),)),))
    assert hypothesis_of(" one ", "en", made, **asked, told=False).segments == ()


@pytest.mark.parametrize(("seeks", "limit", "cut"), [((0, 0), 6, True), ((0, 0), 7, False), ((0, 3000), 6, False)])
def test_a_window_with_as_many_tokens_as_it_may_have_was_cut(seeks: tuple[int, int], limit: int, cut: bool) -> None:
    made = [told_by_a_runtime(0.0, 1.0, "x", 3, seek) for seek in seeks]
    assert hypothesis_of("x", "en", made, seconds=40.0, limit=limit, told=False).cut is cut


def test_a_language_is_asked_for_where_there_is_a_choice() -> None:
    row, known = Row("a.wav", language="Portuguese"), ["en", "pt"]
    assert asked_language(Decoding(), row, known) == "pt"
    assert asked_language(Decoding(language="English"), row, known) == "en"
    assert asked_language(Decoding(language="detect"), row, known) == ""
    assert asked_language(Decoding(), Row("a.wav"), ()) == "", "a model for English alone is asked for nothing"
    for wrong in (Row("a.wav"), Row("a.wav", language="xx")):
        with pytest.raises(DataError, match=r"a\.wav: (no language|the tokenizer knows no language)"):
            asked_language(Decoding(), wrong, known)


def test_what_evaluation_keeps_of_a_decoding_has_no_detail() -> None:
    """Fingerprints and summaries of results that were made before are those of today."""
    assert "detail" not in Decoding().model_dump()
    assert "detail" not in Decoding(timestamps=True).model_dump(mode="json")
    kept = Decoding(detail="words")
    assert Decoding.model_validate(kept.model_dump(mode="json")) == kept


def test_timestamps_of_a_window_are_segments() -> None:
    end, none = 100, 102  # 103 is 0.00
    assert by_timestamps([103, 1, 2, 153, 153, 3, 203, 100, 9], end, none, 30.0) == [
        (0.0, 1.0, (1, 2)), (1.0, 2.0, (3,))
    ]  # fmt: skip
    assert by_timestamps([1, 2, 3], end, none, 4.0) == [(0.0, 4.0, (1, 2, 3))], "none at all"
    assert by_timestamps([113, 1, 1603], end, none, 4.0) == [(0.2, 4.0, (1,))], "beyond the sound"
    assert by_timestamps([203, 1, 153], end, none, 9.0) == [(2.0, 2.0, (1,))], "backwards"
    assert by_timestamps([103, 203], end, none, 9.0) == []
    assert by_timestamps([], end, none, 9.0) == []


def best_path(cost: np.ndarray[Any, Any]) -> float:
    """The least cost by trying every step, for comparison."""
    rows, columns = cost.shape
    found: dict[tuple[int, int], float] = {}
    for i in range(rows):
        for j in range(columns):
            before = [found[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if (a, b) in found]
            found[i, j] = cost[i, j] + (min(before) if before else 0.0)
    return found[rows - 1, columns - 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 7), st.integers(0, 10**6))
def test_the_path_of_least_cost_is_found(rows: int, columns: int, seed: int) -> None:
    cost = np.random.default_rng(seed).normal(size=(rows, columns))
    starts = path_starts(cost)
    assert starts[0] == 0
    assert starts == sorted(starts)
    # a token lasts until the next begins, and the frame between may be both's
    options = []
    for overlap in np.ndindex(*(2,) * (rows - 1)):
        ends = [starts[i + 1] - 1 + overlap[i] for i in range(rows - 1)] + [columns - 1]
        if all(b >= a for a, b in zip(starts, ends, strict=True)):
            options.append(sum(cost[i, a : b + 1].sum() for i, (a, b) in enumerate(zip(starts, ends, strict=True))))
    assert any(math.isclose(one, best_path(cost), abs_tol=1e-9) for one in options)


def test_heads_that_look_along_a_diagonal_are_followed() -> None:
    frames = np.arange(40)
    looked = np.stack([np.exp(-0.5 * ((frames - 10 * token) / 2.0) ** 2) + 1e-4 for token in range(4)])
    starts = path_starts(-focused(np.stack([looked, looked])))
    assert np.allclose(starts, [0, 5, 15, 25], atol=3)


def test_marks_go_with_their_words() -> None:
    told = [Word(0, 1, ' "'), Word(1, 2, " Yes"), Word(2, 3, ","), Word(3, 4, " he"), Word(4, 5, ' "')]
    assert [(w.text, w.start, w.end) for w in with_marks(told)] == [(' " Yes,', 1, 2), (' he "', 3, 4)]
    assert with_marks([]) == []


# ---- names ----


def test_models_and_recordings_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model/config.json", "adapter/adapter_config.json", "ct2/model.bin", "talks/a.mp3", "noise", "r.yml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    audio = ["-", "talks", "talks/a.mp3", "missing.M4A", "noise"]
    models = [
        "model",
        "adapter",
        "ct2",
        "r.yml",
        "openai/whisper-tiny",
        "base+tuned.wav",
        "missing",
        "me=model",
        "x.pt",
    ]
    assert [name for name in [*audio, *models] if is_recording(name)] == audio


def test_whispers_names_are_the_hubs_where_nothing_here_is_called_so(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert hub_name("large") == "openai/whisper-large-v3"
    assert hub_name("large-v1") == "openai/whisper-large"
    assert hub_name("tiny.en") == "openai/whisper-tiny.en"
    (tmp_path / "tiny.en").mkdir()
    assert hub_name("tiny.en") == "tiny.en"


def test_every_file_is_heard_once_and_folders_in_order(tmp_path: Path) -> None:
    for name in ("b/2.wav", "b/1.MP3", "b/c/3.m4a", "b/.hidden.wav", "b/notes.txt", "a.flac"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "again.flac").symlink_to(tmp_path / "a.flac")
    found = recordings([tmp_path / "a.flac", tmp_path / "b", tmp_path / "b" / "2.wav", tmp_path / "again.flac"])
    assert [one.path.name for one in found] == ["a.flac", "1.MP3", "2.wav", "3.m4a"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no recordings below it"):
        recordings([tmp_path / "empty"])


def test_standard_input_is_a_file_as_long_as_it_is_needed(tmp_path, monkeypatch) -> None:
    with with_stdin(["x.wav", "-", "y.wav"], lambda: io.BytesIO(b"sound")) as found:
        assert [one.name for one in found] == ["x.wav", "stdin", "y.wav"]
        kept = found[1].path
        assert kept.read_bytes() == b"sound"
    assert not kept.exists()
    for given_names, stream, told in ((["-", "-"], b"x", "twice"), (["-"], b"", "nothing in it")):
        with (
            pytest.raises((UsageError, DataError), match=told),
            with_stdin(given_names, lambda s=stream: io.BytesIO(s)),
        ):
            pass
    monkeypatch.setattr("chorus.transcribe.recordings.MOST_BYTES", 3)
    with pytest.raises(DataError, match="more than 3 bytes"), with_stdin(["-"], lambda: io.BytesIO(b"four")):
        pass


@given(st.lists(st.sampled_from(["a/x.wav", "a/X.mp3", "b/x.wav", "c/a/x.wav", "x.flac", "b/y.wav", "a-x.wav"])))
def test_transcripts_have_names_of_their_own(paths: list[str]) -> None:
    names = stems([Recording(path, Path(path)) for path in paths])
    assert len({name.casefold() for name in names}) == len(names) == len(paths)
    assert all(names)


def test_files_appear_whole_and_replace_nothing_unasked(tmp_path: Path) -> None:
    writing = Writing(tmp_path / "out", ["talk"], ["srt", "json"], Subtitles())
    writing.check("base")
    places = list(writing.write("base", 0, heard(*SEGMENTS)))
    assert [p.name for p in places] == ["talk.srt", "talk.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["talk.json", "talk.srt"]
    with pytest.raises(OutputError, match=r"talk\.srt: exists"):
        writing.check("base")
    again = Writing(tmp_path / "out", ["talk"], ["srt"], Subtitles(), overwrite=True, several=False)
    again.check("base")
    assert [p.read_text() for p in again.write("base", 0, heard())] == [""]
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="no folder"):
        Writing(tmp_path / "file", ["talk"], ["srt"], Subtitles()).check("base")
    (tmp_path / "out" / "talk.vtt").symlink_to(tmp_path / "file")
    with pytest.raises(OutputError, match="link or no file"):
        list(Writing(tmp_path / "out", ["talk"], ["vtt"], Subtitles(), overwrite=True).write("base", 0, heard()))
    several = Writing(tmp_path / "out", ["talk"], ["txt"], Subtitles(), several=True)
    assert several.places("my/model", 0)["txt"] == tmp_path / "out" / "my--model" / "talk.txt"


# ---- side by side ----


def test_differences_are_marked_and_counted() -> None:
    assert marked("We have four cards.", "we had four new cards") == ("we [-have-]{+had+} four {+new+} cards", 2)
    assert marked("a b", "a b c") == ("a b {+c+}", 1)
    assert marked("a b", "") == ("[-a b-]", 2)
    assert marked("", "") == ("", 0)
    assert marked("今日は", "今日わ", "characters") == ("今日[-は-]{+わ+}", 1)
    assert marked("yes - no", "yes ... no") == ("yes [---]{+...+} no", 1), "marks by themselves are compared"


@settings(max_examples=100)
@given(*[st.lists(st.sampled_from(["a", "B.", "c", "éé"]), max_size=8) for _ in range(2)])
def test_what_is_marked_gives_back_both_texts(first: list[str], second: list[str]) -> None:
    text, count = marked(" ".join(first), " ".join(second))
    without = re.sub(r"\[-(.*?)-\]", " ", text)
    assert re.sub(r"[{+}]", " ", without).split() == second
    without = re.sub(r"\{\+(.*?)\+\}", " ", text)
    assert re.sub(r"\[-|-\]", " ", without).split() == first
    assert (count == 0) == (first == second)


def test_a_table_shows_every_model_below_the_first() -> None:
    told = side_by_side({
        "base": [heard(*SPOKEN), Transcription("b.wav", failed="damaged")],
        "tuned": [Transcription("a.wav", "we had four cards", "en"), Transcription("b.wav", "x")],
    })  # fmt: skip
    assert [row[:3] for row in told.rows] == [
        ["a.wav", "base", ""], ["a.wav", "tuned", "1"], ["b.wav", "base", ""], ["b.wav", "tuned", "-"]
    ]  # fmt: skip
    assert told.rows[2][3] == "failed: damaged"
