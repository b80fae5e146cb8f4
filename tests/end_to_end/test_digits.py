"""The example that `make demo` runs: its data, its base model, and the demo's own parts on a few steps."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

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


def test_the_specialists_configuration_fits_a_new_speaker_in_a_few_steps(tmp_path):
    from chorus.train.layers import load_train_config
    from chorus.train.run import train

    source = {"manifest": str(HERE / "data" / "manifest.csv"), "where": {"speaker": "nicolas"}}
    config = load_train_config(
        HERE / "specialist.yaml",
        {"model": {"base": str(BASE)}, "data": {"train": source}},
        overrides=["train.epochs=3", f"output={tmp_path}/out", f"logs={tmp_path}/logs", "dev.limit=20"],
    )
    train(config)
    curve = json.loads((tmp_path / "out" / "chorus.json").read_text())["curve"]
    losses = [value for _, value in curve["dev_loss"]]
    assert losses[-1] < 0.8 * losses[0]


def test_the_bases_phases_are_configurations(speech):
    import train_base

    from chorus.train.layers import load_train_config

    found = [
        load_train_config(HERE / "specialist.yaml", {"model": {"base": "b"}, **changes})
        for changes in train_base.phases(200)
    ]
    assert [c.train.epochs for c in found] == [200, 20, 20]
    assert [c.augment.zero_tail for c in found] == [0, 0, 0.3]
    assert [max(c.train.window_s) for c in found] == [5, 30, 30]
