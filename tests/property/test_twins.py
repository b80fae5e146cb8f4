"""The compiled paths and their twins in torch, which other devices and types take: the same values from both."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chorus.testing
from chorus.linalg.blocks import CHUNK, InMemory
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import left_basis, singular_triplets, symmetric_pairs
from chorus.merge.methods import _sce_selection as sce
from chorus.merge.methods._consensus import agreeing_sum, elected_sum, weighted_sum
from chorus.merge.planning.generation import settings

SEEDS = st.integers(0, 2**32 - 1)


def grid(seed, count, size):
    """Deltas on a coarse grid: their sums are exact in float32 too, and ties abound."""
    numbers = np.random.default_rng(seed)
    return [torch.from_numpy(numbers.integers(-4, 5, size).astype(np.float32) / 8) for _ in range(count)]


def wide(deltas):
    return [d.double() for d in deltas]


# ---- votes and sums ----


@given(SEEDS, st.lists(st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]), min_size=1, max_size=4), st.booleans())
def test_votes_are_the_same_on_both_ways(seed, weight, normalize):
    deltas = grid(seed, len(weight), 40)
    votes = [1.0] * len(weight)
    given_ = {"normalize": normalize, "lambda_": 0.75}
    for call in (
        lambda d: elected_sum(d, weight, **given_),
        lambda d: agreeing_sum(d, weight, votes=votes, **given_),
    ):
        compiled, torchs = call(deltas), call(wide(deltas))
        assert compiled.dtype == torch.float32
        assert torch.allclose(compiled.double(), torchs, atol=1e-7)


@given(SEEDS)
def test_a_strided_delta_takes_the_other_way_to_the_same_votes(seed):
    deltas = [d.reshape(5, 8) for d in grid(seed, 3, 40)]
    turned = [d.T for d in deltas]
    found = elected_sum(turned, [1.0, 0.5, 2.0], normalize=True, lambda_=1.0)
    assert torch.allclose(found.T, elected_sum(deltas, [1.0, 0.5, 2.0], normalize=True, lambda_=1.0), atol=1e-7)


@given(SEEDS, st.lists(st.sampled_from([0.5, 1.0, 2.0]), min_size=2, max_size=4))
def test_a_normalised_sum_is_the_mean_by_weight(seed, weight):
    deltas = grid(seed, len(weight), 20)
    found = weighted_sum(deltas, weight, normalize=True, lambda_=2.0)
    expected = 2 * sum(w * d.double() for w, d in zip(weight, deltas, strict=True)) / sum(weight)
    assert torch.allclose(found.double(), expected, atol=1e-6)


@pytest.mark.parametrize("method", ["dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "ties"])
def test_normalising_makes_weights_shares(method):
    """Twice the weights give the same merge where they are normalised, and twice the delta where they are not."""
    base, tensors = torch.zeros(6, 7), [t.reshape(6, 7) for t in grid(1, 3, 42)]

    def merged(factor, normalize):
        parameters = {"weight": [factor * w for w in (0.5, 1.0, 0.25)], "density": [0.6] * 3, "normalize": normalize}
        return chorus.testing.merge_tensors(method, tensors, base=base, parameters=parameters, seed=3)

    assert torch.allclose(merged(1, True), merged(2, True), atol=1e-6)
    assert torch.allclose(2 * merged(1, False), merged(2, False), atol=1e-6)
    assert not torch.allclose(merged(1, True), merged(1, False), atol=1e-6)


def test_weights_that_sum_to_zero_cannot_be_shares():
    tensors = [t.reshape(6, 7) for t in grid(1, 2, 42)]
    parameters = {"weight": [1.0, -1.0], "density": [0.5, 0.5], "normalize": True}
    with pytest.raises(ValueError, match="sum to zero"):
        chorus.testing.merge_tensors("dare_linear", tensors, base=torch.zeros(6, 7), parameters=parameters)


# ---- SCE's selection ----


@given(SEEDS, st.integers(2, 4), st.sampled_from([0.0, 0.1, 0.5, 0.99, 1.0]))
def test_variance_and_selection_are_the_same_on_both_ways(seed, count, share):
    deltas = grid(seed, count, 60)
    expected = torch.stack(wide(deltas)).var(dim=0, correction=0)
    assert torch.allclose(sce.variance(deltas).double(), expected, atol=1e-7)
    assert torch.allclose(sce.variance(wide(deltas)), expected, atol=1e-12)
    cut, energies = sce.selection(InMemory(deltas), select_topk=share)
    kept = sce.selected(deltas, cut, 0)
    other = sce.selected(wide(deltas), cut, 0)
    assert (cut is None) == (share == 1.0)
    if cut is not None:
        most = int(int((sce.variance(deltas) > 0).sum()) * share)
        assert int(torch.stack([k != 0 for k in kept]).any(dim=0).sum()) <= most
    squares = torch.stack([k.double().square().sum() for k in kept])
    assert sum(energies) == pytest.approx(1.0)
    if squares.sum() > 0:
        assert energies == pytest.approx((squares / squares.sum()).tolist())
    else:
        assert energies == [1 / count] * count
    if cut is not None and sce.variance(deltas).unique().numel() == 60:  # no ties: then the twins must agree
        assert all(torch.allclose(a.double(), b) for a, b in zip(kept, other, strict=True))


def test_the_selection_does_not_depend_on_blocks():
    deltas = [torch.randn(2 * CHUNK + 9, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    found = [sce.selection(InMemory(deltas, block=n * CHUNK), select_topk=0.3) for n in (1, 2, 3)]
    assert found[0] == found[1] == found[2]
    cut, _ = found[0]
    whole = sce.selected(deltas, cut, 0)
    tail = sce.selected([d[CHUNK:] for d in deltas], cut, CHUNK)
    assert all(torch.equal(a[CHUNK:], b) for a, b in zip(whole, tail, strict=True))


# ---- spectra ----


@given(SEEDS, st.integers(1, 12), st.integers(1, 12), st.sampled_from([torch.float32, torch.float64]))
def test_triplets_of_small_matrices_are_numpys(seed, m, n, dtype):
    d = torch.from_numpy(np.random.default_rng(seed).normal(size=(m, n))).to(dtype)
    found = singular_triplets(d)
    expected = np.linalg.svd(d.double().numpy(), compute_uv=False)
    assert found.values.dtype == dtype
    np.testing.assert_allclose(found.values.double(), expected, rtol=1e-4, atol=1e-6)
    rebuilt = (found.left * found.values) @ found.right.T
    assert torch.allclose(rebuilt, d, atol=1e-5)


@pytest.mark.parametrize("shape", [(10, 6), (6, 10), (120, 90), (200, 60)])
@pytest.mark.parametrize("low", [False, True])
def test_a_rank_may_be_chosen_by_the_values(shape, low):
    numbers = torch.Generator().manual_seed(0)
    left, right = torch.randn(shape[0], 5, generator=numbers), torch.randn(5, shape[1], generator=numbers)
    d = LowRank(left, right, shape) if low else left @ right
    seen = []

    def choose(values):
        seen.append(np.asarray(values).copy())
        return 2

    found = singular_triplets(d, choose)
    exact = np.linalg.svd((left.double() @ right.double()).numpy(), compute_uv=False)
    assert found.rank == 2
    np.testing.assert_allclose(found.values, exact[:2], rtol=1e-4)
    np.testing.assert_allclose(seen[0][:5], exact[:5], rtol=1e-3)
    assert found.first(1).rank == 1


@given(SEEDS, st.integers(1, 9))
def test_symmetric_pairs_are_numpys(seed, n):
    x = np.random.default_rng(seed).normal(size=(n, n))
    g = torch.from_numpy(x + x.T)
    values, vectors = symmetric_pairs(g)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(g.numpy())[::-1], atol=1e-9)
    assert torch.allclose(g @ vectors, vectors * values, atol=1e-8)


@pytest.mark.parametrize("factored", [(True, True), (True, False), (False, False)])
def test_a_basis_of_all_outputs_is_orthonormal_and_holds_them(factored):
    numbers = torch.Generator().manual_seed(1)
    deltas = []
    for low in factored:
        left, right = torch.randn(30, 3, generator=numbers), torch.randn(3, 20, generator=numbers)
        deltas.append(LowRank(left, right, (30, 20)) if low else left @ right)
    basis = left_basis(deltas)
    assert basis.shape == (30, 6)
    assert torch.allclose(basis.T @ basis, torch.eye(6), atol=1e-4)
    for d in deltas:
        x = d.dense() if isinstance(d, LowRank) else d
        assert torch.allclose(basis @ (basis.T @ x), x, atol=1e-3)


def test_a_matrix_without_rows_or_columns_has_no_triplets():
    for shape in ((0, 4), (4, 0)):
        found = singular_triplets(torch.zeros(shape))
        assert (found.rank, found.left.shape, found.right.shape) == (0, (shape[0], 0), (shape[1], 0))


# ---- whose generation settings a merge takes ----


def inputs(*configs, donor=0):
    from chorus.checkpoints.reference import parse_reference

    models = [SimpleNamespace(generation=c, directory=None, config={}, label=f"m{i}") for i, c in enumerate(configs)]
    return SimpleNamespace(
        models=models, references=[parse_reference(f"m{i}") for i in range(len(configs))], donor=donor, warnings=[]
    )


def test_the_donors_settings_are_taken_and_differences_told():
    found, differences, problems = settings(None, inputs({"task": "a", "x": 1}, {"task": "b", "x": 2}, donor=1))
    assert (found, problems) == ({"task": "b", "x": 2}, [])
    assert differences == ["m0 has task 'a', not 'b'; the result has m1's"]  # x is none of those that matter


def test_another_source_and_changes():
    request = {"source": "m0", "overrides": {"language": "pt"}}
    found, _, problems = settings(request, inputs({"task": "a"}, {"task": "b"}, donor=1))
    assert (found, problems) == ({"task": "a", "language": "pt"}, [])


def test_forced_ids_go_where_languages_are_known():
    forced = {"forced_decoder_ids": [[1, 2]]}
    assert settings(None, inputs({**forced, "lang_to_id": {"a": 1}}))[0] == {"lang_to_id": {"a": 1}}
    assert settings(None, inputs(forced))[0] == forced
    assert settings(None, inputs({}))[0] is None


def test_long_values_are_told_by_their_length():
    longer = {"task": "a", "suppress_tokens": list(range(9))}
    _, differences, _ = settings(None, inputs(longer, {"task": "a"}))
    assert differences == ["m1 has suppress_tokens none, not 9 entries; the result has m0's"]


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        ("m0", "generation: a map with source and overrides"),
        ({"sorce": "m0"}, 'generation.sorce: unknown key; did you mean "source"?'),
        ({"overrides": [1]}, "generation.overrides: a map of generation settings"),
        ({"source": "m9"}, "generation.source: m9 is not one of the models"),
    ],
)
def test_requests_that_cannot_be(request_, problem):
    assert settings(request_, inputs({"task": "a"}))[2] == [problem]
