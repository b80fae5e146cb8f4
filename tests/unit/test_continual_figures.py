"""What a continual merge recovers and forgets, from figures made up: definitions, what is left out and told, tables."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chorus.continual.facts import BaseFacts, ContinualFacts, FigureFacts, MarkFacts, StageFacts
from chorus.continual.figures import recovery_of, standings, summary
from chorus.continual.settings import Continuing
from chorus.continual.tables import stages_table, standing_table
from chorus.errors import RecipeError
from chorus.settings import validated

# no two of them so near that their differences to a third are one number
RATES = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)


def figure(value: float | None, *, best: float = 0.0, asked: str = "rows") -> FigureFacts:
    title = "error rate" if best == 0 else "accuracy"
    return FigureFacts(
        metric="m", title=title, best=best, value=value, low=value, high=value, utterances=9, asked=asked
    )  # fmt: skip


def stage(model: str, **values: FigureFacts) -> StageFacts:
    return StageFacts(
        model=model, identity=model, method="fta", state_weight=0.5, weight=0.5, form="adapter", figures=values
    )  # fmt: skip


def facts(*stages: StageFacts, marks: dict[str, MarkFacts] | None = None, earlier: int = 0) -> ContinualFacts:
    base = BaseFacts(name="base", identity="b")
    return ContinualFacts(base=base, stages=list(stages), marks=marks or {}, earlier=earlier)


def mark(base: float, own: float | None, *, counts: bool = True, best: float = 0.0) -> MarkFacts:
    return MarkFacts(base=figure(base, best=best), own=None if own is None else figure(own, best=best), counts=counts)


@given(st.lists(RATES, min_size=2, max_size=6), st.sampled_from([0.0, 100.0]))
def test_forgetting_is_now_against_the_best_earlier_stage(values, best):
    stages = [stage("a" if i == 0 else f"m{i}", a=figure(v, best=best)) for i, v in enumerate(values)]
    (one,) = standings(facts(*stages))
    # oriented, so that larger is better
    scores = [-v if best == 0 else v for v in values]
    assert one.forgetting == pytest.approx(scores[-1] - max(scores[:-1]))
    assert one.best_before is not None
    assert one.best_before.value == (min if best == 0 else max)(values[:-1])


def test_what_a_set_reached_before_its_model_came_counts_not():
    stages = [stage("a", b=figure(5.0)), stage("b", b=figure(30.0)), stage("c", b=figure(40.0))]
    (one,) = standings(facts(*stages[:2]))
    assert (one.since, one.forgetting) == (2, None)
    (one,) = standings(facts(*stages))
    assert one.forgetting == pytest.approx(-10)
    # models from before the first stage are seen from it on
    (one,) = standings(facts(*stages[:2], earlier=1).model_copy(update={"of": ["b"]}))
    assert (one.since, one.forgetting) == (1, pytest.approx(-25))


def test_the_first_stage_has_nothing_to_forget():
    (one,) = standings(facts(stage("a", a=figure(5.0))))
    assert (one.since, one.best_before, one.forgetting) == (1, None, None)
    assert summary(facts(stage("a", a=figure(5.0))))["mean_forgetting"] is None


@given(st.floats(0, 40), st.floats(50, 100), RATES)
def test_recovery_is_one_at_the_own_model_and_zero_at_the_base(own, base, now):
    marks = mark(base, own)
    assert recovery_of(figure(own), marks) == pytest.approx(1)
    assert recovery_of(figure(base), marks) == pytest.approx(0)
    assert recovery_of(figure(now), marks) == pytest.approx((base - now) / (base - own))
    # of what is better the more there is of it, the same
    up = mark(100 - base, 100 - own, best=100.0)
    assert recovery_of(figure(100 - now, best=100.0), up) == pytest.approx((base - now) / (base - own), abs=1e-9)


def test_rates_above_a_hundred_count_as_a_hundred():
    assert recovery_of(figure(250.0), mark(1000.0, 20.0)) == 0
    assert recovery_of(figure(60.0), mark(1000.0, 20.0)) == pytest.approx(0.5)


def test_a_gain_that_may_be_chance_and_other_rows_give_no_recovery():
    assert recovery_of(figure(10.0), mark(20.0, 5.0, counts=False)) is None
    assert recovery_of(figure(10.0), mark(20.0, None)) is None
    assert recovery_of(figure(10.0, asked="others"), mark(20.0, 5.0)) is None
    assert recovery_of(figure(None), mark(20.0, 5.0)) is None
    assert recovery_of(figure(10.0), None) is None


def test_means_and_least_are_over_what_is_seen():
    marks = {"a": mark(40.0, 20.0), "b": mark(80.0, 40.0), "c": mark(50.0, None)}
    found = facts(
        stage("a", a=figure(20.0), c=figure(10.0)), stage("b", a=figure(30.0), b=figure(60.0), c=figure(45.0)),
        marks=marks,
    )  # fmt: skip
    over = summary(found)
    assert over == {
        "mean_recovery": pytest.approx(0.5), "least_recovery": pytest.approx(0.5),
        # c is of no model: what it lost is shown, and not counted
        "mean_forgetting": pytest.approx(-10), "worst_forgetting": pytest.approx(-10),
    }  # fmt: skip
    shown = standing_table(found)
    cells = {row[0]: row for row in shown.rows}
    assert cells["a"][-1] == "-10.00"
    assert cells["c"][1] == "-"
    assert cells["c"][-1] == "-35.00"
    assert cells["mean of the seen"][6] == "0.500"
    assert any("of no model in the merge: c" in note for note in shown.notes)


def test_other_rows_than_before_are_told_and_not_compared():
    found = facts(stage("a", a=figure(20.0, asked="x")), stage("b", a=figure(90.0, asked="y")))
    (one,) = standings(found)
    assert one.forgetting is None
    assert any("earlier stages had other rows" in note for note in standing_table(found).notes)


def test_a_stage_s_row_has_a_dash_where_it_was_not_measured():
    found = facts(stage("a", a=figure(1.0)), stage("b", b=figure(2.0)), earlier=3)
    assert [list(row) for row in stages_table(found).rows] == [
        ["4", "a", "fta", "0.5", "1.00", "-"], ["5", "b", "fta", "0.5", "-", "2.00"]
    ]  # fmt: skip


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_the_shares_are_what_the_weights_multiply_to(weights):
    stages = [stage(f"m{i}") for i in range(len(weights))]
    stages = [s.model_copy(update={"state_weight": 1 - w, "weight": w}) for s, w in zip(stages, weights, strict=True)]
    found = facts(*stages, earlier=2).shares()
    assert found is not None
    assert math.fsum(found.values()) == pytest.approx(1)
    assert found[""] == pytest.approx(math.prod(1 - w for w in weights))


@pytest.mark.parametrize(
    ("given_", "words"),
    [
        ({"weight": [0.5]}, "weight is weighted's"),
        ({"alpha": 2.0}, "alpha is weighted's"),
        ({"method": "weighted", "protect": 0.9}, "protect is opcm's"),
        ({"method": "opcm", "rule": "minimum"}, "rule is weighted's"),
        ({"method": "weighted", "weight": [1.5]}, "less than or equal to 1"),
        ({"method": "weighted", "weight": [float("nan")]}, "weight"),
        ({"energy": 0}, "greater than 0"),
        ({"method": "mean"}, "'fta', 'weighted' or 'opcm'"),
        ({"enrgy": 1}, "energy"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense_are_refused(given_, words):
    with pytest.raises(RecipeError) as found:
        validated(Continuing, given_, source="x")
    assert words in str(found.value)
