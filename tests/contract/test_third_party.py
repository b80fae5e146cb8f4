"""A method from somebody else's package: twenty lines and a fixture give it everything that ours have."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from models import write_recipe

METHOD = '''"""lerp: from one model to the other in a straight line."""

from typing import Annotated

from chorus import Between, method
from chorus.linalg.combine import linear_combination


@method(
    "lerp",
    summary="straight line between two models",
    paper="none",
    space="weights",
    base="input",
    models=(2, 2),
    linear=True,
    symmetric=False,
    when="Two models of one base.",
    recipe="merge_method: lerp\\nmodels: [{model: a}, {model: b}]\\nparameters: {t: 0.25}",
)
def lerp(tensors, /, *, t: Annotated[float, Between(0, 1), "share of the second model"] = 0.5):
    """Return (1 - t) a + t b."""
    return linear_combination(tensors, [1 - t, t])
'''
TEST = """import chorus.testing, pathlib, pytest

@pytest.mark.parametrize("check", chorus.testing.checks(), ids=lambda c: c.__name__)
def test_contract(check):
    check("lerp")

def test_golden():
    assert chorus.testing.check_golden(pathlib.Path(__file__).with_name("lerp.json")) == 4
"""
FIXTURE = {
    "method": "lerp",
    "source": "by hand",
    "tensors": [[[0.0, 4.0], [8.0, -4.0]], [[4.0, 0.0], [0.0, 4.0]]],
    "parameters": {"t": 0.25},
    "expected": [[1.0, 3.0], [6.0, -2.0]],
    "sensitive": ["t"],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """An installed package with an entry point, as pip leaves it; nothing of ours is edited."""
    place = tmp_path_factory.mktemp("site")
    (place / "merge_lerp.py").write_text(METHOD)
    (place / "test_lerp.py").write_text(TEST)
    (place / "lerp.json").write_text(json.dumps(FIXTURE))
    facts = place / "merge_lerp-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: merge-lerp\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[chorus.methods]\nlerp = merge_lerp\n")
    assert len(METHOD.strip().splitlines()) <= 28
    return place


@pytest.fixture
def chorus_with(package):
    def run(*arguments, **kwargs):
        environment = {**os.environ, "PYTHONPATH": str(package), "HF_HUB_OFFLINE": "1"}
        program = Path(sysconfig.get_path("scripts")) / "chorus"
        return subprocess.run(
            [program, *arguments], env=environment, capture_output=True, text=True, check=False, **kwargs
        )

    return run


def test_it_is_listed_and_explained(chorus_with):
    assert "lerp" in [line.split()[0] for line in chorus_with("methods").stdout.splitlines()]
    text = chorus_with("methods", "lerp").stdout
    for part in (
        "straight line",
        "t (float, 0 to 1; global; default 0.5)",
        "share of the second model",
        "merge_method: lerp",
    ):
        assert part in text
    schema = json.loads(chorus_with("methods", "lerp", "--json").stdout)["parameters"]
    assert schema[0]["maximum"] == 1


def test_it_has_a_page(chorus_with):
    assert chorus_with("methods", "lerp", "--markdown").stdout.startswith("## lerp")
    assert "| [lerp](#lerp) |" in chorus_with("methods", "--markdown").stdout


def test_it_is_planned_merged_and_checked(chorus_with, qwen, tmp_path):
    recipe = qwen.recipe("lerp", 2, base=False, parameters={"t": 0.25})
    path = write_recipe(tmp_path / "r.yml", recipe)
    plan = chorus_with("plan", str(path))
    assert plan.returncode == 0, plan.stderr
    assert "t 0.25" in plan.stdout
    merged = chorus_with("merge", str(path), "-o", str(tmp_path / "out"), "-q")
    assert merged.returncode == 0, merged.stderr
    wrong = chorus_with("plan", str(write_recipe(path, {**recipe, "parameters": {"t": 2}})))
    assert (wrong.returncode, "must lie in 0 to 1" in wrong.stderr) == (2, True)


def test_it_keeps_the_contract(package):
    environment = {**os.environ, "PYTHONPATH": str(package)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(package / "test_lerp.py")]
    done = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "13 passed" in done.stdout
