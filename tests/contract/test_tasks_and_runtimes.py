"""Every task keeps the contract, and so does the runtime of ours; what breaks it is noticed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import chorus.testing
from chorus.data.manifest import Row, read_manifest
from chorus.errors import UsageError
from chorus.evaluate.scores import value_of
from chorus.models.times import Segment, Word
from chorus.tasks.asr import ASR, Asr
from chorus.tasks.protocol import Task
from chorus.tasks.registry import TASKS, parse_task
from chorus.tasks.scored import Answer, ErrorRate, Scored, score_texts
from chorus.tasks.st import BLEU, CHRF, ST
from chorus.testing import tasks as contract
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.decoding import Decoding, decoding
from sounds import BASE, MANIFEST

ANSWERS = {  # task -> the answers of rows, by a column that it knows
    "emotion": ("emotion", ("joy", "anger", "neutral", "joy", "fear", "disgust")),
    "intent": ("intent", ("email_query", "email_querycontact", "alarm_set", "play", "play_music", "alarm_set")),
    "kws": ("keyword", ("on", "one", "no", "nine", "on", "unknown")),
    "vocalsound": ("label", ("sigh", "cough", "throat clearing", "sneeze", "sniff", "sigh")),
    "speaker_ver": ("speaker_2", ("speaker 0", "speaker 2", "speaker 2", "speaker 1", "speaker 1", "speaker 2")),
    "custom": ("answer", ("on", "it rains", "one", "off", "a cat", "on")),
    "speech_qa": ("answer", ("A", "in Lisbon", "the mat", "B", "chove", "B")),
}
CHOICES = {"custom": "on|one|off", "speech_qa": '["good", "the mat", "bad"]'}


def rows_of(name: str) -> list[Row]:
    """The contract's rows, as a manifest of the task would have them; some with choices and some without."""
    column, given = ANSWERS.get(name, ("", ("",) * 6))
    asked = {"instruction": "What do you hear? {choices}", "question": "What is it?"}
    asked |= {"audio_2": "other.flac"} if name == "speaker_ver" else {}
    rows = [replace(row, extra={**asked, column: answer}) for row, answer in zip(contract.ROWS, given, strict=True)]
    return [
        replace(row, extra={**row.extra, "choices": CHOICES[name]}) if name in CHOICES and i in (0, 2, 3, 5) else row
        for i, row in enumerate(rows)
    ]


def test_the_registry_has_every_task() -> None:
    assert set(TASKS.names()) == {"asr", "st", "kws", "langid", "speaker_id", *ANSWERS}
    assert len(chorus.testing.task_checks()) == 8


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_keeps_the_contract(name: str) -> None:
    assert chorus.testing.check_task(name, rows_of(name)) == 8


class Wrong(Asr):
    """asr with something wrong."""

    def __init__(self, metric: Any = None) -> None:
        self.metric = metric

    @property
    def metrics(self) -> Any:
        return (self.metric,) if self.metric else super().metrics


class Mean(ErrorRate):
    """A rate that is no function of sums: it looks at how many rows there are."""

    def statistics(self, rows: Sequence[Scored]) -> Any:
        return super().statistics(rows) * len(rows) + len(rows) * np.arange(len(rows))[:, None]


class Upside(ErrorRate):
    """A rate that says that more is better."""

    best = 100.0


class Unordered(Wrong):
    """Sorts its answers."""

    def score(self, rows: Sequence[Answer], normaliser: str, unit: Any = None) -> list[Scored]:
        return sorted(score_texts(rows, normaliser, unit), key=lambda row: row.raw_reference)


@pytest.mark.parametrize(
    ("task", "check"),
    [
        (Wrong(), contract.is_found_by_every_spelling),
        (Wrong(Mean()), contract.metrics_are_sums),
        (Wrong(Upside()), contract.faultless_answers_are_the_best),
        (Unordered(), contract.keeps_the_order_of_answers),
    ],
)
def test_what_breaks_the_contract_is_noticed(task: Task, check: contract.TaskCheck) -> None:
    with pytest.raises(AssertionError):
        check(task, contract.ROWS)


@pytest.mark.parametrize(
    ("spelling", "name"),
    [("asr", "asr"), ("transcribe", "asr"), (" Transcribe ", "asr"), ("st", "st"), ("translate", "st"),
     ("speech-translation", "st")],
)  # fmt: skip
def test_a_task_has_one_name_under_all_its_spellings(spelling: str, name: str) -> None:
    assert parse_task(spelling) == name
    assert Decoding(task=spelling).task == name


def test_unknown_tasks_name_the_nearest() -> None:
    with pytest.raises(UsageError, match='unknown task "translat"; did you mean "translate"'):
        parse_task("translat")
    with pytest.raises(UsageError, match='did you mean "transcribe"'):
        decoding(settings={"task": "transcrib"})


def test_a_translation_is_asked_for_in_the_language_that_it_is_compared_in() -> None:
    spoken = Row("a.flac", "good morning", "ja")
    assert ST.instruction(spoken) == "Translate this audio to English."
    for told, name in (("de", "German"), ("pt-BR", "Portuguese"), ("Mandarin", "Chinese"), ("tpi", "tpi")):
        asked = ST.instruction(replace(spoken, extra={"target_language": told}))
        assert asked == f"Translate this audio to {name}."
    assert ASR.instruction(spoken) == ASR.instruction(replace(spoken, extra={"target_language": "de"}))


def test_each_task_is_asked_as_those_who_compare_merges_ask_it() -> None:
    """The questions of github.com/ebinezer-rajaram/model-merging, letter for letter; labels in order."""
    told = {"choices": "on|off", "target_language": "de"}
    wanted = {
        "asr": "Only output the transcription of this audio. Do not include any explanations, summaries, or questions.",
        "st": "Translate this audio to German.",
        "emotion": "What emotion is expressed in the spoken utterance? Choose from: on, off. Output only the label.",
        "intent": "What is the user's intent from the spoken utterance? Choose from: on, off. Output only the label.",
        "kws": "What word is spoken in the audio? Choose from: on, off. Output only the word.",
        "langid": "What language is being spoken in the audio? Choose from: on, off. Output only the label.",
        "speaker_id": "Who is the speaker in the provided audio segment? "
        "Output only the numeric speaker ID (e.g., 1234).",
        "vocalsound": "Identify the human vocal sound in the audio. Choose from: on, off. Output only the label.",
    }
    for name, question in wanted.items():
        assert TASKS.get(name).instruction(Row("a.flac", language="en", extra=told)) == question
    pair = Row("a.flac", language="en", extra={"audio_2": "b.flac"})
    assert TASKS.get("speaker_ver").instruction(pair) == (
        "Listen to the two audio segments. Do they belong to the same speaker? "
        "Answer 'yes' if they are the same speaker, or 'no' if they are different speakers."
    )


def test_a_translation_is_counted_as_it_is_written() -> None:
    spoken = Row("a.flac", "good morning", "ja")
    assert (ASR.written(spoken), ST.written(spoken)) == ("ja", "en")
    assert ST.written(replace(spoken, extra={"target_language": "zh"})) == "zh"
    answer = contract.answers(ST, [spoken])
    assert ST.score(answer, "raw")[0].unit == "words"
    assert ASR.score(contract.answers(ASR, [spoken]), "raw")[0].unit == "characters"


def test_bleu_and_chrf_of_sums_are_sacrebleus_of_the_corpus() -> None:
    from sacrebleu.metrics import BLEU as THEIR_BLEU
    from sacrebleu.metrics import CHRF as THEIR_CHRF

    scored = contract.half_wrong(ST, contract.ROWS)
    hypotheses, references = [s.raw_hypothesis for s in scored], [[s.raw_reference for s in scored]]
    for ours, theirs in ((BLEU, THEIR_BLEU()), (CHRF, THEIR_CHRF())):
        sums = ours.statistics(scored).sum(axis=0, keepdims=True)
        assert ours.values(sums)[0] == theirs.corpus_score(hypotheses, references).score
        assert ours.signature() == ours.signature_of(scored) == str(theirs.get_signature())


@pytest.mark.parametrize(("code", "tokenizer"), [("zh", "zh"), ("cmn_hans_cn", "zh"), ("ja", "char"), ("de", "13a")])
def test_bleu_cuts_words_where_no_spaces_do(code: str, tokenizer: str) -> None:
    from sacrebleu.metrics import BLEU as THEIR_BLEU

    texts = [("今天天气很好我们去公园", "今天天气很坏我们去公园"), ("他说明天会下雨", "他说明天会下雪")]
    answers: list[Answer] = [
        {"name": f"{i}", "condition": "clean", "hypothesis": a, "reference": b, "language": "en", "written": code}
        for i, (a, b) in enumerate(texts)
    ]
    scored, theirs = ST.score(answers, "raw"), THEIR_BLEU(tokenize=tokenizer)
    score = theirs.corpus_score([a for a, _ in texts], [[b for _, b in texts]]).score
    assert value_of(scored, BLEU) == pytest.approx(score)
    assert BLEU.signature_of(scored) == str(theirs.get_signature())
    assert (score > 50) == (tokenizer != "13a")
    assert value_of(scored, CHRF) > 30
    assert "tok" not in CHRF.signature_of(scored)


# ---- runtimes ----


def some_sounds() -> list[Sound]:
    from chorus.data.utterance import Utterance

    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker == "theo" and r.split == "test"][:4]
    return [Sound(u.audio(), u.row, u.key()) for u in map(Utterance, rows)]


def test_whisper_through_transformers_keeps_the_contract() -> None:
    from chorus.transcribe.backends.choose import BACKENDS
    from chorus.transcribe.systems import open_system

    backend = BACKENDS.get("transformers")(open_system(BASE), Decoding(window_s=3, max_new_tokens=8), "cpu")
    assert chorus.testing.check_backend(backend, some_sounds()) == 16


@pytest.mark.parametrize("detail", ["segments", "words"])
def test_times_keep_the_contract(detail: str) -> None:
    from chorus.transcribe.backends.choose import BACKENDS
    from chorus.transcribe.systems import open_system

    asked = Decoding(max_new_tokens=8, timestamps=detail == "segments", detail=detail)
    backend = BACKENDS.get("transformers")(open_system(BASE), asked, "cpu")
    assert chorus.testing.check_backend(backend, some_sounds()) == 16


class Careless:
    """A runtime that tells how many sounds it was given."""

    longest_s: float | None = 30.0
    long_form = True
    facts: dict[str, str] = {}  # noqa: RUF012

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        """Any row."""

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [Hypothesis(f"one of {len(sounds)}") for _ in sounds]

    def replace(self, tensors: object) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


def test_a_runtime_whose_batches_change_texts_is_noticed() -> None:
    with pytest.raises(AssertionError, match="alone gives another text"):
        chorus.testing.check_backend(Careless(), some_sounds())


class Untimely(Careless):
    """A runtime with one wrong segment."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        return [Hypothesis("a b", segments=(Segment(0.0, 0.1, "a b"), self.segment)) for _ in sounds]


@pytest.mark.parametrize(
    ("segment", "told"),
    [
        (Segment(0.1, 900.0, "beyond"), "in "),
        (Segment(0.2, 0.1, "backwards"), "in "),
        (Segment(0.1, 0.2, " spaced"), "spaces around it"),
        (Segment(0.1, 0.2, "a b", (Word(0.1, 0.2, " a"), Word(0.0, 0.1, " b"))), "not in order"),
        (Segment(0.1, 0.2, "a b", (Word(0.1, 0.2, " a"),)), "other words"),
    ],
)
def test_times_that_cannot_be_are_noticed(segment: Segment, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        chorus.testing.check_backend(Untimely(segment), some_sounds())
