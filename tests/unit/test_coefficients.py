"""Coefficients of merges by layer, against what the recipe says and the formulas by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import chorus
from chorus.analyse.coefficients import mixture
from chorus.cli.main import run
from chorus.errors import PlanError
from models import Family, write_recipe

NUMBERS = st.lists(st.floats(-3, 3, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-3), min_size=1)


def by_parts(family: Family) -> dict[str, object]:
    """A recipe whose weights differ by component and layer."""
    conditions = [
        [{"role": {"component": "encoder", "layers": [0, 1]}, "value": 0.9},
         {"role": {"component": "encoder"}, "value": 0.5}, {"value": 0.2}],
        [{"role": {"component": "encoder", "layers": [0, 1]}, "value": -0.1},
         {"role": {"component": "encoder"}, "value": 0.5}, {"value": 0.6}],
    ]  # fmt: skip
    models = [
        {"model": str(model), "parameters": {"weight": weight}}
        for model, weight in zip(family.tuned, conditions, strict=False)
    ]
    return {"merge_method": "task_arithmetic", "base_model": str(family.base), "models": models}


def test_layers_have_what_the_recipe_says_of_them(whisper: Family) -> None:
    found = chorus.analyse_coefficients(by_parts(whisper))
    first, second = found.models
    layers = {layer.name: layer for layer in found.groups["layer"]}
    assert next(iter(layers)).startswith("encoder"), "what hears comes first"
    assert len(layers) == len(whisper_layers(whisper))
    early, late = layers["encoder 0"], layers["encoder 1"]
    assert early.weights == {first: pytest.approx(0.9), second: pytest.approx(-0.1)}
    assert (early.dominant, early.margin) == (first, pytest.approx(0.8))
    wanted = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    assert early.entropy == pytest.approx(wanted)
    assert (late.dominant, late.margin, late.entropy) == ("", pytest.approx(0.0), pytest.approx(1.0))
    assert layers["decoder 0"].dominant == second
    assert layers["decoder 0"].entropy == pytest.approx(-(0.25 * math.log(0.25) + 0.75 * math.log(0.75)) / math.log(2))
    # a group's is the mean over its values, whichever tensors they are in
    tensors = [one.mixture for one in found.tensors]
    values = sum(one.values for one in tensors)
    for label in found.models:
        mean = sum(one.weights[label] * one.values for one in tensors) / values
        assert found.all.weights[label] == pytest.approx(mean)
    assert sum(one.tensors for one in found.groups["component"]) == found.all.tensors == len(tensors)
    json.dumps(found.as_dict(), allow_nan=False)


def whisper_layers(family: Family) -> list[int]:
    config = json.loads((family.base / "config.json").read_text())
    return [*range(config["encoder_layers"]), *range(config["decoder_layers"])]


def test_lambda_and_normalize_count_as_the_merge_takes_them(whisper: Family) -> None:
    models = [{"model": str(m), "parameters": {"weight": w}} for m, w in zip(whisper.tuned, (3.0, 1.0), strict=False)]
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(whisper.base), "models": models,
        "parameters": {"normalize": True, "lambda": 0.5},
    }  # fmt: skip
    assert list(chorus.analyse_coefficients(recipe).all.weights.values()) == pytest.approx([0.375, 0.125])
    linear = {"merge_method": "linear", "models": models}
    assert chorus.analyse_coefficients(linear).all.margin == pytest.approx(0.5)


@given(NUMBERS, st.floats(0.1, 10))
def test_shares_are_of_one_scale_and_of_no_order(weights: list[float], factor: float) -> None:
    named = {f"m{i}": weight for i, weight in enumerate(weights)}
    found = mixture("x", 1, 1, named)
    turned = mixture("x", 1, 1, dict(reversed([(k, factor * v) for k, v in named.items()])))
    sizes = np.abs(np.array(weights))
    if not sizes.sum():
        assert (found.dominant, found.margin, found.entropy) == ("", None, None)
        return
    p = np.sort(sizes / sizes.sum())[::-1]
    assert found.margin == pytest.approx(p[0] - (p[1] if len(p) > 1 else 0), abs=1e-12)
    assert turned.margin == pytest.approx(found.margin, abs=1e-9)
    if len(p) < 2:
        assert found.entropy is None
        return
    assert found.entropy == pytest.approx(-(p[p > 0] * np.log(p[p > 0])).sum() / np.log(len(p)), abs=1e-9)
    assert turned.entropy == pytest.approx(found.entropy, abs=1e-9)
    if found.dominant:
        assert abs(named[found.dominant]) == pytest.approx(sizes.max())


def test_what_is_no_weighted_sum_has_no_coefficients(whisper: Family) -> None:
    with pytest.raises(PlanError, match="ties is no weighted sum"):
        chorus.analyse_coefficients(whisper.recipe("ties", 2))


def test_the_command_takes_a_calibration_s_directory(
    whisper: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    (tmp_path / "calibrated").mkdir()
    write_recipe(tmp_path / "calibrated" / "recipe.yml", by_parts(whisper))
    assert run(["analyse", "coefficients", str(tmp_path / "calibrated"), "-o", str(tmp_path / "out"), "-q"]) == 0
    shown = capsys.readouterr().out
    for words in ("Whole model", "By layer", "dominant", "encoder 0"):
        assert words in shown
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/svg+xml") == 3
    assert "Least evenly mixed is encoder 0" in page
    assert run(["analyse", "coefficients", str(tmp_path / "none.yml")]) == 2
    assert "none.yml" in capsys.readouterr().err
