"""Evaluation on real recordings: the digits' base, its merges and adapters, every kind of backend, kills, faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import chorus
from chorus.data.audio import write_flac
from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.errors import CheckpointError, ChorusError, DataError, MissingExtraError, OutputError, UsageError
from chorus.evaluate.results import PARTIAL, ROWS, SUMMARY, read_evaluation
from chorus.evaluate.run import evaluate
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.isolated import Isolated
from chorus.transcribe.backends.protocol import Hypothesis, Sound
from chorus.transcribe.conditions import check_condition, under
from chorus.transcribe.decoding import Decoding, decoding
from chorus.transcribe.segments import joined, pieces
from chorus.transcribe.systems import folder_of, open_system, role_of
from chorus.transcribe.test_sets import load_test_set
from sounds import BASE, MANIFEST, tiny, tone

FAST = Decoding(window_s=3, max_new_tokens=12)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty test recordings, eight of each speaker."""
    manifest = read_manifest(MANIFEST)
    rows: list[Row] = []
    for speaker in ("george", "jackson", "nicolas", "theo", "yweweler"):
        rows += [r for r in manifest.rows if r.speaker == speaker and r.split == "test"][::6][:8]
    return write_manifest(rows, tmp_path_factory.mktemp("digits") / "manifest.csv")


@pytest.fixture(scope="module")
def heard(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The base on them, clean and under noise."""
    return evaluate(
        str(BASE), digits, tmp_path_factory.mktemp("heard") / "base", decoding=FAST,
        conditions=["clean", "noise:0db"], device="cpu",
    )  # fmt: skip


def test_real_speech_is_heard_and_counted(heard: Any) -> None:
    told = heard.summary
    assert told["all"]["utterances"] == 40
    assert told["all"]["wer"] < 50
    assert told["by"]["speaker"]["theo"]["wer"] < told["by"]["speaker"]["nicolas"]["wer"]
    assert told["conditions_measured"]["noise:0db"]["wer"] > told["all"]["wer"]
    assert told["normaliser"] == "marks"
    assert told["all"]["interval"]["by"] == "utterance"
    assert told["macro"]["domain"]["error_rate"] == pytest.approx(
        np.mean([m["error_rate"] for m in told["by"]["domain"].values()])
    )
    assert told["versions"]["jiwer"]
    assert len(heard.rows) == 80
    row = json.loads((heard.directory / ROWS).read_text().splitlines()[0])
    assert {"name", "condition", "reference", "hypothesis", "errors", "length", "unit", "speaker"} <= set(row)
    assert not (heard.directory / PARTIAL).exists()
    assert sum(r["errors"] for r in heard.rows if r["condition"] == "clean") == round(told["all"]["wer"] * 40 / 100)


def test_the_same_again_is_read_and_another_normaliser_counts_again(heard: Any, digits: Path) -> None:
    before = (heard.directory / ROWS).stat().st_mtime_ns
    again = evaluate(str(BASE), digits, heard.directory, decoding=FAST, conditions=["clean", "noise:0db"], device="cpu")
    assert (heard.directory / ROWS).stat().st_mtime_ns == before
    assert again.summary == heard.summary
    with pytest.raises(OutputError, match="another evaluation"):
        evaluate(str(BASE), digits, heard.directory, decoding=Decoding(beam=2), device="cpu")
    raw = evaluate(
        str(BASE), digits, heard.directory, decoding=FAST, conditions=["clean", "noise:0db"], device="cpu",
        normaliser="raw",
    )  # fmt: skip
    assert raw.summary["normaliser"] == "raw"
    assert raw.summary["timing"] == heard.summary["timing"]
    assert read_evaluation(heard.directory).normaliser == "raw"


def test_texts_are_transformers_own_at_any_batch_size(digits: Path, tmp_path: Path) -> None:
    """Greedy texts equal `generate`'s; where a batch size changes one, the two logits must be as good as equal."""
    rows = read_manifest(digits).rows
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration, WhisperTokenizerFast

    model = WhisperForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32).eval()
    tokenizer, extractor = (c.from_pretrained(BASE) for c in (WhisperTokenizerFast, WhisperFeatureExtractor))
    test = load_test_set([digits])
    texts = []
    for u in list(test.utterances.values())[:12]:
        inputs = extractor(u.audio(), sampling_rate=16_000, return_tensors="pt").input_features
        ids = model.generate(input_features=inputs, language="en", task="transcribe", max_new_tokens=12)
        texts.append(tokenizer.batch_decode(ids, skip_special_tokens=True)[0].strip())
    few = write_manifest(rows[:12], tmp_path / "few.csv")
    found = {
        size: [r["hypothesis"] for r in evaluate(
            str(BASE), few, tmp_path / f"b{size}", decoding=Decoding(batch_size=size, max_new_tokens=12), device="cpu"
        ).rows]
        for size in (1, 5, 12)
    }  # fmt: skip
    differing = sum(t != texts for t in found.values())
    print(f"{differing} of {len(found)} batch sizes differ")
    assert found[1] == texts
    assert found[5] == found[12] == found[1]


def test_beams_timestamps_prompts_and_detection_run(digits: Path, tmp_path: Path) -> None:
    few = write_manifest(read_manifest(digits).rows[-6:], tmp_path / "few.csv")
    for name, settings in {
        "beam": {"beam": 3}, "timestamps": {"timestamps": True}, "prompt": {"prompt": "digits"},
        "fixed": {"language": "en"}, "prompt-beam": {"prompt": "digits", "beam": 2},
    }.items():  # fmt: skip
        found = evaluate(
            str(BASE), few, tmp_path / name, decoding=Decoding(max_new_tokens=12, **settings), device="cpu"
        )
        assert found.summary["all"]["failed"] == 0, found.rows
        if "prompt" not in name:  # the base has never seen one
            assert found.summary["all"]["wer"] <= 50, name
    found = evaluate(
        str(BASE), few, tmp_path / "detect", decoding=Decoding(language="detect", max_new_tokens=12), device="cpu"
    )
    assert all(len(r["detected_language"]) in (2, 3) for r in found.rows)


def test_a_recipe_and_an_adapter_are_heard_without_being_written(digits: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import WhisperForConditionalGeneration

    model = WhisperForConditionalGeneration.from_pretrained(BASE, dtype=torch.float32)
    torch.manual_seed(0)
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    adapter = tmp_path / "adapter"
    tuned.save_pretrained(adapter)
    few = write_manifest(read_manifest(digits).rows[::4], tmp_path / "few.csv")
    applied = evaluate(f"{BASE}+{adapter}", few, tmp_path / "applied", decoding=FAST, device="cpu")
    written = tuned.merge_and_unload()
    written.save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json", "generation_config.json"):
        (tmp_path / "merged" / name).write_bytes((BASE / name).read_bytes())
    merged = evaluate(str(tmp_path / "merged"), few, tmp_path / "m", decoding=FAST, device="cpu")
    assert [r["hypothesis"] for r in applied.rows] == [r["hypothesis"] for r in merged.rows]
    recipe = tmp_path / "recipe.yml"
    entries = [{"model": str(BASE)}, {"model": str(tmp_path / "merged")}]
    recipe.write_text(yaml.safe_dump({"merge_method": "linear", "models": entries, "parameters": {"weight": 1}}))
    planned = chorus.evaluate(chorus.plan(recipe), few, tmp_path / "r", decoding=FAST, device="cpu")
    assert planned.summary["system"]["role"] == "merge"
    chorus.merge(recipe, tmp_path / "out")
    on_disk = evaluate(str(tmp_path / "out"), few, tmp_path / "d", decoding=FAST, device="cpu")
    assert [r["hypothesis"] for r in planned.rows] == [r["hypothesis"] for r in on_disk.rows]
    assert role_of(tmp_path / "out")[0] == "merge"
    assert open_system(str(adapter)).kind == "adapter"  # its base is in its config


def test_faster_whisper_converts_into_the_cache_and_hears_alike(digits: Path, tmp_path: Path, cache: Path) -> None:
    few = write_manifest(read_manifest(digits).rows[-10:], tmp_path / "few.csv")
    settings = Decoding(max_new_tokens=12)
    ours = evaluate(str(BASE), few, tmp_path / "t", decoding=settings, device="cpu")
    theirs = evaluate(str(BASE), few, tmp_path / "f", decoding=settings, device="cpu", backend="faster-whisper")
    assert theirs.summary["versions"]["faster-whisper"]
    assert sum(a["hypothesis"] != b["hypothesis"] for a, b in zip(ours.rows, theirs.rows, strict=True)) <= 2
    converted = next((cache / "ctranslate2").iterdir())
    direct = evaluate(str(converted), few, tmp_path / "c", decoding=settings, device="cpu")
    assert direct.summary["backend"] == "faster-whisper"
    assert [r["hypothesis"] for r in direct.rows] == [r["hypothesis"] for r in theirs.rows]
    with pytest.raises(UsageError, match="converted"):
        evaluate(str(converted), few, tmp_path / "x", decoding=settings, device="cpu", backend="transformers")


@pytest.mark.parametrize("kind", ["wav2vec2", "qwen2_audio", "omni", "qwen3_asr", "voxtral"])
def test_other_families_decode(kind: str, tmp_path: Path) -> None:
    model = tiny(tmp_path / "model", kind)
    rows = []
    for i in range(5):
        write_flac(tmp_path / f"{i}.flac", tone(0.4 + 0.2 * i, 200 + 50 * i, seed=i))
        rows.append(Row(f"{i}.flac", "one", "en", root=tmp_path))
    manifest = write_manifest(rows, tmp_path / "m.csv")
    found = [
        evaluate(
            str(model), manifest, tmp_path / f"b{size}", decoding=Decoding(batch_size=size, max_new_tokens=5),
            device="cpu",
        )
        for size in (1, 3)
    ]  # fmt: skip
    assert [r["hypothesis"] for r in found[0].rows] == [r["hypothesis"] for r in found[1].rows]
    assert all(one.summary["all"]["failed"] == 0 for one in found)


# ---- long audio ----


def test_voice_activity_cuts_at_pauses() -> None:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker == "theo" and r.split == "test"][:6]
    from chorus.data.utterance import Utterance

    words = [Utterance(r).audio() for r in rows]
    silence = np.zeros(3 * 16_000, np.float32)
    audio = np.concatenate([part for word in words for part in (silence, word)] + [silence])
    found = pieces(audio, 4.0)
    assert len(found) >= 5
    assert 0 < sum(b - a for a, b in found) < 0.7 * len(audio)
    assert len(pieces(audio, 30.0)) == 1  # what lies between two words stays, where both fit
    assert pieces(np.zeros(16_000, np.float32), 30.0) == []
    assert joined([(0, 10), (12, 20), (30, 75)], 25) == [(0, 20), (30, 55), (55, 75)]


def test_long_recordings_are_heard_whole_and_in_pieces(tmp_path: Path) -> None:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker == "theo" and r.split == "test"][:8]
    from chorus.data.utterance import Utterance

    silence = np.zeros(5 * 16_000, np.float32)
    audio = np.concatenate([part for r in rows for part in (Utterance(r).audio(), silence)])
    write_flac(tmp_path / "long.flac", audio)
    text = " ".join(r.text for r in rows)
    manifest = write_manifest([Row("long.flac", text, "en", "theo", root=tmp_path)], tmp_path / "m.csv")
    for segments in ("auto", "vad", "native"):
        found = evaluate(str(BASE), manifest, tmp_path / segments, decoding=Decoding(segments=segments), device="cpu")
        assert found.summary["all"]["failed"] == 0, found.rows
        assert found.rows[0]["hypothesis"]
    with pytest.raises(UsageError, match="no long form"):
        evaluate(
            str(tiny(tmp_path / "w", "wav2vec2")), manifest, tmp_path / "n", decoding=Decoding(segments="native"),
            device="cpu",
        )  # fmt: skip


# ---- conditions ----


@pytest.mark.parametrize(
    "condition", ["noise:10db", "pink-noise:5db", "telephone", "reverb:0.3", "codec:opus", "speed:1.2",
                  "telephone+noise:15db"]
)  # fmt: skip
def test_conditions_change_the_audio_the_same_way_each_time(condition: str) -> None:
    audio = tone(0.5)
    once, again = under(audio, condition, "key"), under(audio, condition, "key")
    assert np.array_equal(once, again)
    assert len(once) != len(audio) or not np.allclose(once, audio)
    if "noise" in condition:
        assert not np.array_equal(once, under(audio, condition, "another"))


def test_unknown_conditions_name_the_nearest() -> None:
    with pytest.raises(UsageError, match='did you mean "telephone"'):
        check_condition("telefone")
    with pytest.raises(UsageError, match="needs a number"):
        check_condition("noise:loud")
    with pytest.raises(UsageError, match="synthetic"):
        check_condition("child")
    assert under(tone(0.1), "clean", "k").shape == tone(0.1).shape


# ---- kills and faults ----


class Faulty:
    """A backend that breaks on some sounds."""

    longest_s: float | None = 30.0
    long_form = True
    facts: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, bad: Sequence[str]) -> None:
        self.bad, self.batches = set(bad), []

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (0.0, -seconds)

    def check(self, rows: Sequence[Row]) -> None:
        pass

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        self.batches.append(len(sounds))
        if any(s.row.text in self.bad for s in sounds):
            raise RuntimeError("the decoder is confused")
        return [Hypothesis(s.row.text) for s in sounds]

    def replace(self, tensors: object) -> None:
        raise CheckpointError("no other weights", "load it anew")

    def close(self) -> None:
        pass


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Faulty:
    made = Faulty(["three"])
    monkeypatch.setitem(BACKENDS._items, "faulty", lambda system, decoding, device: made)
    BACKENDS.names()
    return made


def test_what_breaks_a_batch_is_a_failed_utterance_not_a_crash(digits: Path, tmp_path: Path, faulty: Faulty) -> None:
    rows = [r for r in read_manifest(digits).rows if r.text in ("two", "three", "four")][:6]
    manifest = write_manifest(rows, tmp_path / "m.csv")
    found = evaluate(str(BASE), manifest, tmp_path / "out", backend="faulty", device="cpu")
    bad = sum(r.text == "three" for r in rows)
    assert 0 < bad < len(rows)
    assert found.summary["all"]["failed"] == bad
    assert found.summary["all"]["words"]["deletions"] == bad
    assert next(r["failed"] for r in found.rows if r["reference"] == "three") == "RuntimeError: the decoder is confused"
    only = write_manifest([r for r in rows if r.text == "three"], tmp_path / "bad.csv")
    for _ in range(2):  # given again it finds the same, and says the same
        with pytest.raises(ChorusError, match="every decode failed: RuntimeError"):
            evaluate(str(BASE), only, tmp_path / "all", backend="faulty", device="cpu")
    assert read_evaluation(tmp_path / "all").summary["all"]["failed"] == bad


def test_translations_are_told_by_bleu_and_chrf(digits: Path, tmp_path: Path, faulty: Faulty) -> None:
    from chorus.evaluate.describe import metrics_table

    faulty.bad.clear()
    found = evaluate(
        str(BASE), digits, tmp_path / "o", backend="faulty", device="cpu", decoding=Decoding(task="translate"),
        conditions=["clean", "telephone"],
    )  # fmt: skip
    told = found.summary["metrics"]
    assert set(told) == {"clean", "telephone"}
    assert told["clean"]["chrf"]["value"] == pytest.approx(100.0)
    table = metrics_table([found])
    assert table is not None
    assert told["clean"]["bleu"]["signature"] in table.notes[0]
    assert table.columns[2:] == ["BLEU", "chrF"]
    assert len(table.rows) == 2


def test_batches_hold_sounds_of_like_length(digits: Path, tmp_path: Path, faulty: Faulty) -> None:
    faulty.bad.clear()
    evaluate(str(BASE), digits, tmp_path / "o", backend="faulty", device="cpu", decoding=Decoding(batch_size=16))
    assert faulty.batches == [16, 16, 8]


def test_damaged_audio_is_counted_and_unreadable_audio_refused(tmp_path: Path, faulty: Faulty) -> None:
    write_flac(tmp_path / "good.flac", tone(1.0))
    write_flac(tmp_path / "cut.flac", tone(3.0))
    data = (tmp_path / "cut.flac").read_bytes()
    (tmp_path / "cut.flac").write_bytes(data[: len(data) // 3])
    (tmp_path / "junk.flac").write_bytes(b"not audio")
    rows = [Row(n, "one", "en", root=tmp_path) for n in ("good.flac", "cut.flac", "junk.flac", "gone.flac")]
    manifest = write_manifest(rows, tmp_path / "m.csv")
    with pytest.raises(DataError, match=r"2 of 4 recordings cannot be read(.|\n)*gone\.flac") as caught:
        evaluate(str(BASE), manifest, tmp_path / "x", backend="faulty", device="cpu")
    assert "--skip-bad" in caught.value.hint
    test = load_test_set([manifest], skip_bad=True)
    found = evaluate(str(BASE), test, tmp_path / "o", backend="faulty", device="cpu")
    assert found.summary["test"]["left_out"] == {"unreadable": 2}
    assert found.summary["all"]["utterances"] == 2


def test_a_row_without_a_language_is_refused_before_decoding(tmp_path: Path) -> None:
    write_flac(tmp_path / "a.flac", tone(1.0))
    manifest = write_manifest([Row("a.flac", "one", root=tmp_path)], tmp_path / "m.csv")
    with pytest.raises(DataError, match="no language") as caught:
        evaluate(str(BASE), manifest, tmp_path / "o", device="cpu")
    assert "--language" in caught.value.hint
    with pytest.raises(DataError, match='no language "xx"'):
        evaluate(str(BASE), manifest, tmp_path / "o", device="cpu", decoding=Decoding(language="xx"))


def test_a_killed_evaluation_goes_on_where_it_stopped(digits: Path, tmp_path: Path) -> None:
    """SIGKILL while rows are written; the second run hears only what is missing, with the same result."""
    place = tmp_path / "out"
    command = [sys.executable, "-m", "chorus", "evaluate", str(BASE), "--data", str(digits), "-o", str(place), "-q",
               "--window", "3", "--max-new-tokens", "12", "--batch-size", "1", "--device", "cpu"]  # fmt: skip
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = place / "base" / PARTIAL
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and child.poll() is None:
        if partial.exists() and partial.read_bytes().count(b"\n") > 5:
            break
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (place / "base" / SUMMARY).exists(), "it was too quick to be killed"
    with pytest.raises(DataError, match="not finished"):
        read_evaluation(place / "base")
    with partial.open("a") as file:
        file.write('{"name": "torn')
    known = partial.read_text().count('"hypothesis"')
    seen: list[int] = []
    settings = FAST.model_copy(update={"batch_size": 1})
    found = evaluate(
        str(BASE), digits, place / "base", decoding=settings, device="cpu",
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert seen[0] == known > 0
    whole = evaluate(str(BASE), digits, tmp_path / "whole", decoding=settings, device="cpu")
    assert found.rows == whole.rows
    assert (place / "base" / ROWS).read_bytes() == (tmp_path / "whole" / ROWS).read_bytes()


def test_parquet_holds_the_same_rows(digits: Path, tmp_path: Path, faulty: Faulty) -> None:
    found = evaluate(str(BASE), digits, tmp_path / "p", backend="faulty", device="cpu", parquet=True)
    assert (tmp_path / "p" / "results.parquet").exists()
    assert not (tmp_path / "p" / ROWS).exists()
    assert read_evaluation(tmp_path / "p").rows == found.rows


def test_damaged_results_are_named(heard: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no evaluation"):
        read_evaluation(tmp_path)
    (tmp_path / SUMMARY).write_text("{broken")
    (tmp_path / ROWS).write_text("")
    with pytest.raises(DataError, match="not readable as JSON"):
        read_evaluation(tmp_path)
    (tmp_path / SUMMARY).write_text('{"kind": "something"}')
    with pytest.raises(DataError, match="not the summary"):
        read_evaluation(tmp_path)
    (tmp_path / SUMMARY).write_text('{"kind": "evaluation", "format": 99}')
    with pytest.raises(DataError, match="another version"):
        read_evaluation(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        evaluate(str(BASE), MANIFEST, tmp_path / "other", decoding=FAST, device="cpu")


class Dies:
    """A backend whose process dies of a signal on long sounds."""

    facts: dict[str, str] = {"runtime": "1"}  # noqa: RUF012
    longest_s: float | None = 20.0
    long_form = False

    def sort_key(self, seconds: float) -> tuple[float, float]:
        return (round(seconds), -seconds)

    def replace(self, tensors: object) -> None:
        raise NotImplementedError

    def close(self) -> None:
        print("closed")

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s

    def check(self, rows: Sequence[Row]) -> None:
        if any(not r.language for r in rows):
            raise DataError("no language", "name one")

    def transcribe(self, sounds: Sequence[Sound]) -> list[Hypothesis]:
        print("a library prints to stdout")
        if any(s.seconds > self.limit_s for s in sounds):
            os.kill(os.getpid(), signal.SIGSEGV)
        return [Hypothesis(f"{s.seconds:.1f} s", s.row.language) for s in sounds]


def test_a_runtime_that_dies_takes_an_utterance_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [Path(__file__).parent, Path(__file__).parents[1], *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, places)))
    made = Isolated("test_evaluate:Dies", {"limit_s": 1.0})
    try:
        assert (made.facts, made.longest_s, made.long_form) == ({"runtime": "1"}, 20.0, False)
        assert made.sort_key(1.6) == (2, -1.6)
        short, long = (Sound(tone(s), Row("a.flac", language="en")) for s in (0.5, 1.5))
        assert made.transcribe([short, short]) == [Hypothesis("0.5 s", "en")] * 2
        with pytest.raises(ChorusError, match="signal 11"):
            made.transcribe([short, long])
        assert made.transcribe([short]) == [Hypothesis("0.5 s", "en")]
        made.check([short.row])
        with pytest.raises(DataError, match="no language") as caught:
            made.check([replace(short.row, language="")])
        assert caught.value.hint == "name one"
        with pytest.raises(CheckpointError, match="Dies takes no other weights"):
            made.replace({})
    finally:
        made.close()


def test_a_missing_backend_says_how_to_install_it(
    digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chorus.transcribe.backends import faster_whisper

    monkeypatch.setattr(faster_whisper, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError) as caught:
        evaluate(str(BASE), digits, tmp_path / "o", backend="faster-whisper", device="cpu")
    assert caught.value.exit_code == 3
    assert 'pip install "chorus-merge[evaluate]"' in caught.value.hint


def test_systems_that_cannot_be_heard_are_refused(digits: Path, tmp_path: Path, qwen: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be decoded"):
        evaluate(str(qwen.base), digits, tmp_path / "o", device="cpu")
    with pytest.raises(UsageError, match="unknown backend"):
        evaluate(str(BASE), digits, tmp_path / "o", device="cpu", backend="wisper")
    with pytest.raises(UsageError, match="int8"):
        evaluate(str(BASE), digits, tmp_path / "o", device="cpu", decoding=Decoding(dtype="int8"))
    with pytest.raises(UsageError, match="preset"):
        decoding("papre")
    with pytest.raises(ChorusError, match="beam"):
        decoding("paper", {"beam": 0})
    assert decoding("paper").segments == "vad"
    assert folder_of("../a b") == "--a_b" or "/" not in folder_of("../a b")


def test_recordings_of_one_name_in_two_folders_are_told_apart(tmp_path: Path) -> None:
    manifests = []
    for folder in ("one", "two"):
        write_flac(tmp_path / folder / "a.flac", tone(0.5, seed=len(folder)))
        manifests.append(
            write_manifest([Row("a.flac", "x", "en", root=tmp_path / folder)], tmp_path / folder / "m.csv")
        )
    test = load_test_set([f"left={manifests[0]}", manifests[1]])
    assert list(test.utterances) == ["one/a.flac", "two/a.flac"]
    assert [u.row.domain for u in test.utterances.values()] == ["left", ""]
    with pytest.raises(DataError, match="none of its 1 rows"):
        load_test_set([manifests[0]], where={"speaker": "nobody"})


@pytest.mark.slow
def test_batch_sizes_agree_on_whole_test_sets(tmp_path: Path) -> None:
    """The demo's test set whole, and `sentences_de`: what differs is a tie, and how many did is printed."""

    sets = {"digits": load_test_set([MANIFEST])}
    place = os.environ.get("CHORUS_DATA")
    if place and (Path(place) / "sentences_de").exists():
        sets["sentences_de"] = load_test_set([Path(place) / "sentences_de" / "manifest.csv"])
    for name, test in sets.items():
        texts = {}
        for size in (1, 7, 32):
            settings = Decoding(batch_size=size, max_new_tokens=40)
            found = evaluate(str(BASE), test, tmp_path / name / str(size), decoding=settings, device="cpu")
            texts[size] = [r["hypothesis"] for r in found.rows]
        differing = [i for i in range(len(texts[1])) if len({texts[size][i] for size in texts}) > 1]
        print(f"{name}: {len(differing)} of {len(texts[1])} texts differ between batch sizes 1, 7 and 32")
        backend = BACKENDS.get("transformers")(open_system(str(BASE)), Decoding(max_new_tokens=40), "cpu")
        utterances = list(test.utterances.values())
        for i in differing:
            assert _gap(backend, utterances[i]) <= 1e-3


def _gap(backend: Any, utterance: Any) -> float:
    """The smallest distance of the best two logits on the way of an utterance alone."""
    from chorus.transcribe.backends.greedy import greedy

    sound = Sound(utterance.audio(), utterance.row, utterance.key())
    mels = backend.whisper.features
    features = mels.window([mels(sound.audio)], 3000)
    gaps: list[float] = []

    def observe(rows: Any, logits: Any) -> None:
        best = logits.topk(2).values[0]
        gaps.append(float(best[0] - best[1]))

    with torch.inference_mode():
        hidden = backend.model.get_encoder()(features).last_hidden_state
        settings = backend.model.generation_config
        code = backend.language(sound.row)
        spoken = backend.whisper.spoken(code, "asr")
        prefix = [settings.decoder_start_token_id, *spoken, settings.no_timestamps_token_id]
        greedy(backend.model, hidden, [prefix], max_new_tokens=40, suppress=settings.suppress_tokens or (),
               suppress_first=settings.begin_suppress_tokens or (), observe=observe)  # fmt: skip
    return min(gaps)
