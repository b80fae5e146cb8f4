"""Rows that nobody was trained on, and correlations of geometry with gains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

import chorus
from chorus.analyse.correlation import pearson, spearman, with_correlations
from chorus.analyse.facts import weights_at
from chorus.analyse.interference import analyse_interference
from chorus.analyse.interference_report import tables_of
from chorus.cli.main import run
from chorus.errors import DataError, MisfitError
from models import Family, write_recipe
from results import family

NUMBER = st.integers(-50, 50).map(float)


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=3, max_size=12))
def test_both_are_scipy_s(pairs: list[tuple[float, float]]) -> None:
    x, y = map(np.array, zip(*pairs, strict=True))
    assume(x.std() > 0 and y.std() > 0)
    assert pearson(pairs) == pytest.approx(stats.pearsonr(x, y)[0], abs=1e-9)
    assert spearman(pairs) == pytest.approx(stats.spearmanr(x, y)[0], abs=1e-9)


def test_of_too_little_there_is_none() -> None:
    assert pearson([(0.0, 1.0), (1.0, 2.0)]) is None
    assert spearman([(0.1, 1.0), (0.1, 2.0), (0.1, 3.0)]) is None
    assert pearson([(0.1, 1.0), (0.2, 1.0), (0.3, 1.0)]) is None


def test_rows_of_nobody_are_told_of_every_system(tmp_path: Path) -> None:
    found = analyse_interference(family(tmp_path))
    assert found.unseen is not None
    assert found.unseen.rows == ["extra", "fado"]
    assert set(found.unseen.means) == {"radio", "phone", "joint", "merged"}
    for label, points in (("radio", -7.5), ("joint", -12.5), ("merged", -1.25)):
        mean = found.unseen.means[label]
        assert mean is not None
        assert mean.points == pytest.approx(points)
        assert mean.low is not None
        assert mean.low <= points
    (table,) = [one for one in tables_of(found) if one.title.startswith("Unseen")]
    assert [row[0] for row in table.rows] == ["extra", "fado", "mean"]


def test_pairs_are_those_of_the_same_names(qwen: Family, tmp_path: Path) -> None:
    found = analyse_interference(family(tmp_path / "evaluations"))
    models = dict(zip(("radio", "phone"), qwen.tuned, strict=False))
    recipe = write_recipe(tmp_path / "m.yml", qwen.recipe("task_arithmetic", 2))
    geometry = chorus.analyse_weights(models, qwen.base, merges={"merged": recipe})
    place = tmp_path / "weights.json"
    place.write_text(json.dumps(geometry.as_dict()))
    assert weights_at(place) == geometry
    correlated = with_correlations(found, weights_at(place))
    whole = {one.kind: one for one in correlated.correlations if one.where == "whole model"}
    assert (whole["cosine"].n, whole["projection"].n) == (2, 2)
    assert whole["cosine"].pearson is None, "two points lie on a line, whatever they are"
    assert {one.where for one in correlated.correlations} > {"whole model"}
    (table,) = [one for one in tables_of(correlated) if one.title == "Weights against gains"]
    assert any("says nothing" in note for note in table.notes)
    with pytest.raises(MisfitError, match="no two models are in both"):
        with_correlations(found, replace(geometry, models=["a", "b"], merges=[], groups={
            column: [replace(group, pairs=[], merges=[]) for group in groups]
            for column, groups in geometry.groups.items()
        }))  # fmt: skip


def test_the_command_takes_what_the_weights_command_wrote(
    qwen: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    named = [f"{name}={model}" for name, model in zip(("radio", "phone"), qwen.tuned, strict=False)]
    assert run(["analyse", "weights", *named, "--base", str(qwen.base), "-o", str(tmp_path / "w"), "-q"]) == 0
    places = [str(one.directory) for one in family(tmp_path / "evaluations")]
    capsys.readouterr()
    assert run(["analyse", "interference", *places, "--weights", str(tmp_path / "w")]) == 0
    assert "Weights against gains" in capsys.readouterr().out
    (tmp_path / "none.json").write_text("{}")
    assert run(["analyse", "interference", *places, "--weights", str(tmp_path / "none.json")]) != 0
    assert "no analysis of weights" in capsys.readouterr().err
    with pytest.raises(DataError):
        weights_at(tmp_path / "nowhere.json")
