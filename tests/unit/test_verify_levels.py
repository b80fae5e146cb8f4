"""Each level by itself: what it says of two sets of numbers or texts, and of a runtime that ends."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chorus
from chorus.data.manifest import Row
from chorus.errors import CheckpointError, ChorusError, MissingExtraError
from chorus.export.ctranslate2.reader import read
from chorus.models.times import Segment
from chorus.transcribe.backends.child import EndedError
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.verify.cost import Spent, sizes, spent
from chorus.verify.formats.ctranslate2 import CTranslate2Verifier
from chorus.verify.hearing import Hearing, windowed
from chorus.verify.logits import GATES, LOW, closeness, logits, timestamps_known
from chorus.verify.original import Forcing
from chorus.verify.protocol import Client, Subject, TensorProof
from chorus.verify.runtime import RuntimeChild
from chorus.verify.tensors import tensors
from chorus.verify.transcripts import Bound, silence, times, transcripts
from chorus.verify.verdict import Verification, as_table
from sounds import BASE

RNG = np.random.default_rng(0)
EXACT, QUANTISED = Bound(True, 0.5, "marks"), Bound(False, 0.5, "marks")


def forcing(positions: int = 12, vocabulary: int = 50, first: int = 2) -> Forcing:
    values = RNG.normal(0, 4, (positions, vocabulary)).astype(np.float32)
    return Forcing(np.zeros((80, 3000), np.float32), list(range(positions)), first, values)


class Said:
    """A runtime that gives these logits, or ends."""

    versions: dict[str, str] = {}  # noqa: RUF012 - as the protocol has it

    def __init__(self, found: Any) -> None:
        self.found = found

    def logits(self, tokens: Sequence[int], *, mel: Any) -> Any:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found

    def __enter__(self) -> Said:
        return self

    def __exit__(self, *_: object) -> None:
        pass


# ---- L1 ----


def test_tensors_by_type_and_the_worst_of_them():
    proofs = [TensorProof(f"t{i}", "q5_0" if i % 2 else "f32", True, i / 100) for i in range(9)]
    first, second, worst = list(tensors(proofs))
    assert (first.what, first.told, second.facts["tensors"]) == ("tensors in f32", "5 by bytes", 4)
    assert list(worst.facts["errors"]) == ["t8", "t7", "t6", "t5", "t4"]
    (wrong, _, worst) = list(tensors([*proofs, TensorProof("t9", "f32", False, 3.0, "differs")]))
    assert (wrong.status, wrong.told, worst.status) == ("fails", "1 of 6: t9 differs", "flagged")


def test_tensors_that_could_not_be_looked_at_are_no_pass():
    def broken(error: ChorusError):
        raise error
        yield

    assert [one.status for one in tensors([])] == ["skipped"]
    assert [one.status for one in tensors(broken(MissingExtraError("export", "it")))] == ["skipped"]
    assert [one.status for one in tensors(broken(CheckpointError("gone")))] == ["fails"]


# ---- L3 ----


@given(shift=st.floats(-50, 50))
def test_what_all_logits_have_in_common_is_no_difference(shift):
    one = forcing()
    seen = closeness([(one.logits, one.logits + np.float32(shift))])
    assert (seen.positions, seen.agree, seen.turned) == (12, 12, 0)
    assert seen.difference < 1e-4
    assert abs(seen.divergence) < 1e-6


def test_the_divergence_is_scipys():
    from scipy.special import softmax
    from scipy.stats import entropy

    one, other = RNG.normal(0, 3, (2, 7, 40))
    told = entropy(softmax(one, -1), softmax(other, -1), axis=-1).mean()
    assert closeness([(one, other)]).divergence == pytest.approx(told)


@pytest.mark.parametrize(("kind", "noise", "status"), [
    ("f16", 0.01, "holds"), ("f16", 0.5, "fails"), ("q5_0", 0.2, "holds"), ("q5_0", 3.0, "fails"),
    ("something", 1.5, "holds"), ("something", 9.0, "fails"),
])  # fmt: skip
def test_a_type_has_bounds(kind, noise, status):
    one = forcing()
    found = one.logits + RNG.normal(0, noise, one.logits.shape).astype(np.float32)
    (verdict,) = logits(Said(found), [one], kind, "there")
    assert verdict.status == status, verdict.told
    assert verdict.facts["positions"] == 10  # what stands before the text is not compared
    gate = GATES.get(kind, LOW)
    assert verdict.facts["gate"] == {"difference": gate.difference, "divergence": gate.divergence}


@pytest.mark.parametrize(("margin", "status"), [(0.05, "holds"), (0.5, "fails")])
def test_another_choice_is_none_where_the_source_likes_it_about_as_well(margin, status):
    theirs = RNG.normal(0, 0.1, (200, 50)).astype(np.float32)
    theirs[:, 3], theirs[:, 4] = 8.0, 8.0 - margin
    mine = theirs.copy()
    mine[50, [3, 4]] = mine[50, [4, 3]]
    one = Forcing(np.zeros((80, 3000), np.float32), list(range(200)), 0, theirs)
    (verdict,) = logits(Said(mine), [one], "f16", "there")
    assert (verdict.status, verdict.facts["agree"]) == (status, 199)
    assert ("another token at 1 of 200 positions" in verdict.told) == (status == "fails")


@pytest.mark.parametrize("found", [np.zeros((3, 50), np.float32), np.full((12, 50), np.nan, np.float32)])
def test_what_are_no_logits_fail(found):
    (verdict,) = logits(Said(found), [forcing()], "f16", "there")
    assert verdict.status == "fails"


@pytest.mark.parametrize(("share", "status"), [(0.99, "holds"), (0.5, "holds"), (0.001, "fails")])
def test_a_model_that_never_writes_a_timestamp_is_told(share, status):
    row = np.full(50, np.log((1 - share) / 30))
    row[30:] = np.log(share / 20)
    one = Forcing(np.zeros((80, 3000), np.float32), [0, 30, 1], 1, np.tile(row, (3, 1)).astype(np.float32))
    verdict = timestamps_known([one], 30)
    assert (verdict.status, round(verdict.facts["share"], 3)) == (status, share)
    assert ("--no-timestamps" in verdict.told) == (status == "fails")


# ---- L4 ----


def sounds(*texts: str) -> list[Sound]:
    return [Sound(np.zeros(16_000, np.float32), Row(f"{i}.flac", text, "en")) for i, text in enumerate(texts)]


def heard(*texts: str) -> list[Hypothesis | str]:
    return [Hypothesis(text) for text in texts]


def statuses(found: Any) -> dict[str, str]:
    return {one.what.partition(" there")[0]: one.status for one in found}


def test_an_exact_export_writes_the_very_same():
    said = sounds("one two", "three")
    good = statuses(transcripts(said, heard("one two", "three"), heard("one two", "three"), "there", EXACT))
    assert good == {"transcripts": "holds", "error rate": "holds", "no loops": "holds"}
    other = list(transcripts(said, heard("one two", "three"), heard("one two", "tree"), "there", EXACT))
    assert statuses(other)["transcripts"] == "fails"
    assert "of 1.flac it writes 'tree', the source 'three'" in other[0].told


def test_a_runtime_that_hears_otherwise_is_flagged_and_its_rate_decides():
    said, otherwise = sounds("one two", "three"), Bound(True, 0.5, "marks", "it pads with zeros")
    found = list(transcripts(said, heard("one two", "three"), heard("one two", "tree"), "there", otherwise))
    assert statuses(found) == {"transcripts": "flagged", "error rate": "flagged", "no loops": "holds"}
    assert found[0].told.endswith("it pads with zeros")
    same = transcripts(said, heard("one two", "three"), heard("one two", "three"), "there", otherwise)
    assert statuses(same)["transcripts"] == "holds"


def test_a_quantised_one_may_err_a_little_more_and_not_surely_much():
    texts = [f"word{i} and word{i + 1}" for i in range(40)]
    said = sounds(*texts)
    few = [texts[0].replace("and", "end"), *texts[1:]]
    found = list(transcripts(said, heard(*texts), heard(*few), "there", QUANTISED))
    assert statuses(found) == {"transcripts": "holds", "error rate": "flagged", "no loops": "holds"}
    assert found[1].facts["points"] == pytest.approx(100 / 120)
    many = [text.replace("and", "end") for text in texts]
    assert statuses(transcripts(said, heard(*texts), heard(*many), "there", QUANTISED))["error rate"] == "fails"
    assert statuses(transcripts(said, heard(*many), heard(*texts), "there", QUANTISED))["error rate"] == "holds"


def test_failed_decodes_and_loops_are_told():
    said = sounds("one", "two")
    found = list(transcripts(said, heard("one", "two"), [Hypothesis("one"), "it ended (signal 11)"], "there", EXACT))
    assert (found[0].status, "signal 11" in found[0].told) == ("fails", True)
    loop = "go go go go go go"
    assert (
        statuses(transcripts(said, heard("one", "two"), heard("one", loop), "there", QUANTISED))["no loops"] == "fails"
    )
    both = transcripts(said, heard("one", loop), heard("one", loop), "there", QUANTISED)
    assert statuses(both)["no loops"] == "flagged"


def test_of_decodes_that_failed_nothing_holds():
    said, ended = sounds("one", "two"), ["it ended (signal 11)"] * 2
    found = statuses(transcripts(said, heard("one", "two"), ended, "there", EXACT))
    assert found == {"decodes": "fails", "transcripts": "skipped", "error rate": "skipped", "no loops": "skipped"}
    assert times(said, ended, "there").status == "skipped"
    # where one of the two was made, it alone is told of
    some = list(transcripts(said, heard("one", "two"), [Hypothesis("one"), ended[0]], "there", EXACT))
    assert statuses(some) == {"decodes": "fails", "transcripts": "holds", "error rate": "holds", "no loops": "holds"}
    assert "1 of 1 transcripts" in some[1].told
    unheard = statuses(transcripts(said, ended, heard("one", "two"), "there", EXACT))
    assert unheard.pop("the source's decodes") == "flagged"
    assert set(unheard.values()) == {"skipped"}


@given(before=st.text(max_size=400), one=st.text(max_size=400), other=st.text(max_size=400))
def test_of_two_long_texts_the_place_where_they_part_is_told(before, one, other):
    said = sounds("a word")
    found = list(transcripts(said, heard(f"{before}<{one}"), heard(f"{before}>{other}"), "there", EXACT))
    written = found[0].told.partition("it writes ")[2]
    assert {">", "<"} <= set(written)
    # of a letter that does not print repr makes ten
    assert len(written) < 2 * 10 * 50 + 20


def test_the_difference_is_told_within_what_a_table_shows():
    same = "and so it went on for a very long while, " * 20
    said = sounds("a word")
    found = list(transcripts(said, heard(f"{same}to the sea {same}"), heard(f"{same}to the hill {same}"), "x", EXACT))
    shown = as_table("t", found).rows[0][3]
    assert ("the hill and so" in shown, "the sea and so" in shown) == (True, True)


@pytest.mark.parametrize(("pairs", "status"), [
    ([(0, 1), (1, 2.5)], "holds"), ([(0, 2), (1, 2.5)], "holds"), ([(3, 4), (1, 2)], "fails"), ([(2, 1)], "fails"),
    ([(0, 1), (1, 1)], "flagged"), ([], "holds"),
])  # fmt: skip
def test_segments_follow_one_another(pairs, status):
    said = [Hypothesis("one", segments=tuple(Segment(a, b, "x") for a, b in pairs)), "it ended (signal 6)"]
    verdict = times(sounds("one", "two"), said, "there")
    assert (verdict.status, verdict.facts) == (status, {"segments": len(pairs)})


def test_silence_that_gives_text_is_flagged():
    assert silence(Hypothesis(""), Hypothesis(""), "there").status == "holds"
    told = silence(Hypothesis("you"), Hypothesis("Thank you."), "there")
    assert (told.status, told.facts) == ("flagged", {"export": "Thank you.", "source": "you"})
    assert silence(Hypothesis(""), "it ended (signal 6)", "there").status == "fails"


def test_of_a_long_recording_the_first_half_minute_is_taken_without_its_text():
    long = windowed(Sound(np.zeros(40 * 16_000, np.float32), Row("a.flac", "many words")))
    assert (long.seconds, long.row.text) == (30.0, "")
    (short,) = sounds("one")
    assert windowed(short) is short


# ---- L5 ----


def test_the_size_is_the_one_foreseen(tmp_path):
    subject = Subject(tmp_path, "ggml", "q5_0", False, (), (), (), nbytes=50, predicted=50, as_float16=100)
    (one,) = sizes(subject)
    assert (one.status, one.told) == ("holds", "50 bytes, 0.50 of float16's")
    subject.nbytes = 51
    (one,) = sizes(subject)
    assert (one.status, one.told) == ("fails", "51 bytes, by its source it takes 50")
    told = spent(Spent(0.5, 2.0, 8.0, 30_000_000), "there")
    assert "ready after 0.5 s, 0.25 s for a second of audio, at most 30 MB of memory" in told.told


# ---- a runtime that ends, or is not there ----


class Nobody:
    """In the place of an original: nothing is heard."""

    tokens: dict[str, int] = {}  # noqa: RUF012


def hearing(level: int) -> Hearing:
    found = Hearing(Nobody(), sounds("one"), (False,), EXACT, level)  # type: ignore[arg-type]
    found.forcings = [forcing()]
    return found


def test_a_crash_is_a_failed_check_with_its_signal(tmp_path):
    def ends() -> Said:
        return Said(EndedError("whisper.cpp's process", "signal 11", "ggml.c:1: assert failed"))

    client = Client("whisper.cpp", "verify", lambda: True, ends)
    subject = Subject(tmp_path, "ggml", "f16", True, (), (), (client,))
    (one,) = hearing(3).of(subject, client)
    assert (one.level, one.status) == (3, "fails")
    assert one.told == "whisper.cpp's process ended (signal 11: ggml.c:1: assert failed)"


def test_a_real_segmentation_fault_is_one_too(tmp_path):
    """The child of every runtime, made to read at address 0."""

    def opens() -> RuntimeChild:
        return RuntimeChild("ctypes:string_at", {"ptr": 0}, what="its child")

    client = Client("there", "there", lambda: True, opens)
    subject = Subject(tmp_path, "ggml", "f16", True, (), (), (client,))
    (one,) = hearing(3).of(subject, client)
    assert (one.status, one.told) == ("fails", "its child ended (signal 11)")
    found = Verification("x.bin", "ggml", "f16", "base", [one])
    assert found.exit_code() == 1


def test_what_a_child_cannot_load_is_told_and_it_ends(tmp_path):
    for made_by, told in (("chorus.nothing:Here", "No module named"), ("ctypes:nothing", "has no attribute")):
        with pytest.raises(ChorusError, match=told):
            RuntimeChild(made_by, {}, what="its child")


def test_a_runtime_without_its_own_numbers_and_one_without_sounds_are_skipped(tmp_path):
    client = Client("there", "verify", lambda: True)
    subject = Subject(tmp_path, "ggml", "f16", True, (), (), (client,))
    assert [one.status for one in hearing(3).of(subject, client)] == ["skipped"]
    client = Client("there", "verify", lambda: True, lambda: Said(None))
    nothing = hearing(3)
    nothing.sounds = []
    assert ["no recordings" in one.told for one in nothing.of(subject, client)] == [True]


def test_what_is_asked_for_and_not_installed_has_exit_code_3(tmp_path, monkeypatch):
    from chorus.verify.formats import whisper_cpp

    path = tmp_path / "mine.bin"
    chorus.export(BASE, path, "ggml")
    monkeypatch.setattr(whisper_cpp, "find_spec", lambda name: None)
    asked = chorus.VerifyOptions(level=3, runtimes=("whisper.cpp",))
    found = chorus.verify(path, BASE, settings=asked)
    assert (found.ok, found.missing, found.exit_code()) == (True, ["whisper.cpp"], 3)
    assert [one.what for one in found.verdicts if one.status == "skipped"] == ["in whisper.cpp"]
    found = chorus.verify(path, BASE, settings=chorus.VerifyOptions(level=3))
    assert (found.missing, found.exit_code(), found.exit_code(strict=True)) == ([], 0, 1)


# ---- CTranslate2's directory ----


@pytest.fixture(scope="module")
def directories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("ct2")
    return chorus.export(
        BASE, folder / "all", "ctranslate2", types=("float32", "float16", "bfloat16", "int8", "int16")
    ).places


def looked_at(place: Path, level: int = 1):
    return chorus.verify(place, BASE, settings=chorus.VerifyOptions(level=level), form="ctranslate2")


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int8", "int16"])
def test_every_good_directory_passes(directories, kind):
    found = looked_at(directories[kind])
    assert found.counts.keys() == {"holds"}, found.failed
    assert sum(one.facts["tensors"] for one in found.verdicts if one.what.startswith("tensors in")) == 56


def damaged(place: Path, into: Path, what: str) -> Path:
    """A copy with one thing wrong, and without what tells its hashes."""
    made = Path(shutil.copytree(place, into / "damaged"))
    (made / "chorus.json").unlink()
    weights = made / "model.bin"
    data, records = bytearray(weights.read_bytes()), read(weights).records
    one, other = (records[f"encoder/layer_{i}/ffn/linear_0/weight"] for i in (0, 1))
    if what == "swapped":
        first, second = (bytes(data[r.start : r.start + r.nbytes]) for r in (one, other))
        data[one.start : one.start + one.nbytes], data[other.start : other.start + other.nbytes] = second, first
    elif what == "a value":
        data[one.start + 10] ^= 2
    elif what == "NaN":
        norm = records["encoder/layer_norm/gamma"]
        data[norm.start : norm.start + 4] = b"\xff\xff\xff\xff"
    elif what == "heads":
        data[records["encoder/num_heads"].start] = 8
    elif what == "vocabulary":
        tokens = (made / "vocabulary.json").read_text()
        (made / "vocabulary.json").write_text(tokens.replace('"seven"', '"sieben"', 1).replace("Ġseven", "Ġsieben", 1))
    elif what == "special ids":
        # two of them in each other's place
        tokens = (made / "vocabulary.json").read_text().replace("<|translate|>", "<|?|>")
        tokens = tokens.replace("<|transcribe|>", "<|translate|>").replace("<|?|>", "<|transcribe|>")
        (made / "vocabulary.json").write_text(tokens)
    elif what in ("no head", "no embedding"):
        # under another name of as many letters
        name = b"decoder/projection/weight" if what == "no head" else b"decoder/embeddings/weight"
        assert name in data
        data = bytearray(bytes(data).replace(name, name[:-1] + b"x"))
    elif what == "a scale":
        scale = records["encoder/layer_0/ffn/linear_0/weight_scale"]
        row = np.frombuffer(bytes(data[scale.start : scale.start + 4]), np.float32) * np.float32(1.3)
        data[scale.start : scale.start + 4] = row.tobytes()
    elif what == "mel bins":
        settings = (made / "preprocessor_config.json").read_text()
        (made / "preprocessor_config.json").write_text(settings.replace('"feature_size": 80', '"feature_size": 128'))
    weights.write_bytes(data[: len(data) // 2] if what == "cut" else data)
    return made


@pytest.mark.parametrize(("kind", "what", "level"), [
    ("float32", "swapped", 1), ("int8", "swapped", 1), ("int8", "a value", 1), ("float16", "a value", 1),
    ("int8", "a scale", 1), ("float32", "NaN", 0), ("float32", "heads", 0), ("float16", "vocabulary", 0),
    ("float16", "mel bins", 0), ("float16", "cut", 0), ("float16", "special ids", 0), ("int8", "no head", 0),
    ("float32", "no embedding", 0),
])  # fmt: skip
def test_every_damage_of_a_directory_is_caught(directories, kind, what, level, tmp_path):
    found = looked_at(damaged(directories[kind], tmp_path, what), level)
    assert found.failed_at(level), [one for one in found.verdicts if one.level == level]
    assert found.exit_code() == 1
    if level:
        assert not found.failed_at(0)


def test_a_directory_s_weights_that_end_too_early_are_caught_at_each_record(directories, tmp_path):
    """At its beginning, in the middle of its values, and a byte before its end; and in what stands before all."""
    made = Path(shutil.copytree(directories["int8"], tmp_path / "cut"))
    whole, source = (made / "model.bin").read_bytes(), chorus.open_model(BASE)
    records = read(made / "model.bin").records.values()
    cuts = [0, 3, 20, *(n for r in records for n in (r.start, r.start + r.nbytes // 2, r.start + r.nbytes - 1))]
    caught = 0
    for cut in cuts:
        (made / "model.bin").write_bytes(whole[:cut])
        with pytest.raises(CheckpointError):
            CTranslate2Verifier().open(made, source)
        caught += 1
    assert caught == len(cuts) == 3 + 3 * len(records) == 255
