"""A training as a fork ends in the same bytes as one in a process that has imported torch for itself."""

from __future__ import annotations

import json

import pytest

import commands
from chorus.train.layers import load_train_config
from chorus.train.run import train
from sounds import corpus, tiny


@pytest.mark.parametrize("more", [[], ["adapter.rank=2", "adapter.type=pissa"]], ids=["full", "pissa"])
def test_forks_train_to_the_same_bytes(tmp_path, more):
    manifest, _ = corpus(tmp_path / "speech", 12)
    base = tiny(tmp_path / "base", "wav2vec2")
    settings = [f"model.base={base}", f"data.train={manifest}", "train.epochs=1", "train.batch_size=4", "device=cpu"]
    settings += [*more, "augment.speed=[0.9, 1.1]", "augment.noise=0.5"]  # what is drawn is drawn alike
    facts = []
    for name in ("one", "two"):
        done = commands.chorus("train", *settings, f"output={name}", f"logs=logs-{name}", "--json", "-q", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        facts.append(json.loads(done.stdout))
    places = [f"output={tmp_path / 'own'}", f"logs={tmp_path / 'logs-own'}"]
    own = train(load_train_config(overrides=[*settings, *places]))
    weights = "adapter_model.safetensors" if more else "model.safetensors"
    for name, told in zip(("one", "two"), facts, strict=True):
        assert (told["best"], told["before"], told["steps"]) == (own.best, own.before, own.steps)
        for file in (weights, "chorus.json"):
            assert (tmp_path / name / file).read_bytes() == (tmp_path / "own" / file).read_bytes(), file
