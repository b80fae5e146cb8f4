"""A method of our own takes one file and one fixture; in a copy that gets both, everything else follows."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_third_party import FIXTURE as LERP
from test_third_party import METHOD as LERP_FILE

ROOT = Path(__file__).parents[2]
PARTS = ("src", "tests", "docs", "README.md", "pyproject.toml", "mkdocs.yml", "CONTRIBUTING.md")
METHOD, FIXTURE = LERP_FILE.replace("lerp", "straight"), {**LERP, "method": "straight"}
GENERATED = {"README.md", "docs/methods.md"}


def files(place: Path) -> dict[str, bytes]:
    """Every file of a copy, by its path, but what Python compiled."""
    found = (p for p in place.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(place)): p.read_bytes() for p in found}


def run(place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(place / "src"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("copy")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, place / part)
    return place


def test_a_method_is_one_file_and_one_fixture(copy):
    before = files(copy)
    (copy / "src" / "chorus" / "merge" / "methods" / "straight.py").write_text(METHOD)
    (copy / "tests" / "golden" / "data" / "straight.json").write_text(json.dumps(FIXTURE))
    edited = {name for name, content in files(copy).items() if before.get(name) != content}
    assert edited == {"src/chorus/merge/methods/straight.py", "tests/golden/data/straight.json"}

    made = run(copy, "docs/generate.py")
    assert made.returncode == 0, made.stderr
    assert {name for name, content in files(copy).items() if before.get(name) != content} == edited | GENERATED
    assert "[straight](docs/methods.md#straight)" in (copy / "README.md").read_text()
    assert "## straight" in (copy / "docs" / "methods.md").read_text()

    chosen = "straight or registry or golden_numbers or generated or methods_explained"
    places = ("tests/contract/test_methods.py", "tests/unit/test_pages.py", "tests/cli/test_commands.py")
    tests = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *places, "-k", chosen)
    assert tests.returncode == 0, tests.stdout + tests.stderr
    assert "16 passed" in tests.stdout, tests.stdout  # twelve promises, the numbers, the registry, fixtures, pages


def test_a_method_without_a_fixture_is_noticed(copy):
    (copy / "tests" / "golden" / "data" / "straight.json").unlink(missing_ok=True)
    (copy / "src" / "chorus" / "merge" / "methods" / "straight.py").write_text(METHOD)
    tests = run(copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/contract/test_methods.py", "-k", "numbers")
    assert tests.returncode == 1, tests.stdout
    assert "straight" in tests.stdout
