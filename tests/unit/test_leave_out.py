"""Merges without each of their models, against those that are written and evaluated by themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chorus
from chorus.analyse.evaluated import EvaluatedRows
from chorus.analyse.leave_out import plans_without
from chorus.cli.main import run
from chorus.errors import ChorusError, PlanError
from digits import some_digits, spoilt_whisper
from models import Family, write_recipe
from sounds import BASE, DIGITS


def halves(place: Path) -> dict[str, object]:
    """The digits' Whisper and one that hears worse."""
    worse = spoilt_whisper(place / "worse", 1.2)
    models = [{"model": str(one), "parameters": {"weight": w}} for one, w in ((BASE, 0.3), (worse, 0.7))]
    return {"merge_method": "linear", "out_dtype": "float32", "models": models}


def test_each_is_the_merge_of_the_others_on_the_same_recordings(tmp_path: Path) -> None:
    recipe, manifest = halves(tmp_path), some_digits(tmp_path / "digits.csv", ("theo", "george"), 12)
    rows = EvaluatedRows([str(manifest)], by="speaker", decoding={"window_s": [1], "max_new_tokens": 4})
    found = chorus.analyse_leave_one_out(recipe, rows)
    assert found.models == ["base", "worse"]
    decoding = chorus.Decoding(window_s=(1,), max_new_tokens=4)
    chorus.merge(recipe, tmp_path / "whole")
    rates = {}
    for name, model in (("all", tmp_path / "whole"), ("base", tmp_path / "worse"), ("worse", BASE)):
        made = chorus.evaluate(model, manifest, tmp_path / f"evaluated-{name}", decoding=decoding)
        rates[name] = {k: min(one["error_rate"] or 0.0, 100.0) for k, one in made.summary["by"]["speaker"].items()}
    assert [row.name for row in found.rows] == list(rates["all"])
    for model in found.models:
        for row in found.rows:
            effect = found.effects[model][row.name]
            assert effect is not None
            assert effect.points == pytest.approx(rates["all"][row.name] - rates[model][row.name])
        mean = found.means[model]
        assert mean is not None
        points = [one.points for one in found.effects[model].values() if one is not None]
        assert mean.points == pytest.approx(sum(points) / len(points))
    assert rates["worse"] != rates["base"], "the two hear differently"
    json.dumps(found.as_dict(), allow_nan=False)


def test_the_others_keep_the_weights_that_the_recipe_gives_them(whisper: Family) -> None:
    plans = plans_without(whisper.recipe("task_arithmetic", 3))
    assert list(plans.others) == ["tuned-0", "tuned-1", "tuned-2"]
    whole = {t.name: t.steps[0].parameters for t in plans.all.tensors() if t.steps}
    for place, plan in enumerate(plans.others.values()):
        for tensor in plan.tensors():
            if tensor.steps:
                weight = tensor.steps[0].parameters["weight"]
                assert isinstance(weight, tuple)
                kept = whole[tensor.name]["weight"]
                assert isinstance(kept, tuple)
                assert weight == tuple(w for i, w in enumerate(kept) if i != place)


def test_what_cannot_be_left_out_is_told_before_anything_is_decoded(whisper: Family, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="without it nothing is left"):
        plans_without(whisper.recipe("task_arithmetic", 1))
    slerp = {
        "merge_method": "slerp", "base_model": str(whisper.tuned[0]), "parameters": {"t": 0.5},
        "models": [{"model": str(one)} for one in whisper.tuned[:2]],
    }  # fmt: skip
    with pytest.raises(ChorusError):
        plans_without(slerp)


def test_the_command_prints_a_table_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    recipe = write_recipe(tmp_path / "m.yml", halves(tmp_path))
    given = ["--data", str(DIGITS / "data" / "manifest.csv"), "--limit", "6", "--window", "1", "--max-new-tokens", "3"]
    out = tmp_path / "out"
    assert run(["analyse", "leave-one-out", str(recipe), *given, "-o", str(out), "-q"]) == 0
    shown = capsys.readouterr().out
    for words in ("Leave one out", "without base", "without worse"):
        assert words in shown
    assert "Without worse" in (out / "report.html").read_text()
    assert json.loads((out / "leave-one-out.json").read_text())["models"] == ["base", "worse"]
