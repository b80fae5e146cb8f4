"""A request's fingerprint, its partial file, what is read ahead, batches, rows; and a runtime's child by itself."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chorus.data.audio import RATE, write_flac
from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError, DataError, MissingExtraError, UsageError
from chorus.tasks.scored import Answer
from chorus.transcribe.backends.messages import error_of, row_of, told_error, told_row
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.backends.worker import Worker
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.partial import PARTIAL, Partial
from chorus.transcribe.request import Request
from chorus.transcribe.sounds import Sounds
from chorus.transcribe.systems import System
from chorus.transcribe.test_sets import TestSet, of_rows
from chorus.transcribe.transcriber import Decoder, Transcriber, carefully
from sounds import tone


class Lengths:
    """A backend that tells how long each sound is; `window_s` groups its batches."""

    long_form = False
    facts: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *, longest_s: float | None = 30.0, window_s: float = 1.0, bad: Sequence[str] = ()) -> None:
        self.longest_s, self.window_s, self.bad = longest_s, window_s, set(bad)
        self.batches: list[list[float]] = []
        self.closed = False

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (seconds // self.window_s, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        if any(row.language == "xx" for row in rows):
            raise DataError("no such language", "name another")

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        self.batches.append([round(sound.seconds, 2) for sound in sounds])
        if any(sound.row.text in self.bad for sound in sounds):
            raise RuntimeError("confused")
        return [Hypothesis(f"{sound.seconds:.1f}", "en") for sound in sounds]

    def replace(self, tensors: object) -> None:
        raise CheckpointError("no weights", "load it anew")

    def close(self) -> None:
        self.closed = True


SYSTEM = System("lengths", "model", Path(), "identity")


def spoken(place: Path, seconds: Sequence[float], **more: Any) -> TestSet:
    """A recording of each length."""
    rows = []
    for i, length in enumerate(seconds):
        write_flac(place / f"{i}.flac", tone(length, seed=i))
        rows.append(Row(f"{i}.flac", f"text {i}", "en", speaker="ana", root=place, **more))
    return of_rows(rows)


def transcribed(request: Request, place: Path, backend: Lengths) -> list[Answer]:
    partial = Partial(place, request.fingerprint)
    Transcriber(request, partial, backend).run(lambda done, total: None)
    partial.close()
    return [partial.rows[key] for key in request.keys]


# ---- requests ----


def test_a_fingerprint_sees_whatever_changes_hypotheses(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2, 0.3])
    asked = Request(SYSTEM, test)
    assert asked.fingerprint == Request(replace(SYSTEM, label="another name"), spoken(tmp_path, [0.2, 0.3])).fingerprint
    others = [
        replace(asked, system=replace(SYSTEM, identity="other")),
        replace(asked, test=spoken(tmp_path / "b", [0.2, 0.4])),
        replace(asked, decoding=Decoding(beam=2)),
        replace(asked, conditions=["telephone"]),
        replace(asked, backend="faster-whisper"),
        replace(asked, device="cuda"),
        replace(asked, test=spoken(tmp_path, [0.2, 0.3], extra={"prompt": "what?"})),
        replace(asked, decoding=Decoding(task="st")),
        replace(
            asked, decoding=Decoding(task="st"), test=spoken(tmp_path, [0.2, 0.3], extra={"target_language": "pt"})
        ),
    ]
    assert len({asked.fingerprint, *(one.fingerprint for one in others)}) == 10
    assert replace(asked, device="cuda:1").fingerprint == replace(asked, device="cuda").fingerprint


# ---- the partial file ----


def answer(name: str) -> Answer:
    return {"name": name, "condition": "clean", "reference": "a", "hypothesis": "b"}


def test_whole_lines_of_the_same_request_are_kept(tmp_path: Path) -> None:
    first = Partial(tmp_path, "f")
    first.add([answer("one"), answer("two")])
    first.close()
    with (tmp_path / PARTIAL).open("a") as file:
        file.write('{"name": "torn')
    again = Partial(tmp_path, "f")
    again.close()
    assert set(again.rows) == {("one", "clean"), ("two", "clean")}
    assert "torn" not in (tmp_path / PARTIAL).read_text()
    other = Partial(tmp_path, "g")
    other.close()
    assert other.rows == {}
    assert json.loads((tmp_path / PARTIAL).read_text()) == {"of": "g"}


def test_a_partial_file_that_is_none_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / PARTIAL).write_text("not json\n")
    begun = Partial(tmp_path, "f")
    begun.close()
    assert begun.rows == {}


# ---- batches and rows ----


def test_batches_hold_one_kind_the_longest_first(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2, 1.5, 0.6, 1.1, 0.4])
    backend = Lengths(window_s=1.0)
    rows = transcribed(Request(SYSTEM, test, Decoding(batch_size=2)), tmp_path / "out", backend)
    assert backend.batches == [[0.6, 0.4], [0.2], [1.5, 1.1]]
    assert [row["hypothesis"] for row in rows] == ["0.2", "1.5", "0.6", "1.1", "0.4"]
    assert not backend.closed, "a backend that was given stays open"


def test_a_row_tells_what_was_asked_and_what_was_answered(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.5], extra={"target_language": "pt"})
    row = transcribed(Request(SYSTEM, test, Decoding(task="st", language="detect")), tmp_path / "o", Lengths())[0]
    assert row.pop("took_s") >= 0
    assert row == {
        "name": "0.flac", "condition": "clean", "language": "en", "domain": "", "speaker": "ana", "seconds": 0.5,
        "reference": "text 0", "hypothesis": "0.5", "written": "pt", "detected_language": "en",
    }  # fmt: skip
    plain = transcribed(Request(SYSTEM, test), tmp_path / "p", Lengths())[0]
    assert not {"written", "detected_language", "failed"} & set(plain)


def test_what_breaks_a_batch_is_found_and_told(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2, 0.3, 0.4])
    backend = Lengths(bad=["text 1"])
    rows = transcribed(Request(SYSTEM, test), tmp_path / "out", backend)
    assert [row.get("failed") for row in rows] == [None, "RuntimeError: confused", None]
    assert [row["hypothesis"] for row in rows] == ["0.2", "", "0.4"]
    assert backend.batches == [[0.4, 0.3, 0.2], [0.4], [0.3], [0.2]]
    sound = Sound(tone(0.1), Row(text="text 1"))
    assert carefully(backend, [sound]) == ["RuntimeError: confused"]


def test_only_what_is_missing_is_decoded(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2, 0.3, 0.4])
    request = Request(SYSTEM, test)
    partial = Partial(tmp_path / "out", request.fingerprint)
    partial.add([{**answer("1.flac"), "hypothesis": "kept"}])
    seen: list[int] = []
    backend = Lengths()
    Transcriber(request, partial, backend).run(lambda done, total: seen.append(done))
    assert backend.batches == [[0.4, 0.2]]
    assert partial.rows["1.flac", "clean"]["hypothesis"] == "kept"
    assert seen == [1, 3]
    assert Transcriber(request, partial, backend).run(lambda done, total: None) == {}
    partial.close()


def test_rows_are_checked_before_anything_is_decoded(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2])
    bad = of_rows([replace(u.row, language="xx") for u in test.utterances.values()])
    backend = Lengths()
    with pytest.raises(DataError, match="no such language"):
        transcribed(Request(SYSTEM, bad), tmp_path / "out", backend)
    assert backend.batches == []


# ---- sounds ----


def test_audio_is_read_while_the_part_before_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.transcribe.sounds.AHEAD_S", 0.5)
    test = spoken(tmp_path, [0.4, 0.4, 0.4])
    read: list[str] = []
    second = threading.Event()
    sounds = Sounds(Request(SYSTEM, test, Decoding(batch_size=1)), Lengths())
    load = sounds._sounds

    def noted(key: tuple[str, str]) -> Any:
        read.append(key[0])
        if len(read) > 1:
            second.set()
        return load(key)

    monkeypatch.setattr(sounds, "_sounds", noted)
    parts = sounds.ahead([(name, "clean") for name in test.utterances])
    first, loaded = next(parts)
    assert len(first) == 1
    assert loaded[0][0].seconds == pytest.approx(0.4)
    assert second.wait(5), "the second part is not read before the first is given back"
    assert [len(part) for part, _ in parts] == [1, 1]
    assert list(sounds.ahead([])) == []


def test_long_recordings_are_not_held_until_a_batch_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chorus.transcribe.sounds.AHEAD_S", 0.5)
    monkeypatch.setattr("chorus.transcribe.sounds.DEFAULT_LONGEST_S", 0.2)
    parts = {}
    for seconds in (0.1, 0.4):
        test = spoken(tmp_path / str(seconds), [seconds] * 12)
        sounds = Sounds(Request(SYSTEM, test, Decoding(batch_size=4)), Lengths())
        parts[seconds] = [len(part) for part, _ in sounds.ahead([(name, "clean") for name in test.utterances])]
    assert parts == {0.1: [5, 5, 2], 0.4: [2] * 6}, "by batches of 4 windows, and by what is in memory"


def test_who_waits_is_told_batch_by_batch(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.1] * 5)
    request = Request(SYSTEM, test, Decoding(batch_size=2))
    keys = [(name, "clean") for name in test.utterances]
    assert [len(part) for part in Decoder(request, Lengths(), 2).decoded(keys)] == [2, 2, 1]
    assert [len(part) for part in Decoder(request, Lengths()).decoded(keys)] == [5]


def test_sounds_stay_for_the_next_system(tmp_path: Path) -> None:
    test = spoken(tmp_path, [0.2])
    request = Request(SYSTEM, test)
    for _ in range(2):
        [(_, [loaded])] = Sounds(request, Lengths()).ahead([("0.flac", "clean")])
        assert isinstance(loaded, list)
    assert len(test.kept) == 1
    [(_, [again])] = Sounds(request, Lengths()).ahead([("0.flac", "clean")])
    assert again is loaded


def test_long_audio_is_cut_only_where_the_runtime_cannot_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def halves(audio: Any, longest_s: float) -> list[Any]:
        return [(0, len(audio) // 2), (len(audio) // 2, len(audio))]

    monkeypatch.setattr("chorus.transcribe.sounds.pieces", halves)
    test = spoken(tmp_path, [2.0])

    def count(backend: Lengths, segments: str = "auto") -> int:
        test.kept.clear()
        request = Request(SYSTEM, test, Decoding(segments=segments))
        [(_, [loaded])] = Sounds(request, backend).ahead([("0.flac", "clean")])
        assert [sound.start_s for sound in loaded] == [0.0, 1.0][: len(loaded)]
        return len(loaded)

    assert count(Lengths(longest_s=1.0)) == 2
    assert count(Lengths(longest_s=3.0)) == 1
    assert count(Lengths(longest_s=None)) == 1
    assert count(Lengths(longest_s=3.0), "vad") == 2
    own_form = Lengths(longest_s=1.0)
    own_form.long_form = True  # type: ignore[misc]
    assert count(own_form) == 1
    with pytest.raises(UsageError, match="no long form"):
        count(Lengths(), "native")
    rows = transcribed(Request(SYSTEM, test), tmp_path / "out", Lengths(longest_s=1.0))
    assert rows[0]["hypothesis"] == "1.0 1.0", "pieces are joined"


def test_a_question_is_of_the_whole_recording(tmp_path: Path) -> None:
    asked = Decoding(task="kws")
    request = Request(SYSTEM, spoken(tmp_path, [2.0, 0.2], extra={"choices": "text 0|text 1"}), asked)
    rows = transcribed(request, tmp_path / "out", Lengths(longest_s=1.0))
    assert rows[0]["failed"] == "0.flac: 2.0 s, and the model takes 1 s of one question"
    assert "failed" not in rows[1]
    with pytest.raises(UsageError, match="a question has one answer"):
        Sounds(Request(SYSTEM, request.test, asked.model_copy(update={"segments": "vad"})), Lengths())


def test_damaged_audio_fails_its_utterance(tmp_path: Path) -> None:
    test = spoken(tmp_path, [2.0, 0.2])
    data = (tmp_path / "0.flac").read_bytes()
    (tmp_path / "0.flac").write_bytes(data[: len(data) // 3])
    rows = transcribed(Request(SYSTEM, test), tmp_path / "out", Lengths())
    assert "0.flac" in rows[0]["failed"]
    assert rows[1]["hypothesis"] == "0.2"


# ---- a runtime's child ----


def asked(*calls: tuple[dict[str, Any], bytes]) -> list[dict[str, Any]]:
    """What a worker replies to calls, each followed by its samples."""
    requests = io.BytesIO(b"".join(json.dumps(call).encode() + b"\n" + data for call, data in calls))
    replies = io.BytesIO()
    worker = Worker(lambda **settings: Lengths(**settings), requests, replies)
    while worker.serve():
        pass
    assert worker.backend is None or worker.backend.closed  # type: ignore[attr-defined]
    return [json.loads(line) for line in replies.getvalue().splitlines()]


def test_a_worker_answers_call_by_call() -> None:
    row = told_row(Row("a.flac", "one", "en", extra={"prompt": "?"}))
    make = {"call": "make", "settings": {"longest_s": 5.0, "bad": ["two"]}}
    audio = np.zeros(RATE, np.float32).tobytes()
    bad = {**row, "text": "two"}
    replies = asked(
        (make, b""),
        ({"call": "sort_key", "seconds": 1.5}, b""),
        ({"call": "transcribe", "rows": [row], "samples": [RATE]}, audio),
        ({"call": "transcribe", "rows": [bad], "samples": [RATE]}, audio),
        ({"call": "check", "rows": [{**row, "language": "xx"}]}, b""),
        ({"call": "check", "rows": [row]}, b""),
    )
    assert replies[0] == {"facts": {}, "longest_s": 5.0, "long_form": False}
    assert replies[1] == {"key": [1.0, -1.5]}
    assert replies[2] == {"hypotheses": [["1.0", "en", False, []]]}
    assert replies[3]["error"]["message"] == "RuntimeError: confused"
    assert replies[4]["error"] == {"kind": "DataError", "message": "no such language", "hint": "name another"}
    assert replies[5] == {}


@pytest.mark.parametrize(
    "error",
    [DataError("a", "b"), UsageError("a"), CheckpointError("c", "d"), MissingExtraError("evaluate", "this")],
)
def test_errors_arrive_as_they_were(error: ChorusError) -> None:
    found = error_of(told_error(error))
    assert (type(found), found.message, found.hint) == (type(error), error.message, error.hint)


def test_other_errors_arrive_by_name() -> None:
    found = error_of(told_error(KeyError("x")))
    assert (type(found), found.message) == (ChorusError, "KeyError: 'x'")


def test_a_row_keeps_what_a_runtime_may_ask_for() -> None:
    row = Row("a.flac", "one", "pt", start=0.5, end=1.0, extra={"prompt": "what?"})
    there = row_of(told_row(row))
    assert (str(there), there.language, there.text, there.get("prompt")) == (str(row), "pt", "one", "what?")
