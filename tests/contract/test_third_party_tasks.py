"""A task and a runtime from somebody else's packages, by entry point: one file each, and nothing of ours edited."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

import commands
from chorus.data.manifest import read_manifest, write_manifest
from sounds import BASE, MANIFEST

TASK = '''"""digit: which digit is said, right or wrong."""

import numpy as np

from chorus.tasks.registry import TASKS
from chorus.tasks.scored import score_texts, speakers_or_utterances


class Accuracy:
    """The share of labels that are right, in percent."""

    name, title, best = "accuracy", "accuracy", 100.0

    def signature(self):
        return "labels that are equal after normalisation"

    def statistics(self, rows):
        return np.array([(row.reference == row.hypothesis, 1) for row in rows], np.float64).reshape(-1, 2)

    def values(self, sums):
        return 100 * sums[:, 0] / np.where(sums[:, 1] > 0, sums[:, 1], np.nan)


class Digit:
    name, summary, spellings = "digit", "which digit is said", ("which-digit",)
    metrics = (Accuracy(),)

    def instruction(self, row):
        return "Which digit is said? Answer with one word."

    def reference(self, row):
        return row.get("digit") or row.text

    def written(self, row):
        return row.language

    def score(self, rows, normaliser, unit=None):
        return score_texts(rows, normaliser, unit)

    def clusters(self, rows):
        return speakers_or_utterances(rows)


TASKS.add("digit", Digit())
'''
RUNTIME = '''"""echo: a runtime that knows the answers."""

from chorus.errors import CheckpointError
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Hypothesis


class Echo:
    longest_s, long_form, facts = None, True, {"echo": "1.0"}

    def __init__(self, system, decoding, device):
        self.system = system

    def sort_key(self, seconds):
        return (0.0, -seconds)

    def check(self, rows):
        pass

    def transcribe(self, sounds):
        return [Hypothesis(sound.row.text, sound.row.language) for sound in sounds]

    def replace(self, tensors):
        raise CheckpointError("echo has no weights", "load it anew")

    def close(self):
        pass


BACKENDS.add("echo", Echo)
'''
TEST = """import chorus.testing
from chorus.data.manifest import Row
from chorus.transcribe.backends.protocol import Sound
from some_runtime import Echo
import numpy as np

def test_task():
    assert chorus.testing.check_task("digit") == 8

def test_runtime():
    sounds = [Sound(np.zeros(n, np.float32), Row(f"{n}.flac", str(n))) for n in (100, 300, 200)]
    assert chorus.testing.check_backend(Echo(None, None, "cpu"), sounds) == 12
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two installed packages, as pip leaves them: a module each, and an entry point."""
    place = tmp_path_factory.mktemp("site")
    for module, group, text in (("some_task", "chorus.tasks", TASK), ("some_runtime", "chorus.backends", RUNTIME)):
        (place / f"{module}.py").write_text(text)
        facts = place / f"{module}-1.0.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{group}]\nmine = {module}\n")
    (place / "test_both.py").write_text(TEST)
    assert len(list(place.glob("some_*.py"))) == 2, "one file a task, one file a runtime"
    assert max(len(text.splitlines()) for text in (TASK, RUNTIME)) <= 47
    return place


def with_both(site: Path) -> dict[str, str]:
    """The environment in which they are installed."""
    paths = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1"}


def run(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return commands.chorus(*arguments, env=with_both(site), cwd=site)


def test_they_keep_their_contracts(site: Path) -> None:
    arguments = ["-q", "-p", "no:cacheprovider", str(site / "test_both.py")]
    done = commands.python(
        f"import pytest; raise SystemExit(pytest.main({arguments!r}))", env=with_both(site), cwd=site
    )
    assert "2 passed" in done.stdout, done.stdout + done.stderr


def test_a_task_and_a_runtime_of_others_are_evaluated_and_compared(site: Path, tmp_path: Path) -> None:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker == "theo" and r.split == "test"][::6]
    manifest = write_manifest(rows, tmp_path / "few.csv")
    out = tmp_path / "results"
    for label, more in {"whisper": ["--window", "3", "--max-new-tokens", "8"], "echo": ["--backend", "echo"]}.items():
        done = run(
            site, "evaluate", f"{label}={BASE}", "--data", str(manifest), "--task", "which-digit", "-o",
            str(out), "--device", "cpu", *more,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "accuracy" in done.stdout
        summary = json.loads((out / label / "summary.json").read_text())
        assert summary["decoding"]["task"] == "digit"
        told = summary["metrics"]["clean"]["accuracy"]
        assert told["value"] == pytest.approx(100 - summary["all"]["wer"])
        assert told["interval"]["low"] <= told["value"] <= told["interval"]["high"]
    assert told["value"] == 100.0
    assert summary["versions"]["echo"] == "1.0"
    compared = run(site, "compare", str(out / "whisper"), str(out / "echo"), "--base", "whisper", "--format", "json")
    made = json.loads(compared.stdout)
    assert (made["metric"], made["best"]) == ("accuracy", 100.0)
    lines = {line["label"]: line for line in made["lines"]}
    difference = lines["echo"]["differences"][0]
    assert difference["points"] == pytest.approx(100 - lines["whisper"]["averages"]["all"])
    assert difference["test"] == "approximate randomisation"
    gate = ["--against", str(out / "whisper"), "--max-regression", "0"]
    assert run(site, "gate", str(out / "echo"), *gate).returncode == 0
    gate[1] = str(out / "echo")
    assert run(site, "gate", str(out / "whisper"), *gate).returncode == (1 if difference["points"] else 0)
