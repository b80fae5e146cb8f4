"""The examples of several tasks and kinds of speech on real recordings, shortened: what is learnt, and the table."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import pytest

from chorus.experiment.load import load_experiment
from chorus.experiment.results import read_results
from chorus.experiment.run import experiment
from chorus.settings import read_document
from sounds import ROOT

EXAMPLE = ROOT / "examples" / "tasks"
DATA, MODELS = (os.environ.get(name, "") for name in ("CHORUS_DATA", "CHORUS_MODELS"))
# chance: one of ten words, of five speakers, of four languages, yes or no; for words whatever is written
LEAST = {"kws": 50.0, "speaker_id": 60.0, "langid": 75.0, "speaker_ver": 62.0}
MOST = {"asr": 75.0}


def test_the_example_is_an_experiment_of_five_tasks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CHORUS_FIVE", str(tmp_path))
    found = load_experiment(EXAMPLE / "five.yml")
    assert sorted(found.tasks) == ["asr", "kws", "langid", "speaker_id", "speaker_ver"]
    assert len(found.methods) >= 5
    assert found.calibrate
    monkeypatch.setenv("CHORUS_MODELS", str(tmp_path))
    monkeypatch.setenv("CHORUS_DATA", str(tmp_path))
    real = load_experiment(EXAMPLE / "whisper_domains.yml")
    assert list(real.calibrate) == ["by_model", "by_group", "balanced"]
    assert real.calibrate["by_group"]["granularity"] == "group"


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="CHORUS_DATA names no recordings")
@pytest.mark.parametrize("kind", ["qwen2_audio", "omni"])
def test_five_tasks_from_recordings_to_the_table(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["make.py", "--data", DATA, "--out", str(tmp_path), "--kind", kind])
    runpy.run_path(str(EXAMPLE / "make.py"), run_name="__main__")
    monkeypatch.setenv("CHORUS_FIVE", str(tmp_path))
    document, _, _ = read_document(EXAMPLE / "five.yml")
    # a setting a method, and a calibration: the grids are the example's
    short = {
        "methods": {"linear": {}, "task_arithmetic": {"lambda": 0.4}, "ties": {"density": 0.3}, "tsv_m": {},
                    "boosted_tsv_m": {"beta": 0.1}},
        "calibrate": {"learnt": {"granularity": "group", "balance": "recovery", "updates": 40, "every": 20}},
        "joint": False,
        "output": str(tmp_path / "out"), "device": "cpu",
    }  # fmt: skip
    outcome = experiment({**document, **short})
    results = read_results(outcome.directory)
    compared = {name: task.compared for name, task in results.tasks.items()}
    own = {name: next(line for line in one.lines if line.home) for name, one in compared.items()}
    rates = {name: line.rates[line.home] for name, line in own.items()}
    assert {name: rate for name, rate in rates.items() if name in LEAST and rate < LEAST[name]} == {}
    assert {name: rate for name, rate in rates.items() if name in MOST and rate > MOST[name]} == {}
    gains = results.gains
    assert gains is not None
    assert all(row.sure for row in gains.rows)
    assert {one.system for one in gains.others} == {*short["methods"], "learnt"}


@pytest.mark.slow
@pytest.mark.skipif(not (DATA and MODELS), reason="CHORUS_DATA or CHORUS_MODELS names nothing")
def test_a_real_whisper_by_domain_from_recordings_to_the_table(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["short.py", "--data", DATA, "--out", str(tmp_path / "rows")])
    runpy.run_path(str(EXAMPLE / "short.py"), run_name="__main__")
    monkeypatch.setenv("CHORUS_DATA", str(tmp_path / "rows"))
    document, _, _ = read_document(EXAMPLE / "whisper_domains.yml")
    train = {**document["train"], "train": {**document["train"]["train"], "steps": 60}}
    learnt = {**document["calibrate"]["balanced"], "updates": 10}
    short = {
        "methods": {"linear": {}, "task_arithmetic": {"lambda": 0.4}}, "calibrate": {"learnt": learnt}, "train": train,
        "output": str(tmp_path / "out"), "device": "cpu",
    }  # fmt: skip
    outcome = experiment({**document, **short})
    compared = read_results(outcome.directory).tasks["asr"].compared
    lines = {line.label: line for line in compared.lines}
    homes = {line.home: line for line in compared.lines if line.home}
    assert sorted(homes) == ["arabic", "digits", "dutch", "german"]
    # rates above 100 count as 100: the English model writes on and on
    for home, line in homes.items():
        assert min(line.rates[home], 100) < min(lines["base"].rates[home], 100), home
    assert lines["learnt"].averages["in-domain"] < lines["base"].averages["in-domain"]
    assert {line.label for line in compared.lines if line.role == "merge"} == {"linear", "task_arithmetic", "learnt"}
