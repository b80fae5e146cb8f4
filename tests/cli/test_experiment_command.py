"""`chorus experiment`: what it prints of results that are there, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from chorus.analyse.ranks import Ranks
from chorus.cli.main import run
from chorus.experiment.load import load_experiment
from chorus.experiment.results import collect, write_results
from chorus.experiment.steps import Outcome
from chorus.search.grids import grid_of
from chorus.search.selection import Chosen
from results import family


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An experiment whose results are made up: base, two specialists, joint, one merge."""
    given = {
        "name": "x", "output": str(tmp_path / "out"), "base": "org/base", "data": {"manifest": "m.csv"},
        "domains": ["radio", "phone"], "methods": {"merged": {"method": "ties", "density": [0.2, 0.5]}},
        "tests": {"out-of-domain": ["extra"], "other-language": ["fado"]},
    }  # fmt: skip
    experiment = load_experiment(given)
    chosen = Chosen(grid_of("merged", {"method": "ties", "density": 0.5})[0], 42.5)
    outcome = Outcome(experiment.output_dir, "merged", {"merged": chosen})
    outcome.test["asr"] = {0: family(tmp_path)}
    ranks = {label: [Ranks("m", 4, 2.0, 1.0, 0.5)] for label in ("radio", "phone", "joint", "merged")}
    (tmp_path / "out").mkdir()
    write_results(collect(experiment, outcome, ranks), tmp_path / "out")
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump(given))
    return path


def test_report_prints_the_table_and_draws(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment", str(file), "--report"]) == 0
    told = capsys.readouterr()
    report = file.parent / "out" / "report.html"
    assert "| merged |" in told.out
    assert told.out.rstrip().endswith(str(report))
    assert f"next: look at {report}" in told.err
    assert report.exists()


def test_report_as_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["experiment", str(file), "--report", "--json", "-q"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "directory": str(file.parent / "out"), "report": str(file.parent / "out" / "report.html"), "best": "merged",
        "parameters": {"density": 0.5}, "dev": 42.5,
    }  # fmt: skip
    assert not printed.err


@pytest.mark.parametrize("flags", [["--seed", "1"], ["--keep", "all"], ["--parallel", "2"]])
def test_report_takes_no_flag_that_would_change_nothing(
    flags: list[str], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["experiment", str(file), "--report", *flags]) == 2
    assert f"{flags[0]} would change nothing" in capsys.readouterr().err
    assert not (file.parent / "out" / "report.html").exists()


def test_report_before_the_end_says_to_run_it_first(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file.parent / "out" / "results.json").unlink()
    assert run(["experiment", str(file), "--report"]) == 2
    told = capsys.readouterr().err
    assert "results.json: not there" in told
    assert "without --report" in told
