"""Calibration's parts by themselves: bands, draws, forms, recovery, rules, settings."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chorus.calibrate.forms import Weights
from chorus.calibrate.groups import Region, band_of
from chorus.calibrate.recovery import (
    Marks,
    gain,
    marks_of,
    of_recoveries,
    of_values,
    recoveries,
    score,
    shares_of,
    value_of,
)
from chorus.calibrate.rows import Draws
from chorus.calibrate.settings import Calibration
from chorus.errors import RecipeError, UsageError
from chorus.settings import validated

RULES = ("mean", "minimum", "geometric", "l2")


@given(st.integers(1, 60), st.integers(1, 70))
def test_bands_cut_all_layers_into_runs_as_equal_as_can_be(count, bands):
    found = [band_of(layer, count, bands) for layer in range(count)]
    assert all(first <= layer < last for layer, (first, last) in enumerate(found))
    runs = sorted(set(found))
    assert len(runs) == min(bands, count)
    assert [runs[0][0], runs[-1][1]] == [0, count]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(runs))
    sizes = [last - first for first, last in runs]
    assert max(sizes) - min(sizes) <= 1


@given(st.integers(1, 20), st.integers(1, 7), st.integers(0, 5))
def test_every_row_is_drawn_once_before_any_comes_again(count, size, seed):
    draws = Draws("task", count, size, seed)
    taken = [draw for update in range(3 * count) for draw in draws.of(update)]
    for epoch in range(2):
        assert sorted(row for e, row in taken if e == epoch) == list(range(count))
    assert draws.of(5) == Draws("task", count, size, seed).of(5)


def test_tasks_and_seeds_draw_in_orders_of_their_own():
    orders = {tuple(Draws(task, 50, 50, seed).of(0)) for task in "ab" for seed in range(3)}
    assert len(orders) == 6


WEIGHTS = st.lists(st.lists(st.floats(0.01, 1.9), min_size=3, max_size=3), min_size=1, max_size=4)


@given(WEIGHTS, st.sampled_from(["free", "tanh", "simplex"]))
def test_every_form_begins_where_it_is_told(start, form):
    weights = Weights(start, form, magnitude=2.0, shared=False)
    assert torch.allclose(weights.values(), torch.tensor(start, dtype=torch.float64), rtol=1e-9)


@given(WEIGHTS, st.lists(st.floats(-3, 3), min_size=30, max_size=30))
def test_what_is_learnt_stays_in_its_form(start, moves):
    for form in ("tanh", "simplex"):
        weights = Weights(start, form, magnitude=2.0, shared=False)
        move = torch.tensor(moves[: weights.raw.numel()], dtype=torch.float64).reshape(weights.raw.shape)
        with torch.no_grad():
            weights.raw += move
        found = weights.values()
        if form == "tanh":
            assert bool((found.abs() <= 2).all())
        else:  # shares of the group's factor, whatever its sign
            assert torch.allclose(found.sum(0), weights.raw[-1])
            assert bool(((found >= 0) | (weights.raw[-1] < 0)).all())


def test_a_scalar_keeps_the_models_shares():
    weights = Weights([[0.6], [-0.2]], "free", magnitude=2.0, shared=True)
    with torch.no_grad():
        weights.raw.fill_(1.5)
    assert weights.rounded().tolist() == [[0.6 * 1.5], [-0.2 * 1.5]]
    assert weights.factor() == 1.5


@pytest.mark.parametrize(
    ("form", "start", "told"), [("simplex", -0.1, "shares, which are above 0"), ("tanh", 2.5, "keeps all within 2")]
)
def test_a_start_that_a_form_cannot_write_is_refused(form, start, told):
    with pytest.raises(UsageError, match=told):
        Weights([[0.5], [start]], form, magnitude=2.0, shared=False)


# ---- recovery ----


def test_recovery_is_a_ratio_of_ratios_of_sums():
    base = {"a": [[4.0, 2.0], [8.0, 4.0]], "b": [[3.0, 1.0], [3.0, 1.0]]}
    singles = {
        "x": {"a": [[1.0, 2.0], [2.0, 4.0]], "b": [[3.0, 1.0], [3.1, 1.0]]},
        "y": {"a": [[9.0, 2.0], [5.0, 4.0]], "b": [[2.9, 1.0], [3.1, 1.0]]},
    }
    marks = marks_of(base, singles, {})
    assert (marks["a"].model, marks["a"].base, marks["a"].own) == ("x", 2.0, 0.5)
    assert recoveries({"a": [[6.0, 6.0]], "b": [[1.0, 1.0]]}, marks) == {"a": pytest.approx((2 - 1) / 1.5)}
    assert not marks["b"].counts  # no model gains there
    assert marks_of(base, singles, {"a": "y"})["a"].model == "y"
    assert not marks_of(base, singles, {"a": "y"})["a"].counts


def test_a_gain_within_its_error_does_not_count():
    """The worked paired error: batches of one row, so that it is the standard error of the mean difference."""
    base, own = [[float(x), 1.0] for x in (3, 5, 4, 6)], [[float(x), 1.0] for x in (2, 5, 3, 4)]
    better, error = gain(base, own)
    differences = [1, 0, 1, 2]
    deviation = math.sqrt(sum((d - 1) ** 2 for d in differences) / 3)
    assert better == 1.0
    assert error == pytest.approx(deviation / 2)
    assert marks_of({"t": base}, {"m": {"t": own}}, {})["t"].counts  # 1 is above twice 0.408
    noisy = [[float(x), 1.0] for x in (0, 8, 0, 6)]
    assert value_of(noisy) < value_of(base)
    assert not marks_of({"t": base}, {"m": {"t": noisy}}, {})["t"].counts


@given(st.lists(st.tuples(st.floats(0.1, 5), st.floats(0, 0.9)), min_size=1, max_size=4), st.data())
def test_balanced_losses_fall_as_the_mean_recovery_grows(pairs, data):
    """Whatever the losses do, what is lowered is a constant less a multiple of the mean recovery."""
    marks = {f"t{i}": Marks(base, base * own, "m", True) for i, (base, own) in enumerate(pairs)}
    shares = shares_of({**marks, "none": Marks(1.0, 1.1, "m", False)}, balanced=True)
    assert shares.pop("none") == 0
    assert sum(shares.values()) == pytest.approx(1)
    lowered, recovered = [], []
    for _ in range(2):
        losses = {task: data.draw(st.floats(0, 9)) for task in marks}
        lowered.append(sum(shares[task] * loss for task, loss in losses.items()))
        found = recoveries({task: [[loss, 1.0]] for task, loss in losses.items()}, marks)
        recovered.append(sum(found.values()) / len(found))
    total = sum(1 / (mark.base - mark.own) for mark in marks.values())
    assert lowered[1] - lowered[0] == pytest.approx(-(recovered[1] - recovered[0]) * len(marks) / total, abs=1e-9)


def test_losses_count_alike_unless_they_are_balanced_or_none_has_a_recovery():
    marks = {"t": Marks(2.0, 1.0, "m", True), "u": Marks(1.0, 1.1, "m", False)}
    assert shares_of(marks, balanced=False) == {"t": 0.5, "u": 0.5}
    assert shares_of({"u": marks["u"], "v": marks["u"]}, balanced=True) == {"u": 0.5, "v": 0.5}


RECOVERY = st.lists(st.floats(-2, 3), min_size=1, max_size=5)


@given(RECOVERY, st.sampled_from(RULES))
def test_a_rule_knows_no_order_and_never_falls_with_a_recovery(values, rule):
    found = of_recoveries(values, rule)
    assert found == pytest.approx(of_recoveries(values[::-1], rule))
    assert of_recoveries([values[0] + 1, *values[1:]], rule) >= found - 1e-12
    assert of_recoveries([1.0] * len(values), rule) == pytest.approx(0.0 if rule == "l2" else 1.0)


@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=5), st.sampled_from(RULES))
def test_without_recoveries_less_loss_is_better(values, rule):
    assert of_values([v / 2 for v in values], rule) > of_values(values, rule)


def test_without_a_task_that_counts_the_rule_goes_by_what_is_measured():
    marks = {"t": Marks(1.0, 1.1, "m", False)}
    assert score({"t": [[3.0, 2.0]]}, marks, "mean") == -1.5
    marks["u"] = Marks(2.0, 1.0, "m", True)
    assert score({"t": [[3.0, 2.0]], "u": [[3.0, 2.0]]}, marks, "mean") == 0.5


def test_one_task_below_the_base_is_the_worst_for_the_geometric_mean():
    assert of_recoveries([1.5, -0.1], "geometric") == -math.inf


# ---- settings and names ----


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"form": "simplex", "granularity": "scalar"}, "use free or tanh"),
        ({"start": 20.0}, "beyond the bound of 10"),
        ({"updates": 0}, "updates: "),
        ({"learning_rate": math.inf}, "learning_rate: "),
        ({"rules": "mean"}, "did you mean"),
        ({"task": "lm", "measure": "wer"}, "has a loss alone"),
        ({"balance": "recovery", "measure": "wer"}, "it goes with measure: loss"),
        ({"balance": "recovery", "objective": "entropy"}, "of answers"),
        ({"normaliser": "strict"}, "normaliser: one of"),
        ({"device": "gpu"}, "unknown device"),
    ],
)
def test_settings_that_make_no_sense_are_refused(given, told):
    with pytest.raises(RecipeError, match=told):
        validated(Calibration, given, source="settings")


def test_groups_are_called_as_a_recipe_names_them():
    assert Region().selector == {}
    assert Region("encoder", "mlp", (0, 4)).selector == {"component": "encoder", "kind": "mlp", "layers": [0, 4]}
    assert [str(g) for g in (Region(), Region("decoder"), Region("encoder", "mlp", (0, 4)))] == [
        "everywhere", "decoder", "encoder 0-3 mlp"
    ]  # fmt: skip
