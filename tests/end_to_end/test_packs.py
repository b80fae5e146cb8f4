"""Real recordings outside the project: `CHORUS_DATA` names a folder of packs, each with a manifest.csv."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chorus.data.check import check
from chorus.data.manifest import read_manifest
from chorus.models.loading import limits_of
from chorus.train.layers import load_train_config
from chorus.train.run import train
from sounds import BASE

DATA = Path(os.environ.get("CHORUS_DATA", "nowhere"))
PACKS = ("commands_ar", "digits_en", "household_es", "samples", "sentences_de", "sentences_nl")
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="set CHORUS_DATA to a folder of speech packs")


@pytest.mark.parametrize("pack", PACKS)
def test_the_packs_have_nothing_that_would_spoil_a_training(pack):
    manifest = DATA / pack / "manifest.csv"
    if not manifest.exists():
        pytest.skip(f"no {pack} under CHORUS_DATA")
    rows = read_manifest(manifest).rows
    report = check(rows, limits=limits_of(str(BASE)))
    assert [(f.kind, f.rows[:3]) for f in report.findings if f.error] == []
    assert report.hours == pytest.approx(sum(r.duration for r in rows) / 3600, rel=1e-3)


@pytest.mark.slow
def test_languages_of_the_rows_are_learnt_together(tmp_path):
    """Three languages in one training: the loss on each falls, and each row is decoded in its own."""
    sources = [
        {"manifest": str(DATA / pack / "manifest.csv"), "split": "train", "limit": 60}
        for pack in ("commands_ar", "household_es", "digits_en")
    ]
    dev = [{**s, "split": "dev", "limit": 10} for s in sources]
    config = load_train_config(
        {
            "model": {"base": str(BASE)},
            "data": {"train": sources, "dev": dev},
            "train": {"epochs": 6, "learning_rate": 5e-4, "batch_size": 16, "window_s": [3, 5]},
            "dev": {"max_new_tokens": 12, "metric": "loss"},
            "output": str(tmp_path / "out"),
            "logs": str(tmp_path / "logs"),
        }
    )
    result = train(config)
    assert result.best < 0.6 * result.before
