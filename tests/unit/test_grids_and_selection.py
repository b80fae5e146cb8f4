"""Settings, grids, the recipes of trials, and which setting is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from chorus.errors import RecipeError
from chorus.search.grids import MAX_SETTINGS, Setting, grid_of, grid_problems, varied
from chorus.search.recipes import recipe_of, refuse_hidden, template_of
from chorus.search.selection import best_of, by_metric, choose, macro_rate, selection_facts, short_of
from chorus.tasks.scored import ERROR_RATE
from results import counted, made_up

# ---- grids ----


def test_a_grid_is_every_combination_in_the_order_of_the_file() -> None:
    found = grid_of("ties", {"density": [0.2, 0.5], "lambda": [0.5, 1]})
    assert [s.label for s in found] == [
        "ties[density=0.2,lambda=0.5]", "ties[density=0.2,lambda=1]", "ties[density=0.5,lambda=0.5]",
        "ties[density=0.5,lambda=1]",
    ]  # fmt: skip


def test_a_grid_without_lists_is_one_setting() -> None:
    assert [s.label for s in grid_of("linear", {})] == ["linear"]
    assert len(grid_of("ties", {"density": 0.5})) == 1


def test_gradients_stay_values() -> None:
    points = grid_of("mine", {"method": "ties", "density": [0.2, 0.5], "lambda": {"value": [0.1, 0.9]}})
    assert [p.method for p in points] == ["ties", "ties"]
    assert points[0].parameters == {"density": 0.2, "lambda": [0.1, 0.9]}
    several = grid_of("ties", {"lambda": [{"value": [0.1, 0.9]}, 0.5]})
    assert [s.parameters["lambda"] for s in several] == [[0.1, 0.9], 0.5]


def test_labels_tell_settings_apart() -> None:
    """A label is a folder's name and a table's key: no two settings of a grid may share one."""
    grid = {"vectors": ["mean", "sum"], "lambda": [0.5, 1, 1.5], "orth": ["ns", "svd"]}
    labels = [s.label for s in grid_of("tsv_m", grid)]
    assert len(set(labels)) == len(labels) == 12
    assert Setting("a", "a", {"flag": True}).label == "a[flag=True]"


def test_with_base_and_method_are_no_parameters() -> None:
    (setting,) = grid_of("mine", {"method": "multislerp", "base": True})
    assert setting == Setting("mine", "multislerp", {}, with_base=True)


def test_one_parameter_varied_keeps_the_others() -> None:
    points = varied(Setting("t", "ties", {"density": 0.2, "lambda": 1.0}, with_base=True), "density", [0.1, 0.9])
    assert [p.parameters for p in points] == [{"density": 0.1, "lambda": 1.0}, {"density": 0.9, "lambda": 1.0}]
    assert all(p.with_base for p in points)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("tise", {}, 'did you mean "ties"'),
        ("mine", {"method": "tise"}, 'did you mean "ties"'),
        ("ties", {"densty": [0.1]}, '"density"'),
        ("ties", {"density": [0.1, 1.5]}, "density"),
        ("ties", {"density": [i / MAX_SETTINGS for i in range(MAX_SETTINGS + 1)]}, "more than 2000"),
        ("ties", {"density": [0.1] * 100, "lambda": [1.0] * 100}, "10000 settings"),
    ],
)
def test_problems_name_the_place(name: str, values: dict[str, object], told: str) -> None:
    problems = grid_problems("methods.x", name, values)
    assert len(problems) == 1, "the same problem of many points is told once"
    assert problems[0].startswith("methods.x")
    assert told in problems[0]


def test_a_good_grid_has_no_problem() -> None:
    assert grid_problems("g", "ties", {"density": [0.2, 0.5], "lambda": {"value": [0.5, 1.0]}}) == []


# ---- recipes ----

TEMPLATE = template_of("base", ["a", "b"])


def test_the_base_is_named_to_methods_that_need_it() -> None:
    assert recipe_of(TEMPLATE, Setting("ties", "ties", {"density": 0.5}))["base_model"] == "base"
    assert "base_model" not in recipe_of(TEMPLATE, Setting("multislerp", "multislerp", {}))
    assert recipe_of(TEMPLATE, Setting("m", "multislerp", {}, with_base=True))["base_model"] == "base"
    own = {**TEMPLATE, "merge_method": "multislerp"}
    assert recipe_of(own, Setting("multislerp", "multislerp", {}))["base_model"] == "base"
    assert "base_model" not in recipe_of(own, Setting("linear", "linear", {}))


def test_a_recipe_reads_as_one_written_by_hand() -> None:
    found = recipe_of(TEMPLATE, Setting("ties", "ties", {"density": 0.5}))
    assert list(found) == ["merge_method", "base_model", "models", "parameters", "out_dtype"]
    assert found["models"] == [{"model": "a"}, {"model": "b"}]
    assert found["out_dtype"] == "float32"


def test_a_required_weight_is_one_unless_given() -> None:
    assert recipe_of(TEMPLATE, Setting("linear", "linear", {}))["parameters"] == {"weight": 1.0}
    assert recipe_of(TEMPLATE, Setting("linear", "linear", {"weight": 2.0}))["parameters"] == {"weight": 2.0}
    own = {"models": [{"model": "a", "parameters": {"weight": 0.3}}, {"model": "b", "parameters": {"weight": 0.7}}]}
    assert "parameters" not in recipe_of(own, Setting("linear", "linear", {}))


def test_the_templates_settings_stay_under_the_grids() -> None:
    template = {
        **TEMPLATE,
        "merge_method": "ties",
        "parameters": {"density": 0.9, "lambda": 0.5},
        "out_dtype": "bfloat16",
    }
    found = recipe_of(template, Setting("ties", "ties", {"density": 0.1}))
    assert found["parameters"] == {"density": 0.1, "lambda": 0.5}
    assert found["out_dtype"] == "bfloat16"
    assert template["parameters"] == {"density": 0.9, "lambda": 0.5}, "a template is not changed"


def test_a_parameter_that_a_model_hides_is_refused() -> None:
    template = {"merge_method": "ties", "models": [{"model": "a", "parameters": {"density": 0.3}}, {"model": "b"}]}
    with pytest.raises(RecipeError, match="density: a model sets it itself"):
        refuse_hidden(template, Setting("ties", "ties", {"density": 0.1}))
    refuse_hidden(template, Setting("ties", "ties", {"lambda": 0.1}))


# ---- selection ----


def grids() -> dict[str, list[Setting]]:
    return {"linear": grid_of("linear", {}), "ties": grid_of("ties", {"density": [0.2, 0.5, 0.8]})}


def rates(*ties: tuple[float, float], linear: float = 20.0) -> dict[tuple[str, int], float]:
    found = {("linear", 0): linear, ("linear", 1): linear, ("base", 0): 50.0, ("base", 1): 52.0}
    for setting, (a, b) in zip(grids()["ties"], ties, strict=True):
        found |= {(setting.label, 0): a, (setting.label, 1): b}
    return found


def test_the_lowest_mean_over_seeds_is_chosen() -> None:
    chosen = choose(grids(), rates((10, 30), (18, 18), (5, 40)), [0, 1])
    assert chosen["ties"].setting.parameters == {"density": 0.5}
    assert chosen["ties"].dev == 18.0
    assert best_of(chosen) == "ties"


def test_of_equals_the_first_is_chosen() -> None:
    chosen = choose(grids(), rates((20, 20), (10, 30), (20, 20)), [0, 1])
    assert chosen["ties"].setting.parameters == {"density": 0.2}
    assert best_of(chosen) == "linear", "and of equal methods the first"


def test_a_rate_that_is_not_defined_is_never_chosen_before_one_that_is() -> None:
    chosen = choose(grids(), rates((math.nan, 1), (30, 30), (40, 40), linear=math.nan), [0, 1])
    assert chosen["ties"].setting.parameters == {"density": 0.5}
    assert best_of(chosen) == "ties"


def test_where_more_is_better_the_highest_is_chosen() -> None:
    chosen = choose(grids(), rates((10, 30), (18, 18), (50, 40), linear=math.nan), [0, 1], best=100)
    assert chosen["ties"].setting.parameters == {"density": 0.8}
    assert best_of(chosen, best=100) == "ties"


def test_the_document_tells_every_setting_and_model() -> None:
    found = rates((10, 30), (18, 18), (5, 40))
    chosen = choose(grids(), found, [0, 1])
    facts = selection_facts(
        grids(),
        chosen,
        found,
        [0, 1],
        by=by_metric(ERROR_RATE),
        over="in-domain",
        normaliser="marks",
        dev_set="fingerprint",
    )  # fmt: skip
    told = json.loads(json.dumps(facts))
    assert told["best"] == "ties"
    assert told["chosen"]["ties"] == {
        "label": "ties[density=0.5]", "method": "ties", "parameters": {"density": 0.5}, "dev": 18.0
    }  # fmt: skip
    assert [s["dev"] for s in told["settings"]["ties"]] == [
        {"0": 10, "1": 30}, {"0": 18, "1": 18}, {"0": 5, "1": 40}
    ]  # fmt: skip
    assert told["models"] == {"base": {"0": 50.0, "1": 52.0}}


def test_a_macro_rate_weighs_domains_alike(tmp_path: Path) -> None:
    one = made_up(tmp_path, "m", {"a": 20, "b": 0})
    a, b = macro_rate(one, ["a"]), macro_rate(one, ["b"])
    assert (a, b) == (pytest.approx(50.0), pytest.approx(0.0))
    assert macro_rate(one, ["a", "b"]) == macro_rate(one) == pytest.approx((a + b) / 2)


def test_a_setting_whose_every_decode_failed_has_no_rate(tmp_path: Path) -> None:
    """Silence is 100 % wrong, and would be chosen before who writes more words than were said."""
    one = made_up(tmp_path, "m", {"a": 20})
    failed = counted(tmp_path, "f", [{**row, "failed": "RuntimeError: no", "hypothesis": ""} for row in one.rows])
    assert math.isnan(macro_rate(failed))
    assert short_of(macro_rate(failed), 0) == math.inf
    part = counted(tmp_path, "p", [{**row, **({"failed": "no"} if i else {})} for i, row in enumerate(one.rows)])
    assert macro_rate(part) == pytest.approx(50.0)
