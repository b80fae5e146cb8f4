"""Edits, error rates, alignments: against jiwer's and sacrebleu's own numbers on the same texts."""

from __future__ import annotations

import math

import jiwer
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.errors import UsageError
from chorus.evaluate.scores import measures, metric_facts, unit_of, value_of
from chorus.tasks.asr import ASR
from chorus.tasks.counts import Counts, align, edits, shown, total
from chorus.tasks.normalise import ARABIC, NORMALISERS, normaliser
from chorus.tasks.scored import score_texts as score
from chorus.tasks.st import ST

TEXT = st.lists(st.sampled_from(["a", "bb", "ccc", "d"]), min_size=1, max_size=8).map(" ".join)
HEARD = st.lists(st.sampled_from(["a", "bb", "ccc", "x"]), max_size=9).map(" ".join)


def row(reference: str, heard: str, **more: object) -> dict[str, object]:
    return {"name": f"{reference}|{heard}", "condition": "clean", "reference": reference, "hypothesis": heard, **more}


@given(st.lists(st.tuples(TEXT, HEARD), min_size=1, max_size=12))
def test_rates_are_jiwers_exactly(pairs: list[tuple[str, str]]) -> None:
    references, heard = [r for r, _ in pairs], [h for _, h in pairs]
    words = total(edits(r, h, "words") for r, h in pairs)
    theirs = jiwer.process_words(references, heard)
    assert words.error_rate == pytest.approx(100 * theirs.wer, rel=1e-14)
    assert words.match_error_rate == pytest.approx(100 * theirs.mer, rel=1e-14)
    assert words.information_lost == pytest.approx(100 * theirs.wil, rel=1e-14)
    assert (words.substitutions, words.deletions, words.insertions, words.hits) == (
        theirs.substitutions, theirs.deletions, theirs.insertions, theirs.hits
    )  # fmt: skip
    characters = total(one.counts for one in align(references, heard, "characters", spaces=True))
    assert characters.error_rate == pytest.approx(100 * jiwer.process_characters(references, heard).cer, rel=1e-14)


@given(TEXT, HEARD)
def test_alignments_add_up_to_the_counts(reference: str, heard: str) -> None:
    counts = edits(reference, heard, "words")
    aligned = align([reference], [heard], "words")[0]
    right, inserted = aligned.correct, aligned.inserted
    assert len(right) == counts.length
    assert len(inserted) == counts.length + 1
    assert sum(right) == counts.hits
    assert sum(inserted) == counts.insertions


def test_an_empty_reference_makes_insertions_of_what_is_heard_and_is_counted() -> None:
    assert edits("", "two words", "words") == Counts(insertions=2)
    assert edits("", "abc", "characters") == Counts(insertions=3)
    assert edits("", "", "words") == Counts()
    found = measures(score([row("(laughs)", "thank you"), row("yes", "yes")], "marks"), ASR)
    assert found["empty_references"] == 1
    assert found["wer"] == pytest.approx(200.0)  # two insertions over one word
    assert found["hallucination"]["words_in_silence"] == 2
    assert math.isnan(Counts().error_rate)
    assert measures(score([row("...", "")], "marks"), ASR)["wer"] is None


def test_failed_decodes_count_as_deletions() -> None:
    found = measures(score([row("one two", "", failed="it broke"), row("three", "three")], "raw"), ASR)
    assert found["failed"] == 1
    assert found["words"] == {"hits": 1, "substitutions": 0, "deletions": 2, "insertions": 0}


def test_loops_and_length_ratio_show_hallucinations() -> None:
    found = measures(score([row("hello there", "so so so so so so"), row("no no no no", "no no no no")], "raw"), ASR)
    assert found["hallucination"]["looping_percent"] == 50.0
    assert found["hallucination"]["length_ratio"] == pytest.approx((17 + 11) / (11 + 11))


def test_characters_are_counted_for_languages_without_spaces() -> None:
    rows = score([row("今日は", "今日わ", language="ja"), row("good day", "good", language="en")], "marks")
    assert [r.unit for r in rows] == ["characters", "words"]
    assert unit_of(rows) == "mixed"
    assert value_of(rows) == pytest.approx(100 * 2 / 5)
    forced = score([row("今日は", "今日わ", language="ja")], "marks", "words")
    assert forced[0].unit == "words"


def test_alignments_are_shown_one_above_the_other() -> None:
    assert shown("the cat sat", "a cat sat down", "words", align(["the cat sat"], ["a cat sat down"], "words")[0]) == (
        "REF: the cat sat ****", "HYP: a   cat sat down", "     S           I"
    )  # fmt: skip
    assert shown("", "oh no", "words", align([""], ["oh no"], "words")[0]) == ("REF: ** **", "HYP: oh no", "     I  I")


def test_bleu_and_chrf_are_sacrebleus_with_signature() -> None:
    from sacrebleu.metrics import BLEU, CHRF

    references = ["The cat sat on the mat.", "It rains today in Lisbon.", "Good morning to all of you."]
    heard = ["The cat sat on a mat.", "It rains in Lisbon.", "Good morning, all."]
    rows = score([row(r, h) for r, h in zip(references, heard, strict=True)], "marks")
    found = {m.name: metric_facts(rows, ST, m) for m in ST.metrics}
    bleu, chrf = BLEU(), CHRF()
    assert found["bleu"]["value"] == bleu.corpus_score(heard, [references]).score
    assert found["chrf"]["value"] == chrf.corpus_score(heard, [references]).score
    assert found["bleu"]["signature"] == str(bleu.get_signature())
    for told in (found["bleu"], found["chrf"]):
        assert told["interval"]["low"] < told["value"] < told["interval"]["high"]


# ---- normalisers ----


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("raw", " As  it\nstands. ", "As it stands."),
        ("basic", "Olá, você! (riso)", "olá você"),
        ("basic", "हिन्दी", "ह न द"),  # every mark gone: this is why there is `marks`
        ("marks", "हिन्दी, ठीक!", "हिन्दी ठीक"),
        ("marks", "كَتَبَ.", "كَتَبَ"),
        ("english", "Mr. Smith's colour isn't 20 percent", "mister smith is color is not 20%"),
        ("arabic", "أَحْمَدُ إلى المدرسـة", "احمد الي المدرسه"),
        ("arabic:tatweel", "المدرسـة", "المدرسة"),
        ("arabic:alef,ya", "إلى", "الي"),
    ],
)
def test_normalisers(name: str, text: str, expected: str) -> None:
    assert normaliser(name)(text) == expected


def test_basic_is_whispers_own() -> None:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    theirs, ours = BasicTextNormalizer(), normaliser("basic")
    for text in ("Größe: 3,5 m²!", "l'été — [bruit] déjà", "¿Qué? (risas) ¡Sí!", "日本語、です。"):
        assert ours(text) == " ".join(theirs(text).split())


@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing_more(text: str) -> None:
    once = normaliser("marks")(text)
    assert normaliser("marks")(once) == once


def test_unknown_normalisers_and_options_name_the_nearest() -> None:
    with pytest.raises(UsageError, match='did you mean "english"'):
        normaliser("englsh")
    with pytest.raises(UsageError, match='did you mean "tatweel"'):
        normaliser("arabic:tatwel")
    with pytest.raises(UsageError, match="unknown normaliser"):
        normaliser("basic:alef")
    assert len(NORMALISERS) == 5
    assert len(ARABIC) == 5


def test_rows_keep_both_texts() -> None:
    found = score([row("Good Day.", "good day")], "marks")[0]
    assert (found.raw_reference, found.reference) == ("Good Day.", "good day")
    assert found.counts.errors == 0
    assert np.isclose(value_of(score([row("Good Day.", "good day")], "raw")), 100.0)


def test_a_mathematical_capital_is_lowered_as_the_letter_that_it_is():
    assert normaliser("marks")("\U0001d71c \uff21") == "\u03b1 a"
