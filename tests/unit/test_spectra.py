"""Singular triplets, polar factors and low-rank algebra equal what numpy's SVD says in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.linalg.lapack import gram, one_blas_thread, symmetric_eigen
from chorus.linalg.low_rank import LowRank, inner, low_rank_sum, norm, recompress, svd
from chorus.linalg.polar import newton_schulz, nuclear_flattened, polar_factor
from chorus.linalg.ranks import RankRule
from chorus.linalg.spectra import (
    NULL,
    by_gram,
    choose_route,
    float32_suffices,
    left_basis,
    randomized,
    singular_triplets,
)


def matrix(m: int, n: int, decay: float = 0.0, rank: int | None = None, seed: int = 0) -> torch.Tensor:
    """Random, with singular values falling as j^-decay up to a rank."""
    numbers = torch.Generator().manual_seed(seed)
    r = min(m, n) if rank is None else rank
    u = torch.linalg.qr(torch.randn(m, r, generator=numbers, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(n, r, generator=numbers, dtype=torch.float64))[0]
    s = torch.arange(1, r + 1, dtype=torch.float64) ** -decay
    return ((u * s) @ v.T).float()


def truncated(d: torch.Tensor, k: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(d.double(), full_matrices=False)
    return (u[:, :k] * s[:k]) @ vh[:k]


def close(found: torch.Tensor, wanted: torch.Tensor, tolerance: float) -> None:
    error = float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-30))
    assert error < tolerance, f"relative error {error:.3g}"


@settings(deadline=None, max_examples=60)
@given(
    m=st.integers(1, 150),
    n=st.integers(1, 150),
    share=st.floats(0, 1),
    decay=st.sampled_from([0.0, 0.7, 1.5]),
    seed=st.integers(0, 99),
)
def test_triplets_are_the_best_approximation(m, n, share, decay, seed):
    d = matrix(m, n, decay, seed=seed) + 1e-3 * matrix(m, n, 0.5, seed=seed + 1)
    k = max(1, int(share * min(m, n)))
    found = singular_triplets(d, k)
    exact = torch.linalg.svdvals(d.double())
    assert found.rank == min(k, int((exact > NULL * exact[0]).sum()))
    best = float((d.double() - truncated(d, k)).norm())
    ours = float((d.double() - (found.left * found.values).double() @ found.right.double().T).norm())
    assert ours <= best + 2e-6 * float(exact.norm())  # the rounding of float32 is to all of the matrix
    close(found.spectrum, exact, 1e-4)
    identity = torch.eye(found.rank)
    assert float((found.right.T @ found.right - identity).abs().max()) < 1e-4
    assert float((found.left.T @ found.left - identity).abs().max()) < 1e-3


@pytest.mark.parametrize(("shape", "decay"), [((300, 200), 0.0), ((200, 300), 0.7), ((260, 260), 0.0)])
def test_every_route_agrees(shape, decay):
    d = matrix(*shape, decay)
    wide = d if shape[0] >= shape[1] else d.T
    wanted = truncated(wide, 20)
    for found in (by_gram(wide, 20), by_gram(wide.double(), 20), singular_triplets(wide, lambda values: 20)):
        assert found.rank == 20
        close((found.left * found.values) @ found.right.T, wanted, 1e-5 if decay else 2e-3)


def test_float32_is_used_only_where_the_spectrum_allows_it():
    flat, steep = torch.ones(100), torch.arange(1, 101) ** -1.5
    assert not float32_suffices(flat, 10)  # the tenth and the eleventh are the same: nothing resolves that
    assert float32_suffices(flat, 100)
    assert float32_suffices(torch.linspace(2, 1, 100), 10)
    assert not float32_suffices(steep, 50)
    assert not float32_suffices(torch.zeros(5), 1)


def test_the_randomized_route_is_taken_where_it_pays_and_checks_itself():
    assert choose_route(8192, 8192, 8, whole=False, device="cpu") == "randomized"
    assert choose_route(8192, 8192, 8, whole=True, device="cpu") == "gram"
    assert choose_route(40, 30, 8, whole=False, device="cpu") == "svd"
    low = matrix(400, 300, 0.5, rank=12)
    found = randomized(low, 12)
    assert found is not None
    close((found.left * found.values) @ found.right.T, low, 1e-5)
    assert randomized(matrix(400, 300, 0.01), 12) is None  # a flat spectrum does not converge, and it says so


@pytest.mark.parametrize(("n", "k"), [(5, 5), (65, 3), (120, 0), (120, 30), (120, 120)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eigenvalues_of_symmetric_matrices(n, k, dtype):
    x = np.random.default_rng(n).normal(size=(n + 10, n)).astype(dtype)
    values, vectors = symmetric_eigen(gram(x), k)
    exact = np.linalg.eigvalsh(x.astype(np.float64).T @ x)[::-1]
    assert np.allclose(values, exact, rtol=1e-4 if dtype == np.float32 else 1e-10)
    residual = x.T @ (x @ vectors) - vectors * values[:k]
    assert np.abs(residual).max(initial=0) < (1e-3 if dtype == np.float32 else 1e-10)


def test_matrices_that_fall_into_blocks_are_decomposed_whole():
    g = np.kron(np.eye(50), np.array([[2.0, 1.0], [1.0, 2.0]]))
    values, vectors = symmetric_eigen(g, 10)
    assert np.allclose(values[:50], 3)
    assert np.allclose(g @ vectors, 3 * vectors)


def test_a_zero_matrix_has_no_directions():
    for d in (
        torch.zeros(70, 80),
        torch.zeros(3, 4),
        torch.zeros(5, 0),
        LowRank(torch.zeros(9, 2), torch.zeros(2, 8), (9, 8)),
    ):
        assert singular_triplets(d, 3).rank == 0


@settings(deadline=None, max_examples=40)
@given(m=st.integers(2, 90), k=st.integers(1, 90), rank=st.integers(1, 90), seed=st.integers(0, 99))
def test_the_polar_factor_is_a_partial_isometry(m, k, rank, seed):
    rank = min(m, k, rank)
    x = matrix(m, k, 0.3, rank, seed)
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    wanted = u[:, :rank] @ vh[:rank]
    close(polar_factor(x), wanted, 1e-5)
    assert float((s[:rank]).min()) > 0


def test_newton_schulz_converges_to_it_with_polish():
    bases = torch.cat(
        [torch.linalg.qr(torch.randn(120, 20, generator=torch.Generator().manual_seed(i)))[0] for i in range(4)], 1
    )
    exact = polar_factor(bases)
    polished = newton_schulz(bases.double(), blocks=4, polish=6)
    close(polished, exact, 1e-5)
    for schedule in ("quintic", "muon"):
        plain = newton_schulz(bases, blocks=4, schedule=schedule, scale="frobenius", polish=0)
        assert 1e-4 < float((plain - exact).norm() / exact.norm()) < 0.4
    close(newton_schulz(bases.T, blocks=4), newton_schulz(bases, blocks=4).T, 1e-5)


@settings(deadline=None, max_examples=40)
@given(
    m=st.integers(1, 60),
    n=st.integers(1, 60),
    ranks=st.lists(st.integers(0, 12), min_size=1, max_size=4),
    copies=st.booleans(),
    seed=st.integers(0, 99),
)
def test_low_rank_algebra_equals_dense_algebra(m, n, ranks, copies, seed):
    numbers = torch.Generator().manual_seed(seed)
    terms = [LowRank(torch.randn(m, r, generator=numbers), torch.randn(r, n, generator=numbers), (m, n)) for r in ranks]
    if copies:
        terms.append(terms[0])  # dependent columns
    c = [0.5 - 0.3 * i for i in range(len(terms))]
    total = low_rank_sum(terms, c)
    dense = sum((w * t.left.double() @ t.right.double() for w, t in zip(c, terms, strict=True)), torch.zeros(m, n))
    assert torch.allclose(total.dense().double(), dense, atol=1e-4)
    assert abs(norm(total) - float(dense.norm())) < 1e-4 * (1 + float(dense.norm()))
    first = terms[0].left.double() @ terms[0].right.double()
    assert abs(inner(terms[0], total) - float((first * dense).sum())) < 1e-3 * (1 + norm(terms[0]) * norm(total))
    exact = torch.linalg.svdvals(dense)
    s = svd(total)[1]
    shared = min(len(s), len(exact))
    assert torch.allclose(s[:shared], exact[:shared], atol=1e-4)
    k = 3
    kept, rest = recompress(total, k)
    assert abs(rest - float(exact[k:].norm())) < 1e-3 * (1 + float(exact[:1].sum()))
    assert float((kept.dense().double() - dense).norm()) <= float(exact[k:].norm()) + 1e-3 * (1 + float(dense.norm()))


def test_many_columns_take_the_short_way_and_are_as_exact():
    numbers = torch.Generator().manual_seed(0)
    terms = [
        LowRank(torch.randn(300, 16, generator=numbers), torch.randn(16, 200, generator=numbers), (300, 200))
        for _ in range(8)
    ]
    total = low_rank_sum(terms, [1.0] * 8)
    kept, rest = recompress(total, 16)
    dense = total.dense().double()
    close(kept.dense(), truncated(dense, 16), 1e-5)
    assert rest == pytest.approx(float(torch.linalg.svdvals(dense)[16:].norm()), rel=1e-6)


def test_flattening_keeps_the_nuclear_norm_and_fills_no_null_space():
    d = matrix(40, 30, 0.7, rank=8)
    flat = nuclear_flattened(d)
    s = torch.linalg.svdvals(flat.double())
    assert torch.allclose(s[:8], s[0], rtol=1e-4)
    assert float(s[8]) < 1e-5 * float(s[0])
    assert float(s.sum()) == pytest.approx(float(torch.linalg.svdvals(d.double()).sum()), rel=1e-4)
    u, values, v = torch.linalg.svd(d.double(), full_matrices=False)
    factors = LowRank((u[:, :8] * values[:8]).float(), v[:8].float(), (40, 30))
    close(nuclear_flattened(factors).dense(), flat, 1e-5)
    close(nuclear_flattened(factors, average="all").dense(), flat * 8 / 30, 1e-5)
    close(nuclear_flattened(d, average="all"), flat * 8 / 30, 1e-5)


def test_the_left_basis_spans_all_outputs():
    deltas = [matrix(50, 30, 0.5, 4, seed=i) for i in range(3)]
    basis = left_basis(deltas)
    assert basis.shape == (50, 12)
    for d in deltas:
        close(basis @ (basis.T @ d), d, 1e-5)
    assert left_basis(deltas, transposed=True).shape == (30, 12)


def test_rank_rules():
    values = [4.0, 3.0, 2.0, 1.0, 0.0]
    assert RankRule().rank_of(values) == 4
    assert RankRule(max_rank=2).rank_of(values) == 2
    assert RankRule(energy=25 / 30).rank_of(values) == 2
    assert RankRule(energy=1.0).rank_of(values) == 4
    assert RankRule(energy=0.99, max_rank=3).rank_of(values) == 3
    ranks = RankRule(budget=100, max_rank=3).ranks({"a": values, "b": [10.0] * 5}, {"a": (10, 10), "b": (10, 10)})
    assert ranks == {"a": 2, "b": 3}  # five directions of twenty parameters
    for wrong in ({"max_rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"budget": 0}, {"energy": 0.5, "budget": 9}):
        with pytest.raises(ValueError, match=r"rank|energy|budget"):
            RankRule(**wrong)


def test_the_kernels_know_their_shapes_on_the_meta_device():
    d = torch.empty(64, 48, device="meta")
    found = singular_triplets(d, 8)
    assert found.left.shape == (64, 8)
    assert found.right.shape == (48, 8)
    assert polar_factor(d).shape == (64, 48)
    assert newton_schulz(d, blocks=2).shape == (64, 48)
    factors = LowRank(d[:, :4], torch.empty(4, 48, device="meta"), (64, 48))
    assert singular_triplets(factors).left.shape == (64, 4)
    assert nuclear_flattened(d).shape == (64, 48)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_the_kernels_agree_on_a_gpu():
    d = matrix(300, 200, 0.7)
    there, here = singular_triplets(d.cuda(), 20), singular_triplets(d, 20)
    close((there.left * there.values @ there.right.T).cpu(), here.left * here.values @ here.right.T, 1e-4)
    close(polar_factor(d[:, :40].cuda()).cpu(), polar_factor(d[:, :40]), 1e-4)
    close(newton_schulz(d[:, :40].cuda(), blocks=1).cpu(), newton_schulz(d[:, :40], blocks=1), 1e-4)


def test_one_thread_for_blas():
    from threadpoolctl import threadpool_info

    with one_blas_thread():
        assert {p["num_threads"] for p in threadpool_info() if p["user_api"] == "blas"} == {1}
