"""Comparisons: averages, forgetting, recovery, overfitting, tests; tables in every form; gates."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest

from chorus.errors import DataError, UsageError
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import comparison_from
from chorus.evaluate.gate import gate
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import Scoring, count_answers
from chorus.evaluate.tables import differences_table, plain, rates_table
from chorus.experiment.pooled import pooled
from chorus.report.compared import compared_plots, swept
from chorus.report.plots import pareto
from results import family, made_up


@pytest.fixture
def five(tmp_path: Path) -> list[Evaluation]:
    return family(tmp_path)


def test_groups_averages_recovery_and_forgetting(five: list[Evaluation]) -> None:
    made = compare(five)
    groups = {cell.name: cell.group for cell in made.cells}
    assert groups == {
        "radio": "in-domain", "phone": "in-domain", "extra": "out-of-domain", "fado": "other-language"
    }  # fmt: skip
    lines = {line.label: line for line in made.lines}
    assert [line.label for line in made.lines] == ["base", "radio", "phone", "joint", "merged"]
    # 20 utterances of two words: one wrong word in n of them is 100 n / 40 percent
    assert lines["base"].averages == pytest.approx(
        {"in-domain": 40.0, "out-of-domain": 10.0, "other-language": 10.0, "all": 25.0}
    )
    assert lines["merged"].recovery == pytest.approx({"radio": (7 - 16) / (4 - 16), "phone": (10 - 16) / (4 - 16)})
    assert lines["merged"].recovery_mean == pytest.approx(0.625)
    assert lines["merged"].recovery_worst == pytest.approx(0.5)
    assert lines["merged"].forgetting == pytest.approx(1.25)
    assert lines["joint"].forgetting == pytest.approx((2.5 * 2 + 2.5 * 8) / 2)
    assert lines["radio"].overfits
    assert not lines["merged"].overfits
    assert lines["base"].forgetting is None


def test_differences_carry_both_tests_and_holms_correction(five: list[Evaluation]) -> None:
    made = compare(five)
    merged = next(line for line in made.lines if line.label == "merged")
    against_base = next(d for d in merged.differences if d.reference == "base" and d.group == "in-domain")
    assert against_base.points == pytest.approx(100 * (17 - 32) / 80)
    assert against_base.low < against_base.points < against_base.high < 0
    assert against_base.matched.z < 0
    assert against_base.p >= against_base.matched.p
    assert against_base.stars
    assert {d.reference for d in merged.differences} == {"base", "joint"}
    assert {d.group for d in merged.differences} == {"in-domain", "out-of-domain", "other-language", "all"}
    untested = compare(five, tests=False)
    assert not any(line.differences for line in untested.lines)


def test_roles_can_be_given_and_unknown_labels_name_the_nearest(tmp_path: Path) -> None:
    results = [made_up(tmp_path, label, {"a": n, "b": n}) for label, n in (("one", 9), ("two", 4), ("three", 5))]
    made = compare(results, base="one", specialists={"two": "a"}, groups={"b": "other-language"})
    assert made.base == "one"
    assert {c.name: c.group for c in made.cells} == {"a": "in-domain", "b": "other-language"}
    with pytest.raises(UsageError, match='did you mean "three"'):
        compare(results, base="thre")
    with pytest.raises(DataError, match='no utterance has domain "c"'):
        compare(results, specialists={"two": "c"})
    assert any("no result is the base" in note for note in compare(results).notes)
    with pytest.raises(DataError, match="two results are called one"):
        compare([results[0], results[0]])


def test_different_recordings_are_refused_and_named(tmp_path: Path) -> None:
    a = made_up(tmp_path, "a", {"x": 3})
    fewer = made_up(tmp_path, "b", {"x": 3}, each=18)
    with pytest.raises(DataError, match="b lacks x/18, x/19, which a has") as caught:
        compare([a, fewer])
    assert "--common" in caught.value.hint
    both = compare([a, fewer], common=True)
    assert both.cells[0].utterances == 18
    assert any("lacks" in note for note in both.notes)
    rows = [{**row, "reference": "something else"} if i == 4 else row for i, row in enumerate(a.rows)]
    facts = {**a.summary, "system": {**a.summary["system"], "label": "c"}}
    changed = count_answers(tmp_path / "c", facts, rows, Scoring())
    with pytest.raises(DataError, match="different references: x/4"):
        compare([a, changed])
    other = made_up(tmp_path, "d", {"y": 3})
    with pytest.raises(DataError, match="share no utterance"):
        compare([a, other], common=True)
    with pytest.raises(DataError, match="not evaluated under telephone"):
        compare([a], condition="telephone")


def test_different_normalisers_are_refused_until_one_is_chosen(tmp_path: Path) -> None:
    results = [made_up(tmp_path, "a", {"x": 3}), made_up(tmp_path, "b", {"x": 5}, normaliser="raw")]
    with pytest.raises(DataError, match="marks, raw") as caught:
        compare(results)
    assert "--normaliser" in caught.value.hint
    assert compare(results, normaliser="basic").normaliser == "basic"


def test_tables_say_the_same_in_every_form(five: list[Evaluation]) -> None:
    made = compare(five)
    table = rates_table(made)
    markdown, latex = table.render("markdown"), table.render("latex")
    rows = list(csv.reader(io.StringIO(table.render("csv"))))
    assert rows[0][0] == "system"
    assert [r[0] for r in rows[1:]] == ["base", "radio †", "phone †", "joint", "merged"]
    assert "normaliser marks" in table.title
    assert r"\begin{tabular}" in latex
    assert latex.count(r"\\") >= 6
    assert markdown.count("\n| ") == 7
    assert r"\*" in markdown, "significance marks are not taken for bold type"
    best = [(i, j) for i, j in table.best if table.columns[j] == "radio"]
    assert [table.rows[i][0] for i, _ in best] == ["radio †"]
    assert "fewer than 20 speakers" in " ".join(table.notes)
    differences = differences_table(made)
    assert differences is not None
    assert len(differences.rows) == 2 * 4 * 4
    assert differences_table(compare(five, tests=False)) is None
    written = json.dumps(plain(made), allow_nan=False)
    again = comparison_from(json.loads(written))
    assert plain(again) == plain(made)
    assert rates_table(again) == table, "read back, the same table"
    assert differences_table(again) == differences


def test_pooled_seeds_are_clusters_of_utterances(tmp_path: Path) -> None:
    seeds = {s: [made_up(tmp_path / str(s), "base", {"a": 8 + s, "b": 4}, role="base")] for s in range(3)}
    one = pooled(seeds)[0]
    assert len(one.rows) == 3 * 40
    assert len({row.utterance for row in one.scored}) == 40
    made = compare([one])
    assert made.clusters == 40
    assert made.lines[0].rates["a"] == pytest.approx(100 * (8 + 9 + 10) / 120)
    assert pooled({0: seeds[0]}) == seeds[0]
    # three times the same is no more certain than once
    same = pooled({s: [made_up(tmp_path / "same" / str(s), "base", {"a": 8}, role="base")] for s in range(3)})
    single = compare([seeds[0][0]]).lines[0].intervals["a"]
    assert compare(same).lines[0].intervals["a"].high == pytest.approx(single.high, abs=1e-9)


def test_tests_of_pooled_seeds_take_an_utterance_as_one_segment(tmp_path: Path) -> None:
    def run(seed: int) -> list[Evaluation]:
        place = tmp_path / str(seed)
        return [made_up(place, "base", {"a": 10}, role="base"), made_up(place, "m", {"a": 4}, role="merge")]

    once = compare(run(0))
    thrice = compare(pooled({s: run(s) for s in range(3)}))
    first, second = (next(x for x in c.lines if x.label == "m").differences[0].matched for c in (once, thrice))
    assert first.segments == second.segments
    assert first.p == pytest.approx(second.p)


def test_plots_are_written_as_png_and_svg(five: list[Evaluation], tmp_path: Path) -> None:
    made = compare(five)
    paths = compared_plots(made, tmp_path / "plots")
    assert {p.name for p in paths} == {"by-domain.png", "by-domain.svg", "trade.png", "trade.svg"}
    assert all(p.stat().st_size > 5000 for p in paths)
    again = compared_plots(made, tmp_path / "again")
    assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in again], "the same numbers, another picture"


def test_a_methods_parameter_becomes_a_curve(tmp_path: Path) -> None:
    merges = [
        made_up(tmp_path, f"ties-{d}", {"a": n}, role="merge", parameters={"method": "ties", "density": d, "lambda": 1})
        for d, n in ((0.5, 4), (0.2, 6), (0.8, 9))
    ]
    made = compare([made_up(tmp_path, "base", {"a": 12}, role="base"), *merges])
    found = swept(made.lines)
    assert [(one.method, one.parameter) for one in found] == [("ties", "density")]
    assert found[0].groups["in-domain"] == [(0.2, 15.0), (0.5, 10.0), (0.8, 22.5)]
    assert (tmp_path / "plots" / "ties-density.svg") in compared_plots(made, tmp_path / "plots")


def test_the_pareto_front() -> None:
    assert pareto([(1, 3), (2, 2), (3, 3), (3, 1)]) == [0, 1, 3]
    assert pareto([(1, 1), (1, 1)]) == [0, 1]
    assert pareto([]) == []


def test_translations_are_compared_by_bleu_where_more_is_better(tmp_path: Path) -> None:
    wrong = {"base": 16, "a": 4, "m": 8}
    roles = {"base": ("base", ""), "a": ("specialist", "x"), "m": ("merge", "")}
    results = [
        made_up(tmp_path, label, {"x": count, "y": 6}, role=roles[label][0], home=roles[label][1], task="st", words=6)
        for label, count in wrong.items()
    ]
    made = compare(results)
    assert (made.metric, made.title, made.best) == ("bleu", "BLEU", 100.0)
    lines = {line.label: line for line in made.lines}
    assert lines["base"].rates["x"] < lines["m"].rates["x"] < lines["a"].rates["x"]
    assert 0 < lines["m"].recovery["x"] < 1
    assert lines["m"].forgetting == pytest.approx(0.0)
    assert not made.notes
    difference = lines["m"].differences[0]
    assert difference.points > 0
    assert difference.matched is None
    assert 2 / 4000 <= difference.p < 0.05, "corrected over two systems"
    table = rates_table(made)
    assert table.title.startswith("BLEU [95 % interval]")
    assert {table.rows[i][0] for i, j in table.best if j == 1} == {"a (x)"}
    told = differences_table(made)
    assert told is not None
    assert told.rows[0][5:9] == ["approximate randomisation", "-", "-", "-"]
    assert "approximate randomisation with Holm's correction" in " ".join(table.notes)
    json.dumps(plain(made), allow_nan=False)
    assert [c.ok for c in gate(results[2], against=results[0], max_regression=0.0)] == [True, True]
    assert [c.ok for c in gate(results[0], against=results[2], max_regression=0.0)] == [True, False]
    with pytest.raises(DataError, match="different tasks: asr, st"):
        compare([results[0], made_up(tmp_path, "other", {"x": 1, "y": 1}, words=6)])


def test_a_faultless_bleu_is_no_rate_above_100(tmp_path: Path) -> None:
    results = [made_up(tmp_path, name, {"x": wrong}, role=role, task="st", words=6)
               for name, wrong, role in (("base", 9, "base"), ("m", 0, "merge"))]  # fmt: skip
    made = compare(results)
    assert max(line.rates["x"] for line in made.lines) > 100, "by rounding"
    assert not any("count as 100" in note for note in made.notes)


def test_dialects_of_one_language_are_no_other_language(tmp_path: Path) -> None:
    languages = {"lisbon": "pt-PT", "rio": "Portuguese", "radio": "en"}
    made = compare([
        made_up(tmp_path, "base", {"lisbon": 4, "rio": 5, "radio": 6}, role="base", languages=languages),
        made_up(tmp_path, "a", {"lisbon": 2, "rio": 5, "radio": 6}, role="specialist", home="lisbon",
                languages=languages),
    ])  # fmt: skip
    assert {c.name: c.group for c in made.cells} == {
        "lisbon": "in-domain", "rio": "out-of-domain", "radio": "other-language"
    }  # fmt: skip


# ---- gates ----


def test_gates_hold_and_fail(five: list[Evaluation]) -> None:
    base, merged = five[0], five[4]
    assert all(c.ok for c in gate(merged, max_wer=50, max_cer=90))
    failed = gate(merged, against=base, max_wer=1.0, max_regression=0.5, max_domain_regression=1.0)
    assert [c.ok for c in failed] == [True, False, True, False]
    assert "fado" in failed[3].what
    assert str(failed[1]).startswith("FAIL WER")
    worse = gate(base, against=merged, max_regression=0.5)
    assert not worse[1].ok


def test_a_regression_within_chance_passes_where_only_significance_counts(tmp_path: Path) -> None:
    a = made_up(tmp_path, "a", {"x": 5, "y": 5})
    slightly, clearly = made_up(tmp_path, "b", {"x": 6, "y": 5}), made_up(tmp_path, "c", {"x": 19, "y": 19})
    assert not gate(slightly, against=a, max_regression=0.5)[1].ok
    assert gate(slightly, against=a, max_regression=0.5, significant=True)[1].ok
    assert not gate(clearly, against=a, max_regression=0.5, significant=True)[1].ok


def test_failed_decodes_fail_a_gate(tmp_path: Path) -> None:
    a = made_up(tmp_path, "a", {"x": 1})
    broken = Evaluation(a.directory, {**a.summary, "all": {**a.summary["all"], "failed": 2}}, a.rows)
    assert not gate(broken, max_wer=100)[0].ok
    assert gate(broken, max_wer=100, max_failed=2)[0].ok
    silent = Evaluation(a.directory, {**a.summary, "all": {**a.summary["all"], "wer": None}}, a.rows)
    with pytest.raises(DataError, match="not defined") as caught:
        gate(silent, max_wer=10)
    assert "words" in caught.value.hint
    assert np.isfinite(a.summary["all"]["wer"])
