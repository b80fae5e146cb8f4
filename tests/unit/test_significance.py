"""Intervals, paired tests, Holm: against scipy, a published worked example, and simulated truth."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from chorus.evaluate.bootstrap import (
    interval,
    macro_interval,
    paired_bootstrap,
    resamples,
    tails,
)
from chorus.evaluate.mapsswe import holm, mapsswe, matched, segment_errors
from chorus.tasks.counts import Alignment, align
from chorus.tasks.scored import Answer, Scored, score_texts, speakers_or_utterances

RNG = np.random.default_rng


def drawn(seed: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = RNG(seed)
    lengths = rng.integers(3, 30, count).astype(float)
    return rng.binomial(lengths.astype(int), 0.2).astype(float), lengths


def test_percentiles_are_scipys() -> None:
    errors, lengths = drawn(0)
    ours = interval(np.column_stack([errors, lengths]), np.arange(40), draws=20_000, widen=False)
    theirs = stats.bootstrap(
        (errors, lengths), lambda e, n, axis=-1: 100 * e.sum(axis) / n.sum(axis), paired=True, n_resamples=20_000,
        method="percentile", rng=RNG(1),
    ).confidence_interval  # fmt: skip
    assert ours.low == pytest.approx(theirs.low, abs=0.2)
    assert ours.high == pytest.approx(theirs.high, abs=0.2)


def test_resampled_clusters_are_whole() -> None:
    for counts in resamples(7, 50, seed=3):
        assert counts.shape == (50, 7)
        assert (counts.sum(axis=1) == 7).all()


def spoken_by(speakers: Sequence[str]) -> list[Scored]:
    """An answer of each speaker."""
    rows: list[Answer] = [
        {"name": str(i), "condition": "clean", "speaker": speaker, "reference": "a", "hypothesis": "a"}
        for i, speaker in enumerate(speakers)
    ]
    return score_texts(rows, "raw")


def test_speakers_are_whole_clusters_where_there_are_enough() -> None:
    rows = spoken_by(["a", "a", "a", "b", "b"])
    assert speakers_or_utterances(rows) == (pytest.approx(np.arange(5)), "utterance")
    found, by = speakers_or_utterances(rows, least=2)
    assert by == "speaker"
    assert found.tolist() == [0, 0, 0, 1, 1]
    assert speakers_or_utterances(spoken_by(["a", "", "b"]), least=1)[1] == "utterance"


def test_below_twenty_speakers_utterances_are_resampled() -> None:
    assert speakers_or_utterances(spoken_by([str(i % 19) for i in range(100)]))[1] == "utterance"
    assert speakers_or_utterances(spoken_by([str(i % 20) for i in range(100)]))[1] == "speaker"


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """A thousand simulations of thirty speakers who differ, twenty utterances each."""
    rng, truth, covered, speakers = RNG(2026), 100 * 0.2, 0, 30
    clusters = np.repeat(np.arange(speakers), 20)
    for trial in range(1000):
        rates = rng.beta(4, 16, speakers)  # mean .2
        lengths = rng.integers(5, 15, len(clusters))
        errors = rng.binomial(lengths, rates[clusters])
        found = interval(np.column_stack([errors, lengths]).astype(float), clusters, draws=600, seed=trial)
        covered += found.low <= truth <= found.high
    assert 920 <= covered <= 970, covered


def test_without_an_error_the_upper_end_is_the_exact_bound() -> None:
    nothing = np.column_stack([np.zeros(50), np.ones(50)])
    found = interval(nothing, np.arange(50))
    assert (found.low, found.high) == (0.0, pytest.approx(100 * stats.binomtest(0, 50).proportion_ci().high))
    both = macro_interval([(nothing, np.arange(50))] * 2)
    assert both.high == pytest.approx(100 * stats.binomtest(0, 100).proportion_ci().high)


def test_one_cluster_has_no_interval() -> None:
    ones = np.ones((3, 2))
    assert math.isnan(interval(ones, np.zeros(3, int)).low)
    assert math.isnan(macro_interval([(ones, np.zeros(3, int))]).high)
    assert math.isnan(paired_bootstrap(ones[:1], ones[:1], np.zeros(1, int))[2])


def test_few_clusters_widen_the_tails() -> None:
    low, high = tails(0.95, 30)
    assert low < 0.025 < 0.975 < high
    assert tails(0.95, 100_000)[0] == pytest.approx(0.025, abs=1e-4)


def test_the_paired_bootstrap_agrees_with_a_paired_t_test() -> None:
    rng = RNG(5)
    lengths = np.full(400, 10.0)
    a = rng.binomial(10, 0.25, 400).astype(float)
    b = np.clip(a - rng.binomial(1, 0.06, 400), 0, None)
    first, second = np.column_stack([a, lengths]), np.column_stack([b, lengths])
    low, high, p = paired_bootstrap(first, second, np.arange(400), draws=4000)
    test = stats.ttest_rel(a, b)
    inside = test.confidence_interval()
    assert low == pytest.approx(10 * inside.low, abs=0.1)
    assert high == pytest.approx(10 * inside.high, abs=0.1)
    assert (p < 0.05) == (test.pvalue < 0.05)
    assert paired_bootstrap(first, first, np.arange(400))[2] == 1.0


# ---- MAPSSWE ----


def both(reference: str, a: str, b: str) -> tuple[Alignment, Alignment]:
    first, second = align([reference] * 2, [a, b], "words")
    return first, second


def test_segments_are_those_of_nists_example() -> None:
    """The example of NIST's page on the test: four regions with errors, here with its two systems."""
    reference = "it was the best of times it was the worst of times it was"
    a = "its the best of times it is the worst of times or it was"
    b = "it was the best times it won the test of times it was"
    assert segment_errors(*both(reference, a, b)) == [(2, 0), (0, 1), (1, 2), (1, 0)]


def test_the_statistic_is_that_of_a_paired_test_on_segments() -> None:
    rng = RNG(7)
    a, b = rng.integers(0, 4, 120), rng.integers(0, 3, 120)
    found = matched((a - b).tolist())
    test = stats.ttest_rel(a, b)
    assert found.z == pytest.approx(test.statistic, rel=1e-12)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(test.statistic)), rel=1e-12)
    assert found.segments == 120


def test_equal_systems_do_not_differ() -> None:
    assert mapsswe([both("a b c d", "a x c d", "a x c d")] * 5).p == 1.0
    assert mapsswe([both("a b", "a b", "a b")]).segments == 0
    one_sided = matched([1, 1, 1])
    assert one_sided.p == 0.0
    assert one_sided.z == math.inf


def test_insertions_at_both_ends_belong_to_segments() -> None:
    assert segment_errors(*both("a b c d", "x a b c d", "a b c d y y")) == [(1, 0), (0, 2)]
    assert segment_errors(*both("", "x y", "")) == [(2, 0)]


def test_holm_is_the_procedure_of_his_paper() -> None:
    """As R's p.adjust(c(0.01, 0.02, 0.03, 0.04), "holm") gives it, and order and NaN kept."""
    assert holm([0.01, 0.02, 0.03, 0.04]) == pytest.approx([0.04, 0.06, 0.06, 0.06])
    assert holm([0.04, 0.01]) == pytest.approx([0.04, 0.02])
    found = holm([0.5, float("nan"), 0.9])
    assert math.isnan(found[1])
    assert found[0] == 1.0
