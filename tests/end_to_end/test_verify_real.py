"""Exports in the runtimes that they are for, all levels: of a real Whisper, of the digits' base, of what is amiss."""

from __future__ import annotations

import json
import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import chorus
from chorus.data.audio import read_audio
from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.verify.verdict import Verification
from commands import chorus as command
from sounds import BASE, MANIFEST

pytestmark = pytest.mark.slow

ENGLISH = Path(os.environ.get("CHORUS_MODELS", "/nonexistent")) / "whisper-tiny.en"
SAMPLES = Path(os.environ.get("CHORUS_DATA", "/nonexistent")) / "samples" / "manifest.csv"
real = pytest.mark.skipif(not ENGLISH.is_dir() or not SAMPLES.exists(), reason="needs CHORUS_MODELS and CHORUS_DATA")


RUNTIMES = {"ggml": "_pywhispercpp", "ctranslate2": "faster_whisper", "openai": "whisper"}
whisper_cpp = pytest.mark.skipif(find_spec("_pywhispercpp") is None, reason="pywhispercpp is not installed")


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The English ones of the samples."""
    manifest = read_manifest(SAMPLES)
    rows = [row for row in manifest.rows if row.language == "en"]
    assert len(rows) == 12
    return write_manifest(
        [Row(str(row.audio), row.text, "en", split="test") for row in rows],
        tmp_path_factory.mktemp("samples") / "en.csv",
    )


def told(found: Verification) -> str:
    return "; ".join(f"L{one.level} {one.what}: {one.told}" for one in found.failed)


@real
@pytest.mark.parametrize(("to", "kind"), [
    ("ggml", "f16"), ("ggml", "q8_0"), ("ggml", "q5_0"), ("ctranslate2", "float32"), ("ctranslate2", "int8"),
    ("openai", "float16"), ("hf", "bfloat16"),
])  # fmt: skip
def test_a_real_whisper_passes_every_level(to, kind, sentences, tmp_path):
    if to in RUNTIMES:
        pytest.importorskip(RUNTIMES[to])
    (place,) = chorus.export(ENGLISH, tmp_path / "mine.bin", to, types=kind).places.values()
    found = chorus.verify(place, ENGLISH, data=sentences)
    assert found.ok, told(found)
    assert {one.level for one in found.verdicts} == {0, 1, 2, 3, 4, 5}
    assert "skipped" not in found.counts
    assert [one.status for one in found.verdicts if one.what.startswith("times in")] == ["holds"]
    forced = next(one for one in found.verdicts if one.what.startswith("forced logits"))
    assert forced.facts["positions"] > 50
    rates = [one for one in found.verdicts if one.what.startswith("error rate")]
    assert [one.facts["recordings"] for one in rates] == [12, 12]


@whisper_cpp
def test_whisper_cpp_s_end_over_float32_is_a_failed_check(tmp_path):
    """Before 1.9 it loads such a file and ends over its first convolution."""
    from importlib.metadata import version

    if tuple(map(int, version("pywhispercpp").split(".")[:2])) > (1, 5):
        pytest.skip("a whisper.cpp that runs float32")
    path = tmp_path / "f32.bin"
    chorus.export(BASE, path, "ggml", types="f32")
    found = chorus.verify(path, BASE, data=MANIFEST, settings=chorus.VerifyOptions(limit=2))
    assert not found.failed_at(0)
    assert not found.failed_at(1)
    ended = [one for one in found.failed if "signal 6" in one.told]
    assert {one.level for one in ended} == {3, 4}, told(found)


@pytest.fixture(scope="module")
def never(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Whisper of random weights that has been taught some digits, none of them with timestamps."""
    from transformers import AutoTokenizer, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    place = tmp_path_factory.mktemp("never") / "model"
    shutil.copytree(BASE, place)
    torch.manual_seed(0)
    model = WhisperForConditionalGeneration(WhisperConfig.from_pretrained(BASE))
    tokenizer, extractor = AutoTokenizer.from_pretrained(BASE), WhisperFeatureExtractor.from_pretrained(BASE)
    rows = [row for row in read_manifest(MANIFEST).rows if row.split == "train"][::40][:16]
    audio = [read_audio(row.audio, start_s=row.start, end_s=row.end) for row in rows]
    features = extractor(audio, sampling_rate=16_000, return_tensors="pt").input_features
    first = tokenizer.convert_tokens_to_ids(["<|en|>", "<|transcribe|>", "<|notimestamps|>"])
    targets = [[*first, *tokenizer.encode(f" {row.text}", add_special_tokens=False), 50257] for row in rows]
    longest = max(map(len, targets))
    labels = torch.tensor([one + [-100] * (longest - len(one)) for one in targets])
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    for step in range(60):
        part = slice(step % 4 * 4, step % 4 * 4 + 4)
        loss = model(input_features=features[part], labels=labels[part]).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    model.half().save_pretrained(place)
    shutil.copy(BASE / "generation_config.json", place)
    return place


@whisper_cpp
def test_a_model_that_was_never_taught_timestamps_is_caught(never, tmp_path, capsys):
    path = tmp_path / "never.bin"
    chorus.export(never, path, "ggml")
    line = ["verify", path, "--against", never, "--data", MANIFEST, "--limit", "3", "--level", "4", "--json"]
    done = command(*line)
    report = json.loads(done.stdout)
    (caught,) = [one for one in report["verdicts"] if one["what"] == "timestamps, as the model was taught"]
    assert (done.returncode, caught["status"], caught["facts"]["share"] < 0.05) == (1, "fails", True), caught
    again = json.loads(command(*line, "--no-timestamps").stdout)
    assert not [one for one in again["verdicts"] if "timestamps, as" in one["what"]]
    assert not [one for one in again["verdicts"] if one["status"] == "fails" and one["level"] < 4]
