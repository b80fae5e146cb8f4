"""What the mathematics says of the subspace methods: on random, overlapping, rank-deficient, identical, zero deltas."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.linalg.low_rank import LowRank
from chorus.merge.method import METHODS
from chorus.merge.methods._subspace import boosted
from chorus.testing import merge_deltas, merge_tensors

SUBSPACE = [name for name in METHODS.names() if METHODS.get(name).subspace]
KINDS = ("random", "overlapping", "low rank", "identical", "with zeros")
SIZES = st.sampled_from([(24, 18), (18, 24), (20, 20), (60, 50)])
SEEDS = st.integers(0, 500)


def deltas_of(kind: str, shape: tuple[int, int], count: int, seed: int) -> list[torch.Tensor]:
    """Deltas of the size of real fine-tunes; "overlapping" ones have cosines of about 0.9."""
    numbers = torch.Generator().manual_seed(seed)
    made = [torch.randn(shape, generator=numbers) for _ in range(count)]
    shared = torch.randn(shape, generator=numbers)
    if kind == "overlapping":
        made = [3 * shared + d for d in made]
    if kind == "low rank":
        made = [torch.randn(shape[0], 3, generator=numbers) @ torch.randn(3, shape[1], generator=numbers) for _ in made]
    if kind == "identical":
        made = [shared.clone() for _ in made]
    if kind == "with zeros":
        made[0] = torch.zeros(shape)
    return [d * 3e-4 for d in made]


def merged_delta(method: str, deltas: list[torch.Tensor], **parameters) -> torch.Tensor:
    """The merged delta in float64, which has no rounding that the polar factor could enlarge."""
    zero = torch.zeros_like(deltas[0], dtype=torch.float64)
    each = {"weight": [1.0] * len(deltas)} if method == "task_arithmetic" else {}
    return merge_tensors(method, [d.double() for d in deltas], base=zero, parameters={**each, **parameters})


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-6) -> None:
    scale = max(float(a.norm()), float(b.norm()), 1e-30)
    assert float((a.double() - b.double()).norm()) <= tolerance * scale


def truncated(d: torch.Tensor, k: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(d.double(), full_matrices=False)
    return (u[:, :k] * s[:k]) @ vh[:k]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", SUBSPACE)
def test_every_kind_of_delta_gives_finite_values_of_sensible_size(method, kind):
    for settings_ in ({}, {"rank": 15}):  # with 15 of 20 directions each, three tasks have more than there are
        if not settings_.keys() <= METHODS.get(method).parameters.keys():
            continue
        deltas = deltas_of(kind, (20, 26), 3, 1)
        found = merged_delta(method, deltas, **settings_)
        assert bool(torch.isfinite(found).all())
        assert 0 < float(found.norm()) < 10 * sum(float(d.norm()) for d in deltas)


@pytest.mark.parametrize("method", SUBSPACE)
def test_nothing_comes_of_nothing(method):
    zero = [torch.zeros(30, 20)] * 3
    assert float(merged_delta(method, zero).abs().max()) == 0


@settings(deadline=None, max_examples=25)
@given(SIZES, st.sampled_from(KINDS), st.integers(1, 4), SEEDS)
def test_boosting_from_one_on_is_tsv_m(shape, kind, count, seed):
    deltas = deltas_of(kind, shape, count, seed)
    close(merged_delta("boosted_tsv_m", deltas, beta=1.0), merged_delta("tsv_m", deltas))


@settings(deadline=None, max_examples=25)
@given(SIZES, st.integers(1, 5), st.integers(1, 18), SEEDS)
def test_identical_models_give_their_best_approximation(shape, count, rank, seed):
    deltas = deltas_of("identical", shape, count, seed)
    close(merged_delta("tsv_m", deltas, rank=rank), truncated(deltas[0], rank))


@settings(deadline=None, max_examples=20)
@given(SEEDS)
def test_tasks_in_orthogonal_subspaces_add_up(seed):
    numbers = torch.Generator().manual_seed(seed)
    u = torch.linalg.qr(torch.randn(20, 12, generator=numbers, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(24, 12, generator=numbers, dtype=torch.float64))[0]
    deltas = [(u[:, i : i + 4] * torch.tensor([3.0, 2.0, 1.0, 0.5])) @ v[:, i : i + 4].T for i in (0, 4, 8)]
    close(merged_delta("tsv_m", deltas, rank=4), sum(deltas))
    close(merged_delta("tsv_m", deltas, rank=4, weight=[1.0, 0.5, 2.0]), deltas[0] + 0.5 * deltas[1] + 2 * deltas[2])


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 4), SEEDS)
def test_at_full_rank_of_square_matrices_it_is_the_mean(count, seed):
    deltas = deltas_of("random", (16, 16), count, seed)
    close(merged_delta("tsv_m", deltas, rank_fraction=1.0), sum(deltas).double() / count, 1e-4)


@settings(deadline=None, max_examples=20)
@given(SIZES, SEEDS, st.sampled_from(["tsv_m", "boosted_tsv_m", "iso_c", "iso_cts", "subspace_boosting"]))
def test_rotations_and_factors_pass_through(shape, seed, method):
    deltas = deltas_of("random", shape, 2, seed)
    numbers = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(shape[0], shape[0], generator=numbers, dtype=torch.float64))[0]
    right = torch.linalg.qr(torch.randn(shape[1], shape[1], generator=numbers, dtype=torch.float64))[0]
    rotated = [left @ d.double() @ right for d in deltas]
    # boosting steps where the cumulative share crosses beta, which the last bit may decide
    given_ = {"beta": 0.31234} if "beta" in METHODS.get(method).parameters else {}
    plain = merged_delta(method, deltas, **given_)
    close(merged_delta(method, rotated, **given_), left @ plain @ right, 1e-5)
    close(merged_delta(method, [7 * d for d in deltas], **given_), 7 * plain, 1e-5)
    close(merged_delta(method, deltas, **given_, **{"lambda": 0.3}), 0.3 * plain)


@given(st.floats(0.01, 1), st.sampled_from(["sum", "squared"]), st.sampled_from(["full", "kept"]), SEEDS)
def test_boosting_raises_to_the_value_at_beta_and_nothing_above_it(beta, energy, boost_on, seed):
    s = torch.rand(30, generator=torch.Generator().manual_seed(seed)).sort(descending=True).values + 0.01
    spectrum = torch.cat([s, torch.zeros(4)])  # a null space stays one
    kept = s[:20]
    raised = boosted(kept, spectrum, beta=beta, energy=energy, boost_on=boost_on)
    source = (s if boost_on == "full" else kept).double()
    share = (source if energy == "sum" else source**2).cumsum(0)
    first = int((share / share[-1] >= beta - 1e-12).nonzero()[0])
    floor = float(source[first])
    assert torch.allclose(raised, kept.clamp(min=floor), rtol=1e-5)
    assert bool((raised >= floor * (1 - 1e-6)).all())
    restored = boosted(kept, spectrum, beta=beta, energy=energy, boost_on=boost_on, renorm="frobenius")
    assert float(restored.norm()) == pytest.approx(float(kept.norm()), rel=1e-5)


@settings(deadline=None, max_examples=20)
@given(SIZES, st.sampled_from(["random", "overlapping", "low rank"]), st.integers(1, 4), SEEDS)
def test_iso_c_is_isotropic_and_keeps_the_nuclear_norm(shape, kind, count, seed):
    deltas = deltas_of(kind, shape, count, seed)
    total = sum(d.double() for d in deltas)
    found = merged_delta("iso_c", deltas)
    s, exact = torch.linalg.svdvals(found), torch.linalg.svdvals(total)
    rank = int((exact > 1e-5 * exact[0]).sum())
    assert torch.allclose(s[:rank], exact[:rank].mean(), rtol=1e-4)
    assert float(s[rank:].sum()) < 1e-6 * float(s[0]) * len(s)
    close(merged_delta("iso_c", [found]), found, 1e-5)
    close(merged_delta("iso_cts", deltas, common_fraction=1.0), found, 1e-5)
    close(merged_delta("iso_cts", deltas[:1]), merged_delta("iso_c", deltas[:1]), 1e-5)


def test_iso_cts_is_isotropic():
    s = torch.linalg.svdvals(merged_delta("iso_cts", deltas_of("overlapping", (30, 24), 3, 5)))
    assert torch.allclose(s, s[0], rtol=1e-4)


@settings(deadline=None, max_examples=15)
@given(SIZES, st.sampled_from(KINDS), SEEDS)
def test_what_is_linear_is_linear_in_any_space(shape, kind, seed):
    deltas = deltas_of(kind, shape, 3, seed)
    weight = [0.2, 0.5, -0.4]
    wanted = sum(w * d.double() for w, d in zip(weight, deltas, strict=True))
    for method in ("knots", "core_space"):
        close(merged_delta(method, deltas, inner="task_arithmetic", weight=weight), wanted, 2e-5)
    close(merged_delta("subspace_boosting", deltas, beta=1.0, weight=weight), wanted, 2e-5)


@settings(deadline=None, max_examples=15)
@given(SIZES, SEEDS)
def test_the_core_space_changes_nothing_for_methods_that_do_not_know_the_basis(shape, seed):
    deltas = deltas_of("low rank", shape, 3, seed)
    for inner, given_ in (("tsv_m", {"rank": 3}), ("iso_c", {})):
        close(merged_delta("core_space", deltas, inner=inner, **given_), merged_delta(inner, deltas, **given_), 1e-5)


def test_knots_without_trimming_gives_the_model_that_all_are():
    deltas = deltas_of("identical", (20, 24), 3, 2)
    close(merged_delta("knots", deltas), deltas[0], 1e-5)


@pytest.mark.parametrize("method", SUBSPACE)
@pytest.mark.parametrize("kind", ["random", "shared", "some zero"])
def test_factors_give_what_dense_deltas_give(method, kind):
    """A method that takes low-rank deltas makes of factors what it makes of their product."""
    numbers = torch.Generator().manual_seed(3)
    shape, rank = (40, 30), 4
    left = [torch.randn(shape[0], rank, generator=numbers, dtype=torch.float64) for _ in range(3)]
    right = [torch.randn(rank, shape[1], generator=numbers, dtype=torch.float64) for _ in range(3)]
    if kind == "shared":
        left[1] = left[0] + 0.2 * left[1]
    if kind == "some zero":
        left[2], right[0][1] = torch.zeros_like(left[2]), 0.0
    factors = [LowRank(a, b, shape) for a, b in zip(left, right, strict=True)]
    inner = "inner" in METHODS.get(method).parameters and method != "core_space"
    given_ = {"inner": "task_arithmetic"} if inner else {}
    given_ |= {"weight": 1.0} if inner or method == "core_space" else {}
    thin, dense = (merge_deltas(method, each, given_) for each in (factors, [f.dense() for f in factors]))
    assert isinstance(thin, LowRank)
    assert thin.rank <= 12
    close(thin.dense(), dense, 1e-5)


@settings(deadline=None, max_examples=25)
@given(SIZES, st.sampled_from(["random", "overlapping", "low rank"]), st.floats(0, 1), SEEDS)
def test_opcm_adds_what_is_orthogonal_to_the_sum_so_far(shape, kind, alpha, seed):
    deltas = deltas_of(kind, shape, 4, seed)
    sums = [merged_delta("opcm", deltas[: i + 1], alpha=alpha) for i in range(4)]
    close(sums[0], deltas[0])
    for before, after, d in zip(sums[:-1], sums[1:], deltas[1:], strict=True):
        added = after - before
        assert abs(float((before * added).sum())) < 1e-7 * float(before.norm()) * float(d.double().norm())
        # a projection takes away, and gives nothing
        assert float(added.norm()) <= float(d.double().norm()) * (1 + 1e-7)


@settings(deadline=None, max_examples=10)
@given(SEEDS)
def test_opcm_protects_a_block_and_the_diagonal(seed):
    d = deltas_of("random", (6, 6), 1, seed)[0].double()
    first = torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.float64))
    kept = 1 - torch.eye(6, dtype=torch.float64)
    # 8 of 15.75 is above a half, 12 of 15.75 below 0.8
    close(merged_delta("opcm", [first, d], alpha=0.5), first + kept * d)
    kept[:2, :2] = 0
    close(merged_delta("opcm", [first, d], alpha=0.8), first + kept * d)
    close(merged_delta("opcm", [first, d], alpha=1.0), first)
