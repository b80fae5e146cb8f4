"""Intervals, paired tests, Holm: against scipy, a published worked example, and simulated truth."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from chorus.evaluate.bootstrap import (
    Answered,
    interval,
    macro_interval,
    paired_bootstrap,
    resamples,
    swapped_p,
    tails,
)
from chorus.evaluate.flips import Weighted, sign_flip_p
from chorus.evaluate.mapsswe import differences_of, holm, matched, matched_parts, segment_errors
from chorus.tasks.counts import Alignment, Chunk, Kind, align
from chorus.tasks.scored import ERROR_RATE, Answer, Scored, score_texts, speakers_or_utterances

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
    assert math.isnan(paired_bootstrap([Answered(ones[:1], ones[:1], np.zeros(1, int))]).p)


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
    found = paired_bootstrap([Answered(first, second, np.arange(400))], draws=4000)
    test = stats.ttest_rel(a, b)
    inside = test.confidence_interval()
    assert found.low == pytest.approx(10 * inside.low, abs=0.1)
    assert found.high == pytest.approx(10 * inside.high, abs=0.1)
    assert (found.p < 0.05) == (test.pvalue < 0.05)
    assert paired_bootstrap([Answered(first, first, np.arange(400))]).p == 1.0


def test_the_paired_bootstrap_of_a_mean_over_domains_is_of_that_mean() -> None:
    """Thirty utterances of one domain against four hundred of another: half of the mean each."""
    rng, pairs = RNG(6), []
    for count, share in ((30, 0.5), (400, 0.1)):
        lengths = np.full(count, 10.0)
        a, b = rng.binomial(10, share, count).astype(float), rng.binomial(10, 0.1, count).astype(float)
        pairs.append(Answered(np.column_stack([a, lengths]), np.column_stack([b, lengths]), np.arange(count)))
    found = paired_bootstrap(pairs, draws=8000)
    changes = [10 * (one.first[:, 0] - one.second[:, 0]) for one in pairs]
    assert found.low < np.mean([c.mean() for c in changes]) < found.high
    # the standard error of a mean of two independent means; the tails are those of thirty
    error = math.sqrt(sum(c.var() / len(c) for c in changes)) / 2
    assert (found.high - found.low) / 2 == pytest.approx(stats.norm.ppf(tails(0.95, 30)[1]) * error, rel=0.07)


def test_draws_in_which_nothing_is_said_are_of_neither_side() -> None:
    """Two utterances, one without a reference: a quarter of the draws has no rate, and they are no evidence."""
    a, b = np.array([[1.0, 4.0], [0.0, 0.0]]), np.array([[3.0, 4.0], [0.0, 0.0]])
    found = paired_bootstrap([Answered(a, b, np.arange(2))], draws=1000)
    assert (found.low, found.high) == (-50.0, -50.0)
    assert 2 / 1001 < found.p < 2 / 600


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


def test_the_statistic_is_the_papers_and_p_is_exact() -> None:
    """W of Gillick & Cox is that of a paired t test on segments; p is scipy's of all sign flips, or near a draw."""
    rng = RNG(7)
    a, b = rng.integers(0, 4, 120), rng.integers(0, 3, 120)
    found, test = matched((a - b).tolist()), stats.ttest_rel(a, b)
    n = found.segments
    assert (n, found.differing) == (120, np.count_nonzero(a - b))
    assert found.z * math.sqrt((n - 1) / (n - found.z**2)) == pytest.approx(test.statistic, rel=1e-12)
    few = (a - b)[:14]
    exact = stats.permutation_test((few,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert matched(few.tolist()).p == pytest.approx(exact.pvalue, rel=1e-12)
    drawn = stats.permutation_test((a - b,), np.sum, permutation_type="samples", n_resamples=20_000, rng=RNG(8))
    assert found.p == pytest.approx(drawn.pvalue, abs=0.003)


def every_sign(parts: Sequence[Weighted]) -> float:
    """The p value by its definition."""
    weighted = np.array([part.weight * d for part in parts for d in part.differences])
    signs = np.array(list(itertools.product((1, -1), repeat=len(weighted))))
    return float(np.mean(np.abs(signs @ weighted) >= abs(weighted.sum()) - 1e-9))


@pytest.mark.parametrize("domains", [1, 2, 3])
def test_p_is_the_share_of_all_signs(domains: int) -> None:
    rng = RNG(domains)
    for _ in range(30):
        parts = [
            Weighted(100 / rng.integers(50, 300) / domains, rng.integers(-3, 4, rng.integers(1, 5)).tolist())
            for _ in range(domains)
        ]
        assert sign_flip_p(parts) == pytest.approx(every_sign(parts), abs=1e-12), parts


def test_many_segments_meet_the_normal_distribution() -> None:
    differences = RNG(9).integers(-2, 3, 40_000).tolist()
    found = matched(differences)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(found.z)), rel=0.01)
    halves = [Weighted(1.0, differences[:9000]), Weighted(1.0001, differences[9000:])]
    assert matched_parts(halves).p == pytest.approx(found.p, rel=0.01)


def test_p_is_never_0_and_no_smaller_than_the_segments_allow() -> None:
    assert [matched([1] * n).p for n in range(5)] == [1.0, 1.0, 0.5, 0.25, 0.125]
    assert 0 < matched([1] * 5000).p < 1e-300
    assert 0 < matched_parts([Weighted(1.0, [2] * 4000), Weighted(0.3, [1] * 500)]).p < 1e-12
    assert all(math.isfinite(matched([n] * n).z) for n in range(9))


def test_equal_systems_do_not_differ() -> None:
    assert matched(differences_of([both("a b c d", "a x c d", "a x c d")] * 5)).p == 1.0
    assert matched(differences_of([both("a b", "a b", "a b")])).segments == 0


def heard(wrong: Sequence[bool]) -> Alignment:
    """The alignment of a hypothesis that has these words wrong."""
    kinds: list[Kind] = ["substitute" if bad else "equal" for bad in wrong]
    return Alignment(tuple(Chunk(kind, i, i + 1, i, i + 1) for i, kind in enumerate(kinds)))


@pytest.mark.parametrize(("utterances", "words", "share"), [(50, 1, 0.02), (100, 1, 0.02), (60, 10, 0.2)])
def test_of_equal_systems_no_more_differ_than_p_says(utterances: int, words: int, share: float) -> None:
    """By the normal distribution every sixth pair of the first two would have p < .001."""
    rng, trials, found = RNG(2026), 600, []
    for _ in range(trials):
        a, b = (rng.random((2, utterances, words)) < share).tolist()
        found.append(matched(differences_of((heard(x), heard(y)) for x, y in zip(a, b, strict=True))).p)
    for level in (0.05, 0.01, 0.001):
        assert np.sum(np.array(found) < level) <= stats.binom.ppf(0.999, trials, level), level
    if share > 0.1:  # of many segments p is no coarser than the level
        assert np.sum(np.array(found) < 0.05) >= stats.binom.ppf(0.001, trials, 0.05)


def test_swapping_sides_keeps_its_level_too() -> None:
    rng, trials, found = RNG(11), 400, []
    for trial in range(trials):
        lengths = np.full(30, 10.0)
        a, b = (np.column_stack([rng.binomial(10, 0.05, 30).astype(float), lengths]) for _ in range(2))
        found.append(swapped_p([Answered(a, b, np.arange(30))], ERROR_RATE, draws=499, seed=trial))
    for level in (0.05, 0.01, 0.004):
        assert np.sum(np.array(found) < level) <= stats.binom.ppf(0.999, trials, level), level
    assert min(found) >= 1 / 500


def test_swapping_sides_is_the_exact_test_where_errors_are_counted() -> None:
    rng, lengths = RNG(12), np.full(60, 10.0)
    a, b = rng.integers(0, 4, 60), rng.integers(0, 3, 60)
    pair = Answered(np.column_stack([a, lengths]), np.column_stack([b, lengths]), np.arange(60))
    assert swapped_p([pair], ERROR_RATE) == pytest.approx(matched((a - b).tolist()).p, abs=0.01)


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
