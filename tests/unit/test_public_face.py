"""Workflow, templates and lowest versions: what they name is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
GITHUB = ROOT / ".github"
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def test_the_workflow_calls_targets_that_exist_on_linux_and_macos():
    jobs = yaml.safe_load((GITHUB / "workflows" / "test.yml").read_text())["jobs"]
    runs = [step["run"].removeprefix("make ") for job in jobs.values() for step in job["steps"] if "run" in step]
    assert sorted(runs) == ["docs", "lint", "lowest", "test"]
    assert set(runs) <= TARGETS
    assert jobs["test"]["strategy"]["matrix"]["os"] == ["ubuntu-latest", "macos-latest"]


def test_the_workflows_actions_are_pinned_by_major_version_and_need_no_secret():
    text = (GITHUB / "workflows" / "test.yml").read_text()
    actions = re.findall(r"uses: (\S+)", text)
    assert len(actions) >= 6
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)
    assert "secrets." not in text


def test_the_issue_forms_are_forms():
    forms = [yaml.safe_load(p.read_text()) for p in GITHUB.glob("ISSUE_TEMPLATE/*.yml") if p.stem != "config"]
    assert len(forms) == 2
    assert all(form["name"] and form["description"] and form["body"] for form in forms)


def test_make_explains_every_target_that_people_call():
    head = "".join(line for line in (ROOT / "Makefile").open() if line.startswith("#"))
    explained = set(re.findall(r"make ([a-z-]+)", head))
    assert explained == TARGETS - {"clean"}


def test_every_requirement_has_a_lowest_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for name in extras if name != "dev" for r in extras[name])]
    outside = [r for r in asked if not r.startswith("chorus-merge")]
    assert len(outside) >= 25
    assert [r for r in outside if not re.fullmatch(r"[\w.-]+>=[\d.]+", r)] == []


def test_constraints_allow_every_lowest_version():
    """What the tests are run with is not below what is claimed."""

    def numbers(version: str) -> tuple[int, ...]:
        return tuple(int(n) for n in re.findall(r"\d+", version))

    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    found = {re.sub(r"[-_.]+", "-", name).lower(): numbers(version) for name, version in pinned.items()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *(r for e in project["optional-dependencies"].values() for r in e)]
    least = [r.split(">=") for r in asked if ">=" in r]
    assert len(least) >= 30
    assert [n for n, v in least if found[re.sub(r"[-_.]+", "-", n).lower()] < numbers(v)] == []
