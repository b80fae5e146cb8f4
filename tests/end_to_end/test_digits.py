"""The example that `make demo` runs: its data, its base model, and the demo's own parts on a few steps."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parents[2] / "examples" / "digits"
BASE = HERE / "base"


@pytest.fixture(scope="module")
def speech():
    pytest.importorskip("soundfile", reason='reading audio needs pip install "chorus-merge[audio]"')
    sys.path.insert(0, str(HERE))
    import speech

    return speech


def test_the_manifest_and_the_recordings_agree(speech):
    import soundfile

    rows = list(csv.DictReader((HERE / "data" / "manifest.csv").open(encoding="utf-8")))
    assert len(rows) == 2 * 400 + 3 * 250
    assert {r["speaker"] for r in rows} == {"george", "jackson", "nicolas", "theo", "yweweler"}
    for path in {r["path"] for r in rows}:
        info = soundfile.info(HERE / "data" / path)
        mine = [r for r in rows if r["path"] == path]
        assert (info.samplerate, info.channels) == (16000, 1)
        assert max(round(float(r["end"]) * 16000) for r in mine) == info.frames
        assert sum(round(float(r["duration"]) * 16000) for r in mine) == info.frames
    keys = [(r["speaker"], r["source"]) for r in rows]
    assert len(set(keys)) == len(keys), "a recording stands in two splits"
    assert sum(p.stat().st_size for p in (HERE / "data").iterdir()) < 8e6


def test_the_licences_are_told():
    for path in (HERE / "README.md", BASE / "README.md"):
        text = path.read_text()
        assert "Zohar Jackson" in text
        assert "CC BY-SA 4.0" in text
    assert "license: cc-by-sa-4.0" in (BASE / "README.md").read_text()


def test_the_base_is_what_the_runtimes_load():
    config = json.loads((BASE / "config.json").read_text())
    assert (config["vocab_size"], config["num_mel_bins"], config["max_source_positions"]) == (51865, 80, 1500)
    assert config["decoder_layers"] != 2
    assert config["dtype"] == "float16"
    assert sum(p.stat().st_size for p in BASE.iterdir()) < 10e6


def test_the_base_hears_its_speakers_with_and_without_timestamps(speech):
    recogniser = speech.Recogniser.load(BASE)
    test = speech.read_manifest(HERE / "data" / "manifest.csv", speakers=["theo", "yweweler"], split="test")[::4]
    assert len(test) == 25
    heard = speech.transcribe(recogniser, test)
    assert sum(h == u.text for h, u in zip(heard, test, strict=True)) >= 22
    features = recogniser.features([test[0].audio])
    timed = recogniser.model.generate(
        input_features=features, language="en", task="transcribe", return_timestamps=True, max_new_tokens=12
    )
    text = recogniser.tokenizer.decode(timed[0], decode_with_timestamps=True)
    assert "<|0." in text
    assert test[0].text in text


def test_a_shorter_window_is_the_same_model_on_fewer_frames(speech):
    recogniser = speech.Recogniser.load(BASE)
    table = recogniser.model.model.encoder.embed_positions.weight
    with recogniser.window(5):
        assert torch.equal(recogniser.model.model.encoder.embed_positions.weight, table[:250])
        recogniser.model(
            input_features=recogniser.features([torch.zeros(8000).numpy()], 5),
            decoder_input_ids=torch.tensor([[50258]]),
        )
    assert recogniser.model.model.encoder.embed_positions.weight.shape == (1500, 64)
    assert recogniser.model.config.max_source_positions == 1500


def test_a_few_steps_of_training_fit_a_new_speaker(speech):
    recogniser = speech.Recogniser.load(BASE)
    train = speech.read_manifest(HERE / "data" / "manifest.csv", speakers=["nicolas"], split="train")[::5]

    def loss() -> float:
        targets = [recogniser.targets(u.text, 0.5, timestamps=False) for u in train]
        features = recogniser.features([u.audio for u in train], 3)
        with torch.no_grad(), recogniser.window(3):
            return float(recogniser.model(input_features=features, labels=torch.tensor(targets)).loss)

    before, steps = loss(), []
    speech.fine_tune(
        recogniser,
        train,
        epochs=10,
        learning_rate=5e-4,
        windows_s=(3,),
        on_step=lambda i, n, value: steps.append(value),
    )
    assert len(steps) == 20
    assert loss() < 0.7 * before
