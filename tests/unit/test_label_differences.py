"""Two systems that answer with labels: which test tells them apart, and that it is the one of the textbooks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from chorus.cli.main import run
from chorus.errors import UsageError
from chorus.evaluate.bootstrap import Answered, swapped_p
from chorus.evaluate.compare import compare
from chorus.evaluate.comparison import Difference
from chorus.evaluate.differences import difference
from chorus.evaluate.mapsswe import holm
from chorus.evaluate.results import Evaluation
from chorus.evaluate.scores import answered, interval_of, macro, metric_of, value_of
from chorus.evaluate.tables import differences_table, rates_table
from chorus.tasks.registry import TASKS
from chorus.tasks.scored import Answer, Scored
from results import counted

LABELS = ("up", "down", "left")
KWS, SPEAKER_VER, LANGID = TASKS.get("kws"), TASKS.get("speaker_ver"), TASKS.get("langid")


def rows_of(answers: Sequence[str], references: Sequence[str], *, domain: str = "", seed: str = "") -> list[Answer]:
    return [
        {"name": f"{domain}{i}{seed}", "condition": "clean", "reference": b, "hypothesis": a, "domain": domain,
         "choices": list(LABELS), "utterance": f"{domain}{i}"}
        for i, (a, b) in enumerate(zip(answers, references, strict=True))
    ]  # fmt: skip


def right(flags: Sequence[bool], *, domain: str = "", seed: str = "") -> list[Scored]:
    rows = rows_of(["up" if flag else "down" for flag in flags], ["up"] * len(flags), domain=domain, seed=seed)
    return KWS.score(rows, "raw")


def between(*domains: tuple[Sequence[Scored], Sequence[Scored]], name: str = "accuracy") -> Difference:
    return difference(domains, KWS, metric_of(KWS, name), reference="b", group="all")


PAIRS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@given(PAIRS)
def test_of_one_domain_it_is_scipys_binomial_test_on_the_rows_that_one_alone_has_right(
    pairs: list[tuple[bool, bool]],
) -> None:
    one, two = (right([pair[i] for pair in pairs]) for i in (0, 1))
    found = between((one, two))
    alone = [sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)]
    assert found.test == "exact McNemar"
    assert found.matched is not None
    assert (found.matched.segments, found.matched.differing) == (len(pairs), sum(alone))
    expected = binomtest(alone[0], sum(alone)).pvalue if sum(alone) else 1.0
    assert found.p == found.p_alone == pytest.approx(expected, rel=1e-12)


def test_the_textbooks_table() -> None:
    """Of 314 rows 59 are one's alone and 16 the other's: scipy's p, and z's sign."""
    pairs = [(True, False)] * 59 + [(False, True)] * 16 + [(True, True)] * 150 + [(False, False)] * 89
    found = between((right([a for a, _ in pairs]), right([b for _, b in pairs])))
    assert found.points == pytest.approx(100 * (59 - 16) / 314)
    assert found.p == pytest.approx(binomtest(59, 75).pvalue, rel=1e-12)
    assert found.matched is not None
    assert found.matched.z < 0, "the first makes fewer errors"


@given(PAIRS, PAIRS)
def test_of_several_domains_it_is_the_share_of_all_choices_of_sides(
    a: list[tuple[bool, bool]], b: list[tuple[bool, bool]]
) -> None:
    """The average over domains, brute force: every way in which rows that differ could have changed sides."""
    domains = (a[:7], b[:5])
    found = between(
        *[
            (right([x for x, _ in one], domain=name), right([y for _, y in one], domain=name))
            for name, one in zip("ab", domains, strict=True)
        ]
    )
    moves = [100 * (x - y) / len(one) / 2 for one in domains for x, y in one if x != y]
    assert found.points == pytest.approx(sum(moves))
    signs = np.array(list(itertools.product((1, -1), repeat=len(moves)))).reshape(2 ** len(moves), len(moves))
    # ties of unlike weights may be counted as such by a hair, and never the other way
    share = np.mean(np.abs(signs @ np.array(moves)) >= abs(sum(moves)) - 1e-9)
    loose = np.mean(np.abs(signs @ np.array(moves)) >= abs(sum(moves)) - 0.01)
    assert share - 1e-9 <= found.p <= loose + 1e-9


def test_several_seeds_of_an_utterance_are_one_pair() -> None:
    """Three seeds that all err in the same row are no three pieces of evidence."""
    once = between((right([True] * 6), right([False] * 6)))
    thrice = between((
        [row for seed in "xyz" for row in right([True] * 6, seed=seed)],
        [row for seed in "xyz" for row in right([False] * 6, seed=seed)],
    ))  # fmt: skip
    assert once.p == thrice.p == 2 / 2**6


def test_what_is_known_of_one_system_alone_is_no_pair() -> None:
    """A runtime that tells no likelihoods has no constrained answers: swapping sides is left, and it says so."""
    rows = rows_of(["up"] * 8, ["up"] * 8)
    with_scores: list[Answer] = [{**row, "scores": {"up": [-0.1, 1], "down": [-2.0, 1]}} for row in rows]
    told, silent = KWS.score(with_scores, "raw"), KWS.score(rows, "raw")
    assert between((told, told), name="constrained_accuracy").test == "exact McNemar"
    half = [*told[:4], *silent[4:]]
    assert between((told, half), name="constrained_accuracy").test == "approximate randomisation"
    none = between((silent, silent), name="constrained_accuracy")
    assert np.isnan(none.p)


@pytest.mark.parametrize("name", ["macro_f1", "weighted_f1", "token_f1", "eer", "min_dcf"])
def test_what_is_no_share_of_rows_is_tested_by_swapping_sides(name: str) -> None:
    """Ten rows have 1024 choices of sides; the drawn p is the share of all of them, but for its draws."""
    rng = np.random.default_rng(len(name))
    if name in ("eer", "min_dcf"):
        task = SPEAKER_VER
        truth = ["yes", "no"] * 5
        systems = [
            task.score([
                {**row, "choices": ["yes", "no"], "scores": {"yes": [float(s + (b == "yes")), 1], "no": [0.0, 1]}}
                for row, b, s in zip(rows_of(truth, truth), truth, rng.normal(size=10) * spread, strict=True)
            ], "raw")
            for spread in (0.2, 3.0)
        ]  # fmt: skip
    else:
        task = TASKS.get("custom") if name == "token_f1" else KWS
        truth = [LABELS[i % 3] for i in range(10)]
        systems = []
        for share in (0.9, 0.3):
            said = [b if rng.random() < share else LABELS[rng.integers(3)] for b in truth]
            rows = rows_of(said, truth)
            if name == "token_f1":
                rows = [
                    {**{k: v for k, v in row.items() if k != "choices"}, "hypothesis": f"the {row['hypothesis']}"}  # type: ignore[typeddict-item]
                    for row in rows
                ]
            systems.append(task.score(rows, "raw"))
    metric = metric_of(task, name)
    found = difference([(systems[0], systems[1])], task, metric, reference="b", group="all")
    assert (found.test, found.matched) == ("approximate randomisation", None)
    seen = value_of(systems[0], metric) - value_of(systems[1], metric)
    assert found.points == pytest.approx(seen)
    swapped = []
    for sides in itertools.product((False, True), repeat=10):
        pairs = [(b, a) if s else (a, b) for s, a, b in zip(sides, *systems, strict=True)]
        swapped.append(value_of([a for a, _ in pairs], metric) - value_of([b for _, b in pairs], metric))
    assert found.p == pytest.approx(np.mean(np.abs(swapped) >= abs(seen) - 1e-9), abs=0.03)


def test_swapping_sides_of_rows_that_are_right_or_wrong_is_mcnemars_test() -> None:
    rng = np.random.default_rng(3)
    one, two = right((rng.random(60) < 0.8).tolist()), right((rng.random(60) < 0.6).tolist())
    pair = answered(one, two, KWS, metric_of(KWS, "accuracy"))
    drawn = swapped_p([Answered(pair.first, pair.second, np.arange(60))], metric_of(KWS, "accuracy"))
    assert drawn == pytest.approx(between((one, two)).p, abs=0.02)


# ---- compare ----


def system(place: Path, label: str, wrong: int, **told: str) -> Evaluation:
    """Thirty rows in two domains each, the first so many of either answered wrong."""
    rows = [
        row for domain in ("car", "home")
        for row in rows_of(
            ["" if i < wrong else LABELS[i % 3] for i in range(30)], [LABELS[i % 3] for i in range(30)], domain=domain
        )
    ]  # fmt: skip
    for row in rows:
        row.pop("utterance")
    return counted(place, label, rows, **told)


def results_of(place: Path, task: str) -> list[Evaluation]:
    given = {"base": (15, "base"), "near": (13, "merge"), "far": (1, "merge")}
    return [system(place, label, wrong, role=role, task=task) for label, (wrong, role) in given.items()]


def test_the_tables_name_the_test_beside_its_p(tmp_path: Path) -> None:
    made = compare(results_of(tmp_path, "langid"))
    assert (made.metric, made.tests) == ("accuracy", ["exact McNemar"])
    table = differences_table(made)
    assert table is not None
    cells = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    # near's four rows and far's 28, none of which is the other system's
    assert [cells["near"][name] for name in ("test", "rows", "differ", "p")] == ["exact McNemar", "60", "4", "0.125"]
    assert cells["far"]["p (Holm)"] == "< .001 ***"
    raw = {line.label: line.differences[0].p_alone for line in made.lines if line.differences}
    assert raw == {"near": pytest.approx(2 / 2**4), "far": pytest.approx(2 / 2**28)}
    assert [line.differences[0].p for line in made.lines if line.differences] == holm(list(raw.values()))
    assert any("exact McNemar with Holm's correction" in note for note in rates_table(made).notes)


def test_any_metric_of_the_task_can_be_compared_by(tmp_path: Path) -> None:
    results = results_of(tmp_path, "kws")
    assert (made := compare(results)).metric == "macro_f1"
    assert made.tests == ["approximate randomisation"]
    made = compare(results, metric="accuracy")
    assert (made.metric, made.title, made.tests) == ("accuracy", "accuracy", ["exact McNemar"])
    assert {line.label: line.rates["car"] for line in made.lines} == {
        "base": 50.0, "near": pytest.approx(100 * 17 / 30), "far": pytest.approx(100 * 29 / 30),
    }  # fmt: skip
    with pytest.raises(UsageError, match='task kws has no metric "acuracy"; did you mean "accuracy"') as told:
        compare(results, metric="acuracy")
    assert "macro_f1" in str(told.value.hint)


def test_compare_takes_a_metric_and_names_its_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [str(one.directory) for one in results_of(tmp_path, "kws")]
    assert run(["compare", *names, "--metric", "weighted_f1"]) == 0
    told = capsys.readouterr().out
    assert "weighted F1" in told
    assert "approximate randomisation" in told
    assert run(["compare", *names, "--metric", "wer"]) == 2
    assert 'task kws has no metric "wer"' in capsys.readouterr().err


def test_a_domain_of_one_row_is_named_and_its_average_has_no_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for label, wrong in (("base", 9), ("near", 2)):
        rows = [
            row for domain, n in (("car", 20), ("home", 1))
            for row in rows_of([LABELS[i % 3] if i >= wrong else "" for i in range(n)], (LABELS * 7)[:n], domain=domain)
        ]  # fmt: skip
        counted(tmp_path, label, rows, role="base" if label == "base" else "merge", task="kws")
    places = [str(tmp_path / label) for label in ("base", "near")]
    assert run(["compare", *places, "--metric", "accuracy"]) == 0
    told = capsys.readouterr().out
    assert "nan" not in told
    assert "home: of one utterance, so without an interval, as is what it is averaged into." in told


@pytest.mark.parametrize(("wrong", "wanted"), [(20, (0.0, 16.843)), (0, (83.157, 100.0))])
def test_where_all_is_wrong_or_right_the_interval_is_clopper_and_pearsons(
    wrong: int, wanted: tuple[float, float]
) -> None:
    """R's binom.test(0, 20): 0 to 0.1684335."""
    flags = [i >= wrong for i in range(20)]
    found = interval_of(right(flags), KWS, metric_of(KWS, "accuracy"))
    assert (found.low, found.high) == pytest.approx(wanted, abs=1e-3)
    mean = macro(
        {"a": right(flags[:12], domain="a"), "b": right(flags[12:], domain="b")}, KWS, metric_of(KWS, "accuracy")
    )
    assert (mean[1].low, mean[1].high) == pytest.approx(wanted, abs=1e-3)


def test_a_faultless_detection_is_bounded_by_the_trials_of_each_side() -> None:
    """Five targets and five others: each side's binomial bound is 52 %, which minDCF weighs by its prior and cuts."""
    truth = ["yes", "no"] * 5
    rows = [
        {**row, "choices": ["yes", "no"], "scores": {"yes": [float(i % 2 == 0), 1], "no": [0.5, 1]}}
        for i, row in enumerate(rows_of(truth, truth))
    ]
    scored = SPEAKER_VER.score(rows, "raw")  # type: ignore[arg-type] # rows are dicts of rows
    bound = 100 * (1 - 0.025 ** (1 / 5))
    for name, high in (("eer", bound), ("min_dcf", 100.0)):
        metric = metric_of(SPEAKER_VER, name)
        found = interval_of(scored, SPEAKER_VER, metric)
        assert (value_of(scored, metric), found.low, found.high) == (0, 0, pytest.approx(high))


def test_the_folder_of_several_evaluations_names_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`chorus evaluate --out DIR` holds a folder for each system."""
    places = [one.directory for one in results_of(tmp_path, "kws")]
    assert run(["compare", str(tmp_path)]) != 0
    told = capsys.readouterr().err
    assert f"name what is in it: {', '.join(sorted(map(str, places)))}" in told
