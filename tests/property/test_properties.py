"""What the mathematics says of each method, for any numbers."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import chorus.testing
from chorus.errors import ChorusError, RecipeError
from chorus.testing import close, merge_tensors

SHAPES = st.sampled_from([(1,), (7,), (3, 5), (1, 9), (5, 1), (4, 3, 2)])
SEEDS = st.integers(0, 10_000)


def numbers(seed, shape, count, scale=0.05):
    made = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=made) * scale for _ in range(count)]


def cosine(a, b):
    return float((a * b).sum() / a.norm() / b.norm())


@given(SEEDS, SHAPES)
def test_a_one_hot_linear_merge_is_that_model_to_the_bit(seed, shape):
    tensors = numbers(seed, shape, 3)
    for i in range(3):
        weight = [float(i == j) for j in range(3)]
        for as_files in (False, True):
            merged = merge_tensors("linear", tensors, parameters={"weight": weight}, as_files=as_files)
            assert torch.equal(merged, tensors[i])


@given(SEEDS, SHAPES, st.lists(st.floats(0.01, 3), min_size=3, max_size=3))
def test_a_mean_lies_between_its_models(seed, shape, weight):
    tensors = torch.stack(numbers(seed, shape, 3))
    merged = merge_tensors("linear", list(tensors), parameters={"weight": weight})
    assert bool((merged >= tensors.amin(0) - 1e-7).all())
    assert bool((merged <= tensors.amax(0) + 1e-7).all())


@given(SEEDS, SHAPES, st.floats(0, 1))
def test_slerp_meets_its_ends_and_is_the_same_from_either_side(seed, shape, t):
    a, b = numbers(seed, shape, 2)
    assert torch.equal(merge_tensors("slerp", [a, b], parameters={"t": 0.0}), a)
    assert torch.equal(merge_tensors("slerp", [a, b], parameters={"t": 1.0}), b)
    forth = merge_tensors("slerp", [a, b], parameters={"t": t})
    back = merge_tensors("slerp", [b, a], parameters={"t": 1 - t})
    assert (forth - back).abs().max() < 1e-5 * max(a.abs().max(), b.abs().max())


@given(SEEDS, st.floats(0, 1))
def test_slerp_keeps_a_norm_that_both_have(seed, t):
    a, b = (x / x.norm() for x in numbers(seed, (50,), 2))
    merged = merge_tensors("slerp", [a, b], parameters={"t": t})
    assert abs(float(merged.norm()) - 1) < 1e-5


@given(SEEDS, SHAPES, st.floats(0.1, 5), st.floats(0.1, 5))
def test_nuslerp_without_a_base_is_slerp(seed, shape, w1, w2):
    a, b = numbers(seed, shape, 2)
    if abs(cosine(a, b)) > 0.999:  # slerp goes straight there, nuslerp only nearer
        return
    merged = merge_tensors("nuslerp", [a, b], parameters={"weight": [w1, w2]})
    close(merged, merge_tensors("slerp", [a, b], parameters={"t": w2 / (w1 + w2)}), 1e-5)


@given(SEEDS, st.floats(0.05, 0.95))
def test_karcher_of_two_is_slerp_on_the_unit_sphere(seed, t):
    a, b = numbers(seed, (40,), 2)
    parameters = {"weight": [1 - t, t], "max_iter": 100, "tol": 1e-12}
    merged = merge_tensors("karcher", [a, b], parameters=parameters)
    unit = merge_tensors("slerp", [a / a.norm(), b / b.norm()], parameters={"t": t})
    close(merged, unit * ((1 - t) * a.norm() + t * b.norm()), 1e-5)


@given(SEEDS, st.lists(st.floats(0.1, 2), min_size=4, max_size=4))
def test_the_karcher_mean_is_where_the_tangents_cancel(seed, weight):
    tensors = numbers(seed, (200,), 4)
    parameters = {"weight": weight, "max_iter": 200, "tol": 1e-13}
    mean = merge_tensors("karcher", tensors, parameters=parameters).double()
    m = mean / mean.norm()
    gradient = torch.zeros_like(m)
    for w, x in zip(weight, tensors, strict=True):
        u = x.double() / x.double().norm()
        angle = torch.arccos((u * m).sum())
        gradient += w * angle / torch.sin(angle) * (u - torch.cos(angle) * m)
    assert gradient.norm() < 1e-5


@given(SEEDS, SHAPES)
def test_multislerp_is_the_published_tangent_step(seed, shape):
    """Tangents at the normalised sum, their weighted mean, back to the sphere: what the closed form comes to."""
    tensors, weight = numbers(seed, shape, 3), [0.2, 0.5, 0.3]
    norms = [float(x.double().norm()) for x in tensors]
    unit = [x.double() / n for x, n in zip(tensors, norms, strict=True)]
    total = sum(w * u for w, u in zip(weight, unit, strict=True))
    if float(total.norm()) < 1e-3:
        return
    m = total / total.norm()
    v = sum(w * (u - (u * m).sum() * m) for w, u in zip(weight, unit, strict=True))
    length = float(v.norm())
    point = m if length < 1e-12 else torch.cos(v.norm()) * m + torch.sin(v.norm()) / length * v
    close(
        merge_tensors("multislerp", tensors, parameters={"weight": weight}),
        point * sum(w * n for w, n in zip(weight, norms, strict=True)),
        1e-5,
    )


@given(SEEDS)
def test_model_stock_of_orthogonal_deltas_is_the_base_and_of_equal_ones_the_model(seed):
    base, delta = numbers(seed, (8, 6), 2)
    rows = [torch.zeros_like(base) for _ in range(3)]
    for i, row in enumerate(rows):
        row[i] = delta[i]
    merged = merge_tensors("model_stock", [base + r for r in rows], base=base)
    assert (merged - base).abs().max() < 1e-6
    close(merge_tensors("model_stock", [base + delta] * 3, base=base), base + delta)


@given(SEEDS, st.floats(1e-4, 10))
def test_model_stock_does_not_care_how_large_the_deltas_are(seed, factor):
    """mergekit's clamp on the product of norms does."""
    base, *deltas = numbers(seed, (30, 30), 4)
    shared = deltas[-1]
    deltas = [shared + d for d in deltas[:-1]]
    one = merge_tensors("model_stock", [d.double() for d in deltas], base=torch.zeros_like(base).double())
    scaled = merge_tensors(
        "model_stock", [factor * 1e-4 * d.double() for d in deltas], base=torch.zeros_like(base).double()
    )
    close(scaled / (factor * 1e-4), one, 1e-9)


@given(SEEDS, st.floats(0, 1), st.integers(1, 400))
def test_ties_of_one_model_keeps_exactly_the_count(seed, density, n):
    (delta,) = numbers(seed, (n,), 1)
    merged = merge_tensors("ties", [delta], base=torch.zeros(n), parameters={"weight": 1, "density": density})
    wanted = max(1, int(density * n)) if density > 0 else 0
    assert int((merged != 0).sum()) == wanted
    kept = merged != 0
    assert torch.equal(merged[kept], delta[kept])
    if 0 < wanted < n:
        assert delta[kept].abs().min() >= delta[~kept].abs().max()


@given(SEEDS)
def test_ties_never_goes_against_the_elected_sign(seed):
    deltas = numbers(seed, (6, 6), 4)
    weight = [0.5, 1.0, 0.7, 0.2]
    merged = merge_tensors("ties", deltas, base=torch.zeros(6, 6), parameters={"weight": weight})
    elected = sum(w * d for w, d in zip(weight, deltas, strict=True))
    assert bool((merged * elected >= 0).all())


@given(SEEDS, st.floats(0.1, 0.9))
def test_dare_keeps_the_norm_and_expects_the_delta(seed, density):
    (delta,) = numbers(seed, (20_000,), 1)
    zero = torch.zeros_like(delta)
    for rescale in ("l1", "expectation"):
        parameters = {"weight": 1, "density": density, "rescale": rescale}
        merged = merge_tensors("dare_linear", [delta], base=zero, parameters=parameters, seed=seed)
        share = float((merged != 0).float().mean())
        assert abs(share - density) < 5 * (density * (1 - density) / 20_000) ** 0.5
        factor = merged[merged != 0] / delta[merged != 0]
        assert torch.allclose(factor, factor[0].expand_as(factor), rtol=1e-5)
        if rescale == "l1":
            assert float(merged.abs().sum()) == pytest.approx(float(delta.abs().sum()), rel=1e-5)
        else:
            assert float(factor[0]) == pytest.approx(1 / density, rel=1e-5)


@given(SEEDS, st.floats(0, 0.5), st.floats(0, 0.4))
def test_breadcrumbs_drops_the_largest_and_keeps_the_count(seed, density, gamma):
    n = 200
    (delta,) = numbers(seed, (n,), 1)
    parameters = {"weight": 1, "density": density, "gamma": gamma}
    merged = merge_tensors("breadcrumbs", [delta], base=torch.zeros(n), parameters=parameters)
    order = delta.abs().argsort(descending=True)
    top, kept = int(gamma * n), int(density * n)
    expected = torch.zeros(n)
    expected[order[top : top + kept]] = delta[order[top : top + kept]]
    assert torch.equal(merged, expected)


@pytest.mark.parametrize("name", ["ties", "dare_ties", "dare_linear", "breadcrumbs", "breadcrumbs_ties", "model_stock",
                                  "multislerp", "nuslerp", "task_arithmetic"])  # fmt: skip
def test_a_model_that_equals_the_base_never_yields_nan(name):
    case = chorus.testing.Case(name)
    tensors = [case.base.clone(), *case.tensors[1:]]
    for as_files in (False, True):
        assert bool(torch.isfinite(case.merge(tensors=tensors, as_files=as_files)).all())


@pytest.mark.parametrize("name", ["slerp", "karcher", "multislerp", "linear"])
def test_zero_tensors_stay_zero(name):
    case = chorus.testing.Case(name)
    zero = [torch.zeros(12, 9)] * case.count
    assert case.merge(tensors=zero, base=None).abs().max() == 0


def test_directions_that_cancel_are_an_error_with_more_than_two():
    a = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert merge_tensors("multislerp", [a, -a], parameters={"weight": 1}).abs().max() == 0  # two: the mean
    with pytest.raises(ChorusError, match="cancel"):
        merge_tensors("multislerp", [a, -a, a, -a], parameters={"weight": 1})
    with pytest.raises(ChorusError, match="cancel"):
        merge_tensors("karcher", [a, -a])


def test_slerp_takes_t_or_weights_but_not_both():
    a, b = numbers(0, (5,), 2)
    with pytest.raises(ValueError, match="not both"):
        merge_tensors("slerp", [a, b], parameters={"t": 0.5, "weight": [1, 1]})
    with pytest.raises(ValueError, match="between two models"):
        merge_tensors("slerp", [a, b, a], parameters={"t": 0.5})
    with pytest.raises(ValueError, match="needs t, or a weight"):
        merge_tensors("slerp", [a, b])


def test_parameters_are_checked():
    with pytest.raises(RecipeError, match="needs weight"):
        merge_tensors("linear", numbers(0, (5,), 2))
    with pytest.raises(RecipeError, match="must lie in 0 to 1"):
        merge_tensors("ties", numbers(0, (5,), 2), base=torch.zeros(5), parameters={"weight": 1, "density": 2})
