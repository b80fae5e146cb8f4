"""The interference matrix, by hand: of twenty utterances of two words a domain one error is 2.5 points."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import chorus
from chorus.analyse.interference import Gained, analyse_interference, summed
from chorus.analyse.interference_facts import Effect, Interference, Outgoing
from chorus.analyse.interference_report import interference_report, tables_of
from chorus.errors import MisfitError, UsageError
from chorus.evaluate.bootstrap import Answered, paired_bootstrap
from chorus.evaluate.results import Evaluation
from chorus.tasks.asr import ASR
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import ERROR_RATE, Answer
from results import counted, family, made_up


def points(found: Interference, specialist: str, row: str) -> float:
    effect = found.effect(specialist, row)
    assert effect is not None
    return effect.points


def share(found: Interference, specialist: str, row: str) -> float | None:
    effect = found.effect(specialist, row)
    assert effect is not None
    return effect.share


def outgoing(found: Interference, specialist: str) -> Outgoing:
    return next(one for one in found.outgoing if one.specialist == specialist)


def test_every_number_by_hand(tmp_path: Path) -> None:
    found = analyse_interference(family(tmp_path))
    assert found.base == "base"
    assert [row.name for row in found.rows] == ["radio", "phone", "extra", "fado"]
    assert [row.own for row in found.rows] == ["radio", "phone", "", ""]
    assert [row.base for row in found.rows] == [40.0, 40.0, 10.0, 10.0]
    wanted = {"radio": [30.0, -5.0, -10.0, -5.0], "phone": [-5.0, 30.0, -10.0, -5.0]}
    for label, column in wanted.items():
        assert [points(found, label, row.name) for row in found.rows] == pytest.approx(column)
    assert [share(found, "radio", row.name) for row in found.rows] == [1.0, pytest.approx(-1 / 6), None, None]
    one = outgoing(found, "radio")
    assert (one.homes, one.overfits) == (["radio"], True)
    assert one.own is not None
    assert one.own.points == 30.0
    assert one.others.mean is not None
    assert one.others.mean.points == pytest.approx(-20 / 3)
    assert (one.others.worst, one.others.worst_points) == ("extra", -10.0)
    assert (one.others.share_worst_in, one.others.share_worst) == ("phone", pytest.approx(-1 / 6))
    assert one.others.disruption == pytest.approx(1 / 6)
    assert (one.others.gains, one.others.losses) == (0, 3)
    incoming = found.incoming["extra"]
    assert (incoming.effects, incoming.worst_points, incoming.disruption) == (2, -10.0, None)
    others = {one.system: one for one in found.others}
    assert others["joint"].recovery == pytest.approx({"radio": 25 / 30, "phone": 25 / 30})
    assert others["merged"].recovery == pytest.approx({"radio": 22.5 / 30, "phone": 15 / 30})
    assert others["merged"].mean == pytest.approx(0.625)
    assert (others["merged"].worst, others["merged"].worst_in) == (pytest.approx(0.5), "phone")
    assert others["merged"].ratio_of_sums == pytest.approx(37.5 / 60)
    json.dumps(found.as_dict(), allow_nan=False)


def test_a_specialist_that_may_have_gained_by_chance_is_marked_and_left_out(tmp_path: Path) -> None:
    """At home in b one error of twenty fewer: what others lose there would be minus ten of it."""
    made = analyse_interference([
        made_up(tmp_path, "base", {"a": 16, "b": 8}, role="base"),
        made_up(tmp_path, "a", {"a": 4, "b": 18}, role="specialist", home="a"),
        made_up(tmp_path, "b", {"a": 17, "b": 7}, role="specialist", home="b"),
        made_up(tmp_path, "m", {"a": 6, "b": 12}, role="merge"),
    ])  # fmt: skip
    sure, unsure = made.rows
    assert (sure.sure, unsure.sure) == (True, False)
    assert points(made, "a", "b") == pytest.approx(-25.0)
    assert share(made, "a", "b") is None
    one = outgoing(made, "a").others
    assert (one.worst, one.worst_points) == ("b", -25.0), "in points nothing is divided"
    assert (one.shares, one.share_worst, one.disruption) == (0, None, None)
    assert outgoing(made, "b").others.share_worst == pytest.approx(-2.5 / 30)
    assert made.others[0].recovery == pytest.approx({"a": 25 / 30})
    assert made.others[0].worst_in == "a"
    assert any("what b gains there, 2.5 points" in note and "may be chance" in note for note in made.notes)
    gains = tables_of(made)[0]
    assert [row[0] for row in gains.rows] == ["a", "b †"]
    assert gains.best == {(0, 2), (1, 3)}


def test_a_specialist_that_gains_elsewhere_too_overfits_nothing(tmp_path: Path) -> None:
    made = analyse_interference([
        made_up(tmp_path, "base", {"a": 16, "b": 16}, role="base"),
        made_up(tmp_path, "a", {"a": 2, "b": 4}, role="specialist", home="a"),
    ])  # fmt: skip
    one = outgoing(made, "a")
    assert (one.overfits, one.surely) == (False, False)
    assert (one.others.gains, one.others.gains_surely, one.others.losses) == (1, 1, 0)
    assert made.rows[1].own == ""


def translations(place: Path, label: str, right: dict[str, int], **told: str) -> Evaluation:
    """BLEU: `right[domain]` of twelve sentences are as the reference, the rest lose half of their words."""
    texts = [f"the {a} {b} sees a small {a} in the green garden" for a in ("cat", "dog", "bird") for b in "wxyz"]
    rows: list[Answer] = [
        {"name": f"{domain}/{i}", "condition": "clean", "domain": domain, "language": "de", "written": "en",
         "reference": text, "hypothesis": text if i < count else " ".join(text.split()[:5])}
        for domain, count in right.items() for i, text in enumerate(texts)
    ]  # fmt: skip
    return counted(place, label, rows, task="st", **told)


def test_where_more_is_better_more_is_a_gain(tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    made = analyse_interference([
        translations(tmp_path, "base", {"a": 3, "b": 8}, role="base"),
        translations(tmp_path, "a", {"a": 11, "b": 2}, role="specialist", home="a"),
    ])  # fmt: skip
    assert made.rows[0].best == 100.0
    assert points(made, "a", "a") > 0 > points(made, "a", "b")
    effect = made.effect("a", "a")
    assert effect is not None
    assert effect.low is not None
    assert effect.high is not None
    assert 0 < effect.low < effect.points < effect.high
    assert outgoing(made, "a").overfits


def test_scores_of_two_systems_are_counted_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an EER each system's scores are columns of their own: apart they could not be drawn together."""
    task = TASKS.get("speaker_ver")
    eer = next(metric for metric in task.metrics if metric.name == "eer")
    monkeypatch.setitem(vars(task), "metrics", (eer,))

    def heard(label: str, wrong: int, **told: str) -> Evaluation:
        rng = random.Random(label)
        rows: list[Answer] = []
        for i in range(40):
            right = "yes" if i % 2 else "no"
            sign = (1 if right == "yes" else -1) * (-1 if i < wrong else 1)
            odds = {"yes": [sign * (1 + rng.random()), 2.0], "no": [0.0, 2.0]}
            rows.append({
                "name": f"{i}", "condition": "clean", "domain": "pairs", "reference": right, "hypothesis": right,
                "choices": ["yes", "no"], "scores": odds,
            })  # fmt: skip
        return counted(tmp_path, label, rows, task="speaker_ver", **told)

    made = analyse_interference([
        heard("base", 20, role="base"), heard("s", 4, role="specialist", home="pairs")
    ])  # fmt: skip
    effect = made.effect("s", "pairs")
    assert effect is not None
    assert effect.points == pytest.approx(50.0 - 10.0)
    assert effect.low is not None
    assert 0 < effect.low < effect.points


def test_several_tasks_are_rows_of_one_matrix(tmp_path: Path) -> None:
    """An error rate and BLEU: each turned its own way, means over both with an interval."""
    pytest.importorskip("sacrebleu")
    both = [
        made_up(tmp_path / "asr", "base", {"a": 16}, role="base"), made_up(tmp_path / "asr", "hears", {"a": 2}),
        made_up(tmp_path / "asr", "translates", {"a": 20}),
        translations(tmp_path / "st", "base", {"a": 6}, role="base"), translations(tmp_path / "st", "hears", {"a": 0}),
        translations(tmp_path / "st", "translates", {"a": 12}),
    ]  # fmt: skip
    made = analyse_interference(both, specialists={"hears": "asr", "translates": "st"})
    assert [(row.name, row.own, row.sure) for row in made.rows] == [("asr", "hears", True), ("st", "translates", True)]
    assert points(made, "hears", "asr") == pytest.approx(35.0)
    assert points(made, "hears", "st") < 0 < points(made, "translates", "st")
    assert all(one.surely for one in made.outgoing if one.specialist == "hears")
    stranger = {"role": "specialist", "home": "elsewhere"}
    both += [
        made_up(tmp_path / "asr", "x", {"a": 18}, **stranger),
        translations(tmp_path / "st", "x", {"a": 1}, **stranger),
    ]
    mean = outgoing(analyse_interference(both, specialists={"hears": "asr", "translates": "st"}), "x").others.mean
    assert mean is not None
    again = analyse_interference(both, specialists={"hears": "asr", "translates": "st"})
    assert mean.points == pytest.approx((-5.0 + points(again, "x", "st")) / 2)
    assert mean.low is not None
    assert mean.high is not None
    assert mean.low < mean.points < mean.high < 0
    one_less = analyse_interference(both[:5], specialists={"hears": "asr", "translates": "asr"})
    assert one_less.effect("translates", "st") is None
    assert "-" in tables_of(one_less)[0].rows[1]


def test_rates_above_100_count_as_100(tmp_path: Path) -> None:
    silent: list[Answer] = [
        {"name": f"{d}/{i}", "condition": "clean", "domain": d, "reference": "one two", "hypothesis": ""}
        for d in ("home", "away") for i in range(20)
    ]  # fmt: skip
    loud: list[Answer] = [{**row, "hypothesis": "never" + 3 * " said"} for row in silent]
    right: list[Answer] = [{**row, "hypothesis": "one two" if row["domain"] == "home" else "a b c d"} for row in silent]
    made = analyse_interference([
        counted(tmp_path, "base", silent, role="base"), counted(tmp_path, "s", right, role="specialist", home="home"),
        counted(tmp_path, "m", loud, role="merge"),
    ])  # fmt: skip
    assert (points(made, "s", "home"), points(made, "s", "away")) == (100.0, 0.0)
    assert made.others[0].recovery == {"home": 0.0}
    assert "home, away: rates above 100 % count as 100" in made.notes


def test_the_intervals_are_those_of_the_paired_bootstrap(tmp_path: Path) -> None:
    base, radio, *_ = family(tmp_path)
    rows = [[row for row in one.scored if row.domain == "radio"] for one in (base, radio)]
    pair = Answered(ERROR_RATE.statistics(rows[0]), ERROR_RATE.statistics(rows[1]), ASR.clusters(rows[0])[0])
    wanted = paired_bootstrap([pair])
    found = analyse_interference(family(tmp_path)).effect("radio", "radio")
    assert found is not None
    assert (found.low, found.high) == (pytest.approx(wanted.low), pytest.approx(wanted.high))
    turned = Gained(ERROR_RATE)
    assert turned.values(np.array([[1.0, 4.0], [9.0, 3.0]])).tolist() == [-25.0, -100.0]


def test_a_metric_for_each_domain_is_one_for_all_where_they_are_alike(tmp_path: Path) -> None:
    base, radio, *_ = family(tmp_path)
    pairs = []
    for domain in ("phone", "extra"):
        first, second = ([row for row in one.scored if row.domain == domain] for one in (base, radio))
        pairs.append(Answered(ERROR_RATE.statistics(first), ERROR_RATE.statistics(second), ASR.clusters(first)[0]))
    assert paired_bootstrap(pairs) == paired_bootstrap(pairs, [ERROR_RATE, ERROR_RATE])


def test_the_order_of_rows_and_results_changes_nothing(tmp_path: Path) -> None:
    every = family(tmp_path)
    turned = []
    for one in reversed(every):
        rows = list(one.rows)
        random.Random(0).shuffle(rows)
        system = one.summary["system"]
        turned.append(counted(
            tmp_path / "turned", one.label, rows, role=system["role"], home=str(system["home"].get("domain", "")),
        ))  # fmt: skip
    first, second = analyse_interference(every), analyse_interference(turned)
    for label in ("radio", "phone"):
        for row in first.rows:
            assert points(first, label, row.name) == pytest.approx(points(second, label, row.name))
    assert {one.system: one.mean for one in first.others} == pytest.approx(
        {one.system: one.mean for one in second.others}
    )


def test_who_is_at_home_where_can_be_said(tmp_path: Path) -> None:
    plain = [made_up(tmp_path, "b", {"x": 12, "y": 12}), made_up(tmp_path, "s", {"x": 2, "y": 15})]
    with pytest.raises(MisfitError, match="no result of asr is the base's"):
        analyse_interference(plain)
    with pytest.raises(MisfitError, match="no result is a specialist's"):
        analyse_interference(plain, base="b")
    made = analyse_interference(plain, base="b", specialists={"s": "x"})
    assert outgoing(made, "s").homes == ["x"]
    lost = made_up(tmp_path, "lost", {"x": 2, "y": 15}, role="specialist", home="elsewhere")
    strayed = analyse_interference([*plain, lost], base="b", specialists={"s": "x"})
    assert outgoing(strayed, "lost").own is None
    assert any("lost is at home in no row" in note for note in strayed.notes)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"base": "bsae"}, 'no result is called "bsae".*base'),
        ({"specialists": {"radoi": "radio"}}, 'no result is called "radoi".*radio'),
        ({"specialists": {"radio": "raido"}}, 'no row is called "raido".*radio'),
        ({"condition": "noise:0db"}, "was not evaluated under noise:0db"),
    ],
)
def test_names_that_are_not_there_are_told(tmp_path: Path, said: dict[str, object], words: str) -> None:
    with pytest.raises((UsageError, MisfitError), match=words):
        analyse_interference(family(tmp_path), **said)  # type: ignore[arg-type]


def test_results_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    base = made_up(tmp_path, "base", {"a": 4}, role="base")
    fewer = made_up(tmp_path, "s", {"a": 4}, each=10, role="specialist", home="a")
    with pytest.raises(MisfitError, match="different recordings"):
        analyse_interference([base, fewer])
    assert analyse_interference([base, fewer], common=True).rows[0].utterances == 10
    other = made_up(tmp_path, "o", {"a": 1}, role="specialist", home="a", normaliser="basic")
    with pytest.raises(MisfitError, match="different normalisers"):
        analyse_interference([base, other])
    assert analyse_interference([base, other], normaliser="basic").rows[0].own == "o"
    with pytest.raises(UsageError, match="no evaluation"):
        analyse_interference([])


def test_nothing_comes_to_nothing() -> None:
    found = summed({"a": None})
    assert (found.effects, found.mean, found.worst, found.disruption) == (0, None, "", None)
    assert Effect(1.0, None, None).surely == 0


def test_one_utterance_has_no_interval_and_is_sure_of_nothing(tmp_path: Path) -> None:
    made = analyse_interference([
        made_up(tmp_path, "base", {"a": 1}, each=1, role="base"),
        made_up(tmp_path, "a", {"a": 0}, each=1, role="specialist", home="a"),
    ])  # fmt: skip
    assert not made.rows[0].sure
    assert any("no interval" in note for note in made.notes)


def test_the_page_is_whole(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    page = chorus.write_analysis(analyse_interference(family(tmp_path / "given")), tmp_path / "out").read_text()
    assert page.count("data:image/svg+xml") == 3
    assert "Overfit to their task, beyond chance: radio, phone." in page
    assert "merged recovers 0.62 of the specialists&#39; gains in the mean, 0.50 at the worst (phone)." in page


def test_what_is_nought_has_no_sign(tmp_path: Path) -> None:
    found = analyse_interference(family(tmp_path))
    others = [
        replace(one, mean=-0.004, worst=-0.0, recovery=dict.fromkeys(one.recovery, -0.001)) for one in found.others
    ]
    outgoing = [
        replace(one, others=replace(one.others, worst_points=-0.01, share_worst=-0.002)) for one in found.outgoing
    ]
    report = interference_report(replace(found, others=others, outgoing=outgoing))
    told = [*report.lead, *(cell for table in report.tables for row in table.rows for cell in row)]
    assert any("recovers 0.00 of" in text and "0.00 at the worst" in text for text in told)
    assert not [text for text in told if re.search(r"-0\.0+(?![0-9])", text)]


def test_who_was_trained_on_a_task_is_at_home_in_all_its_rows(tmp_path: Path) -> None:
    """As `chorus train --each task` writes it: manifests have domains of their own, or none."""
    evaluations = []
    for task in ("asr", "st"):
        for label, wrong in (("base", 16), ("mine", 4 if task == "st" else 18)):
            domains = {"radio": wrong, "phone": wrong}
            one = made_up(
                tmp_path / task, label, domains, role="base" if label == "base" else "specialist", task=task, words=6
            )
            if label == "mine":
                one.summary["system"]["home"] = {"task": "st"}
            evaluations.append(one)
    found = analyse_interference(evaluations)
    assert outgoing(found, "mine").homes == ["st: radio", "st: phone"]
    assert [row.own for row in found.rows] == ["", "", "mine", "mine"]
