"""What systems are to the base and the specialists: groups, forgetting, recovery, and what is tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.checkpoints.lineage import lineage_in
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import Comparison, Line
from chorus.evaluate.gate import gate
from chorus.evaluate.results import Evaluation
from chorus.evaluate.tables import differences_table, rates_table
from chorus.experiment.findings import findings
from chorus.tasks.scored import Answer
from chorus.transcribe.systems import open_system
from results import counted, family, made_up
from sounds import BASE


def line_of(made: Comparison, label: str) -> Line:
    return next(line for line in made.lines if line.label == label)


def test_recovery_is_left_out_where_a_specialists_gain_may_be_chance(tmp_path: Path) -> None:
    """Nothing gained, lost, gained within the interval, and surely gained."""
    away = dict.fromkeys("abcd", 12)
    made = compare([
        made_up(tmp_path, "base", {"a": 4, "b": 4, "c": 8, "d": 16}, role="base"),
        *(
            made_up(tmp_path, home, {**away, home: wrong}, role="specialist", home=home)
            for home, wrong in (("a", 4), ("b", 6), ("c", 7), ("d", 5))
        ),
        made_up(tmp_path, "m", {"a": 2, "b": 2, "c": 2, "d": 8}, role="merge"),
    ])  # fmt: skip
    assert line_of(made, "m").recovery == pytest.approx({"d": 8 / 11})
    told = " | ".join(made.notes)
    assert "no recovery in a: the specialist gains nothing there" in told
    assert "no recovery in b: the specialist is worse there than the base, by 5.0 points" in told
    assert "no recovery in c: the specialist's gain there, 2.5 points [" in told
    assert "no recovery in d" not in told
    assert "3 of 4 domains left out" in findings(made, "m", 1)[1]


def test_where_no_specialist_surely_gains_recovery_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    made = compare([
        made_up(tmp_path, "base", {"a": 8}, role="base"),
        made_up(tmp_path, "a", {"a": 7}, role="specialist", home="a"),
        made_up(tmp_path, "m", {"a": 2}, role="merge"),
    ])  # fmt: skip
    table = rates_table(made)
    assert [row[table.columns.index("recovery mean")] for row in table.rows] == ["-", "-", "-"]
    assert any("may be chance" in note for note in table.notes)
    assert "nothing that a merge could recover" in " ".join(findings(made, "m", 1))


def test_rates_above_100_count_as_100_in_forgetting_and_recovery(tmp_path: Path) -> None:
    """Who writes more words than were said, and then none, has gained nothing: 200 % and 100 % are one."""
    silent: list[Answer] = [
        {"name": f"{domain}/{i}", "condition": "clean", "domain": domain, "reference": "one two", "hypothesis": ""}
        for domain in ("home", "away") for i in range(20)
    ]  # fmt: skip
    loud: list[Answer] = [{**row, "hypothesis": "never" + 3 * " said"} for row in silent]
    right: list[Answer] = [{**row, "hypothesis": "one two" if row["domain"] == "home" else ""} for row in silent]
    made = compare([
        counted(tmp_path, "base", loud, role="base"),
        counted(tmp_path, "s", right, role="specialist", home="home"),
        counted(tmp_path, "m", silent, role="merge"),
    ])  # fmt: skip
    assert line_of(made, "base").rates["away"] == 200.0, "as it is"
    assert line_of(made, "m").forgetting == 0.0
    assert line_of(made, "m").recovery == {"home": 0.0}
    assert line_of(made, "s").recovery == {"home": 1.0}
    assert any("count as 100" in note for note in made.notes)


def uneven(place: Path, label: str, wrong: dict[str, int], role: str) -> Evaluation:
    """Ten utterances of one domain, ninety of another."""
    return made_up(place, label, wrong, each={"small": 10, "large": 90}, role=role)


def test_what_is_tested_is_the_average_that_is_shown(tmp_path: Path) -> None:
    """Pooled the merge is better, in the mean over domains worse: every place tells of the mean."""
    base = uneven(tmp_path, "base", {"small": 0, "large": 40}, role="base")
    merged = uneven(tmp_path, "m", {"small": 8, "large": 25}, role="merge")
    made = compare([base, merged])
    lines = {line.label: line for line in made.lines}
    (found,) = lines["m"].differences
    points = lines["m"].averages["in-domain"] - lines["base"].averages["in-domain"]
    assert points == pytest.approx(50 * (8 / 10 - 15 / 90) / 2)
    assert found.points == pytest.approx(points)
    assert found.low < points < found.high
    assert found.matched is not None
    assert found.matched.z > 0
    table = differences_table(made)
    assert table is not None
    assert table.rows[0][3] == f"{points:+.2f}"
    check = gate(merged, against=base, max_regression=1.0)[1]
    assert check.value == pytest.approx(points)
    assert not check.ok
    assert "mean of 2 domains" in check.what


def test_stars_need_test_and_interval(tmp_path: Path) -> None:
    """Four utterances against none: the interval has no zero in it, and exactly p is .125."""
    made = compare([made_up(tmp_path, "base", {"a": 4}, role="base"), made_up(tmp_path, "m", {"a": 0}, role="merge")])
    (found,) = line_of(made, "m").differences
    assert found.high < 0
    assert found.p == 0.125
    assert found.stars == ""
    assert "0.125" in " ".join(differences_table(made).rows[0])
    worse, better = made_up(tmp_path, "x", {"a": 4}), made_up(tmp_path, "y", {"a": 0})
    assert gate(worse, against=better, max_regression=0.0, significant=True)[1].ok


def test_a_subset_knows_what_its_systems_were_trained_on(tmp_path: Path) -> None:
    """Without one specialist its domain is joint's and the merge's own all the same."""
    every = family(tmp_path)
    some = [one for one in every if one.label != "phone"]
    whole, part = compare(every), compare(some)
    assert {c.name: c.group for c in part.cells} == {c.name: c.group for c in whole.cells}
    for label in ("joint", "merged"):
        assert line_of(part, label).forgetting == line_of(whole, label).forgetting
    alone = compare([one for one in every if one.label in ("base", "joint")])
    assert {c.name for c in alone.cells if c.group == "in-domain"} == {"radio", "phone"}
    told = compare(some, groups={"phone": "out-of-domain"})
    assert {c.name for c in told.cells if c.group == "in-domain"} == {"radio"}, "unless it is said otherwise"


def test_what_the_base_was_trained_on_may_be_forgotten(tmp_path: Path) -> None:
    made = compare([
        made_up(tmp_path, "base", {"a": 12, "old": 1}, role="base", trained_on={"domain": ["old"]}),
        made_up(tmp_path, "a", {"a": 2, "old": 9}, role="specialist", home="a"),
    ])  # fmt: skip
    assert {c.name: c.group for c in made.cells} == {"a": "in-domain", "old": "out-of-domain"}


def test_lineage_goes_through_merges_and_adapters(tmp_path: Path) -> None:
    """Two trainings, merged, written, and merged again: both are known, as from the recipe."""
    import shutil

    from chorus.merge.api import merge

    for name in ("radio", "phone"):
        shutil.copytree(BASE, tmp_path / name)
        facts = {"kind": "train", "config": {"data": {"train": [{"where": {"domain": name, "split": "train"}}]}}}
        (tmp_path / name / "chorus.json").write_text(json.dumps(facts))
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(BASE),
        "models": [{"model": str(tmp_path / name), "parameters": {"weight": 0.5}} for name in ("radio", "phone")],
    }  # fmt: skip
    merge(recipe, tmp_path / "once")
    again = {"merge_method": "linear", "models": [{"model": str(tmp_path / "once"), "parameters": {"weight": 1.0}}]}
    merge(again, tmp_path / "twice")
    for name in ("once", "twice"):
        system = open_system(str(tmp_path / name))
        assert system.role == "merge"
        assert system.trained_on == {"domain": ["radio", "phone"]}, name


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, {}),
        ({"kind": "train"}, {}),
        ({"kind": "train", "data": {"domain": {"a": 3}, "language": {"en": 3}}}, {"domain": ["a"], "language": ["en"]}),
        ({"kind": "train", "config": {"data": {"train": [{"domain": "a"}, {"where": {"speaker": ["x", "y"]}}]}}},
         {"speaker": ["x", "y"], "domain": ["a"]}),
        ({"recipe": {}, "trained_on": {"domain": ["a", "b"]}}, {"domain": ["a", "b"]}),
        ({"kind": "train", "config": [], "data": 3}, {}),
        ({"kind": "train", "config": {"data": {"train": [1, None, {"where": "x"}]}}}, {}),
        ({"trained_on": {"domain": [None, {}, "a"], "x": None}}, {"domain": ["a"]}),
    ],
)  # fmt: skip
def test_lineage_of_facts_of_any_form(facts: dict[str, object], found: dict[str, list[str]]) -> None:
    assert lineage_in(facts) == found
