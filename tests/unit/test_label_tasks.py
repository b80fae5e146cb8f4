"""Tasks whose answers are labels: what is recognised, what is counted, and what rows are refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from chorus.cli.main import run
from chorus.data.audio import RATE, read_audio, write_flac
from chorus.data.choices import of_task, with_choices
from chorus.data.manifest import Row, read_manifest
from chorus.data.utterance import Utterance, length_of, sound_key
from chorus.errors import DataError
from chorus.evaluate.confusion import confusion_of
from chorus.evaluate.differences import difference
from chorus.evaluate.scores import answered, value_of
from chorus.tasks.labels import choices_of, label_in
from chorus.tasks.protocol import Metric
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import Answer, Scored
from chorus.transcribe.test_sets import load_test_set
from sounds import tone

KWS, LANGID, SPEAKER_VER, CUSTOM, SPEECH_QA = (
    TASKS.get(name) for name in ("kws", "langid", "speaker_ver", "custom", "speech_qa")
)


# ---- what is recognised ----


@pytest.mark.parametrize(
    ("text", "labels", "label"),
    [
        ("one", ("on", "one"), "one"),  # a search for substrings reads "on"
        ("The word is one.", ("on", "one"), "one"),
        ("email_querycontact", ("email_query", "email_querycontact"), "email_querycontact"),
        ("Intent: email_query", ("email_query", "email_querycontact"), "email_query"),
        ("unknown", ("no", "yes"), ""),  # holds "no"
        ("I do not know", ("no", "yes"), ""),
        ("throat clearing", ("cough", "throat clearing"), "throat clearing"),
        ("Throat-Clearing!", ("cough", "throat clearing"), "throat clearing"),
        ("A", ("A", "B"), "A"),
        ("a cat sat on B", ("A", "B"), "B"),
        ("(C) because", ("A", "B", "C"), "C"),
        ("the speaker is 1234", ("123", "1234"), "1234"),
        ("no, yes", ("no", "on"), "no"),
        ("right left", ("left", "right"), "right"),
        ("left or right", ("left", "right"), "right"),  # the longest
        ("听到的是开灯", ("开灯", "关灯"), "开灯"),  # no spaces, no words
        ("हिन्दी", ("हिन्दी", "हिन्दु"), "हिन्दी"),
        ("", ("no", "yes"), ""),
        ("?", ("no", "yes"), ""),
        ("note: maybe", ("no", "yes"), ""),
    ],
)
def test_a_label_is_found_in_an_answer(text: str, labels: tuple[str, ...], label: str) -> None:
    assert label_in(text, labels) == label
    assert label_in(text, labels[::-1]) == label, "in whichever order they are offered"


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ("yes", "one choice alone"),
        ("yes|Yes!", '"yes" and "Yes!" are the same choice'),
        ("yes|", '"" is no label'),
        ("[1, {}]", "no list of texts"),
        ("[", "no JSON list"),
        ('{"a": 1}|b', None),
    ],
)
def test_choices_that_tell_nothing_apart_are_refused(cell: str, told: str | None) -> None:
    if told is None:
        assert len(choices_of(cell, "a.wav", "custom")) == 2
        return
    with pytest.raises(DataError, match=r"^a\.wav: task custom: ") as caught:
        choices_of(cell, "a.wav", "custom")
    assert told in str(caught.value)
    assert caught.value.hint


def test_choices_are_read_from_cells_and_from_lists() -> None:
    assert choices_of('["on", "one", 3]', "x", "custom") == ("on", "one", "3")
    assert choices_of(" on | one ", "x", "custom") == ("on", "one")
    assert choices_of(" ", "x", "custom") == ()


# ---- what is counted ----


def scored(
    references: Sequence[str], given: Sequence[str], labels: Sequence[str] = (), odds: Sequence[Sequence[float]] = (),
    task: str = "kws",
) -> list[Scored]:  # fmt: skip
    rows: list[Answer] = []
    for i, (reference, text) in enumerate(zip(references, given, strict=True)):
        row: Answer = {"name": f"{i}", "condition": "clean", "reference": reference, "hypothesis": text}
        if labels:
            row["choices"] = list(labels)
        if odds:
            row["scores"] = {label: [value, 2.0] for label, value in zip(labels, odds[i], strict=True)}
        rows.append(row)
    return TASKS.get(task).score(rows, "marks")


def metric(name: str, task: str = "kws") -> Metric:
    return next(m for m in TASKS.get(task).metrics if m.name == name)


LABELS = ("down", "go", "left", "up")
PAIRS = st.lists(st.tuples(st.sampled_from(LABELS), st.sampled_from([*LABELS, "?"])), min_size=1, max_size=30)


@given(PAIRS)
@settings(max_examples=80, deadline=None)
def test_f1_and_accuracy_are_by_the_definition(pairs: list[tuple[str, str]]) -> None:
    rows = scored([a for a, _ in pairs], [b for _, b in pairs], LABELS)
    scores, weights = [], []
    for label in {a for a, _ in pairs}:
        precise = [a == label for a, b in pairs if b == label]
        found = [b == label for a, b in pairs if a == label]
        p, r = (sum(one) / len(one) if one else 0.0 for one in (precise, found))
        scores.append(2 * p * r / (p + r) if p + r else 0.0)
        weights.append(len(found))
    assert value_of(rows, metric("macro_f1")) == pytest.approx(100 * np.mean(scores))
    assert value_of(rows, metric("weighted_f1")) == pytest.approx(100 * np.average(scores, weights=weights))
    assert value_of(rows, metric("accuracy")) == pytest.approx(100 * np.mean([a == b for a, b in pairs]))
    assert value_of(rows, metric("recognised")) == pytest.approx(100 * np.mean([b != "?" for _, b in pairs]))


def test_f1_is_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    rng = np.random.default_rng(0)
    true, said = (rng.choice([*LABELS, "?"][: 4 + i], 200) for i in range(2))
    rows = scored(true.tolist(), said.tolist(), LABELS)
    for average in ("macro", "weighted"):
        theirs = 100 * metrics.f1_score(true, said, labels=sorted(set(true)), average=average, zero_division=0)
        assert value_of(rows, metric(f"{average}_f1")) == pytest.approx(theirs)


def test_the_likeliest_choice_is_counted_where_the_runtime_tells_it() -> None:
    """By the sum over its tokens, and by their mean, which longer labels lose nothing by."""
    rows = scored(["up", "go"], ["?", "?"], ("go", "up"), [(-3.0, -1.0), (-2.0, -9.0)])
    assert value_of(rows, metric("constrained_accuracy")) == 100
    assert value_of(rows, metric("accuracy")) == value_of(rows, metric("recognised")) == 0
    assert np.isnan(value_of(scored(["up"], ["up"], ("go", "up")), metric("constrained_accuracy")))
    row: Answer = {
        "name": "0", "condition": "clean", "reference": "go up now", "hypothesis": "", "choices": ["go", "go up now"],
        "scores": {"go": [-2.0, 2.0], "go up now": [-3.0, 4.0]},
    }  # fmt: skip
    (one,) = KWS.score([row], "marks")
    assert value_of([one], metric("constrained_accuracy")) == 0
    assert value_of([one], metric("constrained_accuracy_by_token")) == 100


def test_a_confusion_counts_every_answer_once() -> None:
    rows = scored(["up", "up", "go", "go", "go"], ["up", "go", "?", "left", "go"], LABELS)
    found = confusion_of(rows)
    assert (found.labels, found.answers) == (("go", "up"), ("go", "up", "left", "(none)"))
    assert found.counts == ((1, 0, 1, 1), (1, 1, 0, 0))
    assert found.shares()[1] == [50, 50, 0, 0]
    assert confusion_of(rows[::-1]) == found


# ---- detection ----


def trials(targets: Sequence[float], others: Sequence[float]) -> list[Scored]:
    references = ["yes"] * len(targets) + ["no"] * len(others)
    odds = [(score, 0.0) for score in (*targets, *others)]
    return scored(references, references, ("yes", "no"), odds, task="speaker_ver")


def by_the_letter(targets: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """EER where the line between neighbouring points of the ROC meets the diagonal, and minDCF; in percent."""
    thresholds = [-np.inf, *sorted({*targets, *others}), np.inf]
    misses = [np.mean([t < x for t in targets]) for x in thresholds]
    alarms = [np.mean([o >= x for o in others]) for x in thresholds]
    # along the curve, which goes straight from threshold to threshold
    at = np.arange(len(thresholds), dtype=float)
    place = brentq(lambda x: np.interp(x, at, misses) - np.interp(x, at, alarms), 0, len(at) - 1)
    costs = [0.05 * m + 0.95 * a for m, a in zip(misses, alarms, strict=True)]
    return 100 * float(np.interp(place, at, misses)), 100 * min(costs) / 0.05


@given(
    st.lists(st.integers(-5, 8), min_size=1, max_size=12), st.lists(st.integers(-8, 5), min_size=1, max_size=12)
)  # fmt: skip
@settings(max_examples=120, deadline=None)
def test_both_errors_at_every_threshold(targets: list[int], others: list[int]) -> None:
    rows = trials(targets, others)
    eer, cost = by_the_letter(targets, others)
    assert value_of(rows, metric("eer", "speaker_ver")) == pytest.approx(eer, abs=1e-6)
    assert value_of(rows, metric("min_dcf", "speaker_ver")) == pytest.approx(cost, abs=1e-6)


def test_detection_of_the_worked_example() -> None:
    """Four targets and four others, one of each on the wrong side of any threshold between: 25 %."""
    rows = trials([3, 2, 1, -2], [-3, -1, -1.5, 2.5])
    assert value_of(rows, metric("eer", "speaker_ver")) == pytest.approx(25)
    assert value_of(trials([1], [0]), metric("eer", "speaker_ver")) == 0
    assert value_of(trials([0], [1]), metric("eer", "speaker_ver")) == 100
    assert np.isnan(value_of(trials([1, 2], []), metric("eer", "speaker_ver")))
    silent = scored(["yes", "no"], ["yes", "no"], ("yes", "no"), task="speaker_ver")
    assert np.isnan(value_of(silent, metric("min_dcf", "speaker_ver")))


def test_two_systems_with_scores_of_their_own_are_compared() -> None:
    """Their statistics have one column for each score of either, so that answers can change sides."""
    one, two = trials([3, 2, 1], [-3, -1, 0]), trials([0.5, -2, 1.5], [-0.2, 2, 0.7])
    eer = metric("eer", "speaker_ver")
    pair = answered(one, two, SPEAKER_VER, eer)
    assert pair.first.shape == pair.second.shape
    for stats, rows in ((pair.first, one), (pair.second, two)):
        assert eer.values(stats.sum(0, keepdims=True))[0] == pytest.approx(value_of(rows, eer))
    found = difference([(one, two)], SPEAKER_VER, eer, reference="b", group="all")
    assert (found.test, found.matched) == ("approximate randomisation", None)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I think C", "C"),
        ("I'd say it is C.", "C"),
        ("I\u2019m sure: the answer is C, of course", "C"),
        ("A man says B", "B"),
        ("I think A", "A"),
        ("I think it is A, not B", "A"),
        ("A) the man, and not B", "A"),
        ("**A** since I heard B", "A"),
        ("A\nI heard that B is wrong", "A"),
        ("I. A man speaks of C", "I"),
        ("B or C", "B"),
        ("I would say A man", "I"),  # both may be words: the first
        ("A man sings", "A"),  # no other letter stands there
        ("AI is B", "B"),
        ("nobody", ""),
    ],
)
def test_of_letters_the_words_a_and_i_count_where_no_other_does_or_punctuation_follows(text: str, label: str) -> None:
    labels = tuple("ABCDEFGHI")
    assert (label_in(text, labels), label_in(text, labels[::-1])) == (label, label)


# ---- rows ----


def row(name: str = "a.wav", **columns: str) -> Row:
    known = {k: v for k, v in columns.items() if k in ("text", "language", "speaker")}
    return Row(name, extra={k: v for k, v in columns.items() if k not in known}, **known)


def test_labels_are_those_of_the_whole_manifest() -> None:
    rows = [row(text=text, language="en") for text in ("one", "two", "one", "three")]
    (found,) = with_choices(rows[:1], KWS, rows)
    assert (
        KWS.instruction(found)
        == "What word is spoken in the audio? Choose from: one, three, two. Output only the word."
    )
    # a manifest's own go before them
    (own,) = with_choices([row(text="one", choices="one|nine")], KWS, rows)
    assert "Choose from: one, nine." in KWS.instruction(own)
    assert with_choices(rows, TASKS.get("asr")) == rows


def test_what_a_row_says_is_what_it_is_asked() -> None:
    german, dutch = with_choices([row(language="de"), row(language="nl_NL")], LANGID)
    assert (LANGID.reference(german), LANGID.reference(dutch)) == ("German", "Dutch")
    assert "Choose from: Dutch, German." in LANGID.instruction(german)
    same, other = row(speaker="a", speaker_2="a"), row(speaker="a", speaker_2="b")
    assert [SPEAKER_VER.reference(r) for r in (same, other, row(answer="no"))] == ["yes", "no", "no"]
    asked = row(question="What is sold?", choices='["bread", "milk"]', answer="milk")
    assert SPEECH_QA.reference(asked) == "B"
    assert SPEECH_QA.instruction(asked).splitlines()[1:4] == ["Choices:", "A. bread", "B. milk"]
    assert CUSTOM.instruction(row(instruction="Is it {choices}?", choices="on|off", answer="on")) == "Is it on, off?"


@pytest.mark.parametrize(
    ("task", "columns", "told"),
    [
        ("emotion", {"emotion": "happy"}, 'task emotion: its answer "happy" is none of its choices (neutral, joy'),
        ("kws", {"text": "six", "choices": "one|two"}, 'its answer "six" is none of its choices (one, two)'),
        ("intent", {}, "task intent: no answer"),
        ("kws", {"text": "one", "choices": "one|One."}, "are the same choice"),
        ("custom", {"instruction": "What?"}, "task custom: no answer"),
    ],
)
def test_a_row_that_cannot_be_answered_right_is_refused(task: str, columns: dict[str, str], told: str) -> None:
    with pytest.raises(DataError) as caught:
        with_choices([row(**columns)], TASKS.get(task), [row(text="one"), row(text="two")])
    assert str(caught.value).startswith("a.wav: task ")
    assert told in str(caught.value)
    assert caught.value.hint


def test_what_has_no_question_is_refused() -> None:
    for name, column in (("custom", "instruction"), ("speech_qa", "question")):
        with pytest.raises(DataError, match=f"task {name}: no {column}"):
            TASKS.get(name).instruction(row(answer="x"))


def test_only_rows_of_the_task_are_asked(tmp_path: Path) -> None:
    rows = [row("a.wav", task="kws"), row("b.wav", task="langid"), row("c.wav"), row("d.wav", task="read speech")]
    assert [r.path for r in of_task(rows, KWS)] == ["a.wav", "c.wav", "d.wav"]


def test_a_manifest_of_labels_needs_no_text(tmp_path: Path) -> None:
    for name in "ab":
        write_flac(tmp_path / f"{name}.flac", tone(0.5))
    lines = [{"path": f"{n}.flac", "emotion": e, "choices": ["joy", "fear"]} for n, e in (("a", "joy"), ("b", "fear"))]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    test = load_test_set([tmp_path / "m.jsonl"], task="emotion")
    assert [TASKS.get("emotion").instruction(u.row).count("joy, fear") for u in test.utterances.values()] == [1, 1]
    with pytest.raises(DataError, match="no column text"):
        load_test_set([tmp_path / "m.jsonl"])


# ---- two recordings ----


@pytest.fixture
def pair(tmp_path: Path) -> Row:
    write_flac(tmp_path / "a.flac", tone(1.0, 220))
    write_flac(tmp_path / "b.flac", tone(0.7, 440))
    (tmp_path / "m.csv").write_text("path,audio_2,speaker,speaker_2\na.flac,b.flac,x,y\n")
    (found,) = read_manifest(tmp_path / "m.csv", needs=("path",)).rows
    return found


def test_a_pair_is_heard_with_half_a_second_of_silence_between(pair: Row) -> None:
    heard = Utterance(pair).audio()
    first, second = (read_audio(pair.root / name) for name in ("a.flac", "b.flac"))
    assert np.array_equal(heard[:RATE], first)
    assert not heard[RATE : RATE + RATE // 2].any()
    assert np.array_equal(heard[RATE + RATE // 2 :], second)
    assert length_of(pair) == pytest.approx(2.2)


def test_a_pair_is_told_apart_from_its_parts(pair: Row) -> None:
    from dataclasses import replace

    alone = replace(pair, extra={})
    turned = replace(pair, path="b.flac", extra={**pair.extra, "audio_2": "a.flac"})
    cut = replace(pair, extra={**pair.extra, "start_2": "0.2", "end_2": "0.6"})
    assert len({sound_key(one) for one in (pair, alone, turned, cut)}) == 4
    assert length_of(cut) == pytest.approx(1.9)
    assert len(Utterance(cut).audio()) == pytest.approx(1.9 * RATE)


def test_a_pair_of_which_one_is_missing_or_empty_is_refused(pair: Row, tmp_path: Path) -> None:
    from dataclasses import replace

    gone = replace(pair, extra={**pair.extra, "audio_2": "none.flac"})
    with pytest.raises(DataError, match=r"none\.flac: no such audio file"):
        Utterance(gone).audio()
    empty = replace(pair, extra={**pair.extra, "start_2": "0.7"})
    with pytest.raises(DataError, match=r"b\.flac: no audio between"):
        Utterance(empty).audio()
    assert length_of(empty) <= 0
    with pytest.raises(DataError, match="start_2 or end_2 is no number"):
        length_of(replace(pair, extra={**pair.extra, "start_2": "soon"}))


def test_a_pair_of_one_recording_is_refused() -> None:
    rows = [Row("a.wav", extra={"answer": "yes", "audio_2": "b.wav"}), Row("c.wav", extra={"answer": "no"})]
    with pytest.raises(DataError, match=r"c.wav: task speaker_ver: no second recording") as caught:
        with_choices(rows, TASKS.get("speaker_ver"))
    assert "--columns audio_2=NAME" in caught.value.hint


def test_the_command_tells_what_a_task_asks(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["tasks", "speech_qa"]) == 0
    told = capsys.readouterr().out
    assert "QUESTION Output only the answer." in told
    assert "A. LABEL" in told
    assert run(["tasks", "keyword-spotting", "--json"]) == 0
    one = json.loads(capsys.readouterr().out)
    assert one["question"] == "What word is spoken in the audio? Choose from: LABEL, OTHER LABEL. Output only the word."
    assert run(["tasks", "--json"]) == 0
    assert [task["name"] for task in json.loads(capsys.readouterr().out)] == [task.name for task in TASKS]
    assert run(["tasks", "kwz"]) == 2
    assert 'did you mean "kws"' in capsys.readouterr().err
