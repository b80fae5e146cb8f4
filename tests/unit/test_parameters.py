"""From settings to values, by mergekit's rules and with roles."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.architectures.roles import Role
from chorus.errors import RecipeError
from chorus.merge.method import METHODS
from chorus.merge.recipes.parameters import (
    MISSING,
    Site,
    check_parameters,
    check_selector,
    check_setting,
    convert,
    gradient_position,
    matches_role,
    resolve,
)

Q = Role("encoder", "attention", "encoder", 2, 0.4, "layer")
SITE = Site("model.encoder.layers.2.self_attn.q_proj.weight", Q, 0.5)
DENSITY = METHODS.get("ties").parameters["density"]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        (0.3, 0.3),
        ([0, 1], 0.5),
        ([10, 20, 40], 20),
        ([1.0], 1.0),
        ({"value": 0.2}, 0.2),
        ({"filter": "q_proj", "value": [0, 1]}, 0.5),
        ([{"filter": "v_proj", "value": 1}, {"value": 2}], 2),
        ([{"filter": "*", "value": 1}, {"value": 2}], 1),
        ([{"filter": "Q_PROJ", "value": 1}], MISSING),
        ([], MISSING),
        ([True, False], True),
        (["a", "b", "c"], "b"),
        (["0.5", "1e-3"], 0.2505),
        ([{"role": {"component": "decoder"}, "value": 1}, {"role": {"component": "encoder"}, "value": 2}], 2),
        ([{"role": {"kind": ["mlp", "attention"]}, "value": 1}, {"value": 2}], 1),
        ([{"role": {"layers": [0, 2]}, "value": 1}, {"role": {"layers": [[0, 1], [2, 3]]}, "value": 2}], 2),
        ([{"role": {"name": r"layers\.\d\.self_attn"}, "value": 1}, {"value": 2}], 1),
        ([{"role": {"component": "encoder", "kind": "norm"}, "value": 1}, {"value": 2}], 2),
    ],
)
def test_resolves(setting, value):
    found = resolve(setting, SITE)
    assert found is MISSING if value is MISSING else found == pytest.approx(value)


def test_gradients_run_over_the_layers_as_mergekits_do():
    assert [resolve([10, 20], Site("x", Q, gradient_position(i, 4))) for i in range(4)] == pytest.approx(
        [10, 13.3333333, 16.6666667, 20]
    )
    assert gradient_position(0, 1) == 1.0  # a single layer stands at the end
    assert resolve([10, 20], Site("model.norm.weight", Q)) == 10  # outside the layers: the start


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_stays_between_its_values(values, t):
    found = resolve(values, Site("x", Q, t))
    assert min(values) - 1e-9 <= found <= max(values) + 1e-9


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (None, "no value"),
        ("many", "must be a number, got 'many'"),
        (50, "must lie in 0 to 1, got 50"),
        (float("inf"), "must be a number"),
        ([0.5, {"value": 1}], "not both"),
        ([{"filter": "x"}], "a condition needs a value"),
        ([{"valeu": 1, "value": 1}], 'unknown key; did you mean "value"?'),
        ([{"value": {"value": 1}}], "conditions within conditions"),
        ([{"role": {"component": "encodr"}, "value": 1}], 'unknown component "encodr"; did you mean "encoder"?'),
        ([{"role": {"layer": [0, 1]}, "value": 1}], 'unknown key; did you mean "layers"?'),
        ([{"role": {"layers": [0]}, "value": 1}], "[first, after the last)"),
        ([{"role": {"name": "("}, "value": 1}], "a bracket that is not closed"),
        ([{"role": {}, "value": 1}], "a role is a map"),
        ([{"role": {"kind": "norm"}, "filter": "x", "value": 1}], "either filter or role"),
    ],
)
def test_refuses_settings_and_says_why(setting, message):
    found = check_setting(DENSITY, setting, "parameters.density")
    assert any(message in p for p in found), found
    assert all(p.startswith("parameters.density") for p in found)


def test_reads_values_as_leniently_as_mergekit():
    normalize = METHODS.get("ties").parameters["normalize"]
    assert [convert(normalize, v) for v in ("yes", 0, 1, True, "off")] == [True, False, True, True, False]
    assert [convert(DENSITY, v) for v in ("0.5", "1e-3", 1)] == [0.5, 0.001, 1.0]
    max_iter = METHODS.get("karcher").parameters["max_iter"]
    assert convert(max_iter, "7") == 7
    with pytest.raises(ValueError, match="whole number"):
        convert(max_iter, 7.5)
    rescale = METHODS.get("dare_ties").parameters["rescale"]
    assert [convert(rescale, v) for v in (True, False, "expectation")] == ["l1", "none", "expectation"]
    with pytest.raises(ValueError, match="one of l1, expectation, none"):
        convert(rescale, "l2")


@pytest.mark.parametrize("value", [True, 1e30, "1e7", "9" * 400, [], {}, "\x1b[2J", float("inf"), 10**400])
def test_what_is_no_share_is_refused_shortly(value):
    with pytest.raises(ValueError, match="must be") as caught:
        convert(DENSITY, value)
    assert len(str(caught.value)) < 250
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern",
    ["(.*)*x", "(a+)+$", "((a)+b)*", "(?:a|b*){3,}x", ".*.*.*.*.*.*x", "(a|a)*x", "(a|aa)*x", "((.*)(.*)(.*))*[^a]x"],
)
def test_an_expression_is_never_matched_for_long(pattern):
    assert check_selector({"name": pattern}, "exclude[0]") == []
    site = Site("a" * 60 + "-", Q)
    started = time.process_time()
    try:
        assert not matches_role({"name": pattern}, site) or pattern == "((a)+b)*"  # which matches nothing, anywhere
    except RecipeError as error:
        assert "takes too long to match" in str(error)  # noqa: PT017
    assert time.process_time() - started < 2  # `re` would not end


@pytest.mark.parametrize(
    ("pattern", "told"), [("x" * 2000, "2,000 characters"), (r"(a)\1", r"uses \\1"), ("a**", "repeats a")]
)
def test_what_is_no_expression_is_told_before_it_is_matched(pattern, told):
    (problem,) = check_selector({"name": pattern}, "exclude[0]")
    assert re.search(rf"^exclude\[0\]\.name: .*{told}", problem)


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", r"layers\.\d+\.(mlp|self_attn)\..*weight$", "(a|b)+", r"[*+]{2}(x[)])*", "(?i)Q", "^model", "k_proj$"],
)
def test_an_expression_finds_what_a_search_finds(pattern):
    assert check_selector({"name": pattern}, "exclude[0]") == []
    names = ("model.layers.10.self_attn.q_proj.weight", "model.layers.3.mlp.down.bias", "lm_head", "k_proj", "a*+x)")
    for name in names:
        assert matches_role({"name": pattern}, Site(name, Q)) == bool(re.search(pattern, name))


def test_unknown_and_misplaced_parameters_are_refused():
    ties = METHODS.get("ties")
    assert check_parameters(ties, {"densty": 1}, "parameters") == [
        'parameters.densty: ties has no such parameter; did you mean "density"?'
    ]
    assert "holds for the whole merge" in check_parameters(ties, {"lambda": 1}, "models[0]", under_model=True)[0]
    assert "scale multiplies it" in check_parameters(METHODS.get("passthrough"), {"weight": 1}, "parameters")[0]
