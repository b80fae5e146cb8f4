"""The contract that every merge method keeps, as tests that its author can run.

import pytest, chorus.testing

@pytest.mark.parametrize("check", chorus.testing.checks(), ids=lambda c: c.__name__)
def test_my_method(check):
    check("my_method")

def test_my_numbers():
    chorus.testing.check_golden("tests/my_method.json")
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from chorus.architectures.roles import Role
from chorus.errors import ChorusError
from chorus.linalg.blocks import CHUNK
from chorus.linalg.low_rank import LowRank
from chorus.merge.method import METHODS, Method, Parameter
from chorus.merge.recipes.loading import load_recipe
from chorus.merge.recipes.parameters import check_parameters
from chorus.testing.merging import ENCODER, merge_deltas, merge_tensors

Check = Callable[[str], None]
# One value, a few, a matrix, one row, one column, a convolution, and a last chunk that is not whole.
SHAPES: list[tuple[int, ...]] = [(1,), (7,), (3, 5), (1, 9), (4, 1), (4, 3, 2), (CHUNK + 3,)]


def example_parameters(method: Method, count: int) -> dict[str, Any]:
    """Values for a method's parameters where it has no defaults, and for the usual ones a telling value."""
    # at their defaults these change nothing
    telling = {"density": 0.6, "gamma": 0.05, "t": 0.3}
    chosen: dict[str, Any] = {}
    for p in method.parameters.values():
        # unequal, with a sum that is not one: whoever forgets them, or divides unasked, is found out
        if p.name == "weight" and p.per_model and p.default in (None, 1.0):
            chosen[p.name] = [0.2 + 0.1 * i for i in range(count)]
        elif p.name in telling:
            chosen[p.name] = [telling[p.name]] * count if p.per_model else telling[p.name]
        elif p.required:
            value = _any_value(p)
            chosen[p.name] = [value] * count if p.per_model else value
    # slerp takes t between two models, a weight each among more
    if method.models == (2, None) and "t" in chosen and count > 2:
        del chosen["t"]
        chosen["weight"] = [0.2 + 0.1 * i for i in range(count)]
    return chosen


def _any_value(parameter: Parameter) -> Any:
    if parameter.choices:
        return parameter.choices[0]
    if parameter.between:
        return parameter.type((parameter.between.low + parameter.between.high) / 2)
    return parameter.type(1)


class Case:
    """Random inputs for a method: base N(0, 0.02), deltas of the size of real fine-tunes, its parameters."""

    def __init__(self, name: str, shape: tuple[int, ...] = (12, 9), *, seed: int = 0, scale: float = 3e-4) -> None:
        self.method = METHODS.get(name)
        low, high = self.method.models
        self.count = max(low, 3) if high is None else high
        numbers = torch.Generator().manual_seed(seed)
        base = torch.randn(shape, generator=numbers) * 0.02
        # absolute thresholds (1e-6, 1e-8) of other implementations fail at this size of deltas
        self.tensors = [base + torch.randn(shape, generator=numbers) * scale for _ in range(self.count)]
        self.base = None if self.method.base in ("input", "first") else base
        self.parameters = example_parameters(self.method, self.count)

    def merge(self, **changes: Any) -> torch.Tensor:
        """The merge of this case, with some of `merge_tensors`' arguments changed."""
        arguments = {"tensors": self.tensors, "base": self.base, "parameters": self.parameters, **changes}
        return merge_tensors(self.method.name, **arguments)


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 2e-6) -> None:
    """Fail where a value differs by more than `tolerance` of the largest."""
    limit = tolerance * max(float(a.abs().max()), float(b.abs().max()), 1e-30)
    worst = float((a.double() - b.double()).abs().max())
    assert worst <= limit, f"differs by {worst:.3g}, allowed {limit:.3g}"


def explains_itself(name: str) -> None:
    """Summary, paper, when, docstring, a line for every parameter, and a recipe that is valid."""
    method = METHODS.get(name)
    for text in (method.summary, method.paper, method.when, method.doc, method.recipe):
        assert text.strip(), f"{name} says too little about itself"
    for parameter in method.parameters.values():
        assert parameter.doc, f"{name}: parameter {parameter.name} has no explanation"
    recipe = load_recipe(method.recipe + "\n").recipe
    assert recipe.merge_method == name
    assert check_parameters(method, recipe.parameters, "parameters") == []
    for entry in recipe.models or []:
        assert check_parameters(method, entry.parameters, "models", under_model=True) == []


def keeps_shapes(name: str) -> None:
    """Every shape comes back as it went in, finite, inputs untouched."""
    for shape in SHAPES:
        case = Case(name, shape)
        before = [t.clone() for t in case.tensors]
        merged = case.merge()
        assert merged.shape == torch.Size(shape), f"{shape} became {tuple(merged.shape)}"
        assert bool(torch.isfinite(merged).all())
        assert all(torch.equal(a, b) for a, b in zip(before, case.tensors, strict=True)), "an input was changed"


def streams_as_in_memory(name: str) -> None:
    """The same bytes whatever the block size, for tensors of several chunks."""
    # the second's rows end within chunks
    for shape in ((3 * CHUNK + 11,), (301, 700)):
        case = Case(name, shape)
        small, large = (case.merge(block_values=n * CHUNK) for n in (1, 16))
        assert torch.equal(small, large)


def reads_bytes_as_tensors(name: str) -> None:
    """From the bytes of float32, bfloat16 and float16 files it makes what it makes of tensors."""
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for shape in ((3 * CHUNK + 11,), (40, 30)):
            # deltas of 3e-4 would often be less than half of bfloat16's last place at 0.02
            case = Case(name, shape, scale=3e-3)
            tensors = [t.to(dtype) for t in case.tensors]
            base = None if case.base is None else case.base.to(dtype)
            small, large = (
                case.merge(tensors=tensors, base=base, as_files=True, block_values=n * CHUNK) for n in (1, 16)
            )
            assert torch.equal(small, large)
            close(small, case.merge(tensors=tensors, base=base), 1e-6)


def repeats_itself(name: str) -> None:
    """The same inputs give the same bytes; a random method follows its seed, another does not."""
    case = Case(name)
    first, again, other = case.merge(), case.merge(), case.merge(seed=1)
    assert torch.equal(first, again)
    assert torch.equal(first, other) != case.method.random


def agrees_with_itself(name: str) -> None:
    """Models that all equal each other give that model: N times the same weights, or N times no delta."""
    case = Case(name)
    shared = case.base if case.base is not None else case.tensors[0]
    close(case.merge(tensors=[shared] * case.count), shared)


def ignores_order(name: str) -> None:
    """A symmetric method does not care for the order of the models."""
    case = Case(name)
    # a random mask belongs to a model's place
    if not case.method.symmetric or case.method.random or case.count == 1:
        return
    # what stands under a model goes with it
    turned = {
        k: list(reversed(v)) if isinstance(v, list) and case.method.parameters[k].per_model else v
        for k, v in case.parameters.items()
    }
    close(case.merge(tensors=case.tensors[::-1], parameters=turned), case.merge())


def scales(name: str) -> None:
    """Inputs twice as large give a result twice as large."""
    case = Case(name)
    if not case.method.homogeneous:
        return
    # doubling is exact in every float type: what differs is a threshold's doing
    doubled = case.merge(tensors=[2 * t for t in case.tensors], base=None if case.base is None else 2 * case.base)
    close(doubled, 2 * case.merge())


def is_precise(name: str) -> None:
    """Computed from float32 inputs it equals what the same method makes of them in float64."""
    case = Case(name, (40, 30))
    exact = case.merge(
        tensors=[t.double() for t in case.tensors], base=None if case.base is None else case.base.double()
    )
    # else it would be held against itself
    assert exact.dtype == torch.float64
    close(case.merge(), exact, 1e-6)


def takes_factors(name: str) -> None:
    """A method that takes low-rank deltas makes of factors what it makes of their products."""
    case = Case(name, (40, 30))
    method = case.method
    if not method.low_rank:
        return
    numbers = torch.Generator().manual_seed(1)
    deltas = [
        LowRank(torch.randn(40, 4, generator=numbers), torch.randn(4, 30, generator=numbers), (40, 30))
        for _ in range(case.count)
    ]
    thin, dense = (merge_deltas(name, each, case.parameters) for each in (deltas, [d.dense() for d in deltas]))
    first, second = (d.dense() if isinstance(d, LowRank) else d for d in (thin, dense))
    # wider than elsewhere, since factors and their product are decomposed in different ways
    close(first, second, 1e-5)


def refuses_nonfinite(name: str) -> None:
    """NaN and infinity are refused, with the model and the tensor named."""
    for value in (float("nan"), float("inf"), float("-inf")):
        case = Case(name)
        # in the last model, which a look at the first alone would miss
        case.tensors[-1].view(-1)[5] = value
        _must_fail(case.merge, ("weight", f"model {case.count - 1}"))


def refuses_nonsense(name: str) -> None:
    """Unknown parameters, values that are no numbers, and values out of range are refused by name."""
    case = Case(name)
    _must_fail(partial(case.merge, parameters={**case.parameters, "nonsense": 1}), ("nonsense",))
    for parameter in case.method.parameters.values():
        if parameter.type in (int, float):
            for wrong in ("many", float("nan")):
                problems = check_parameters(case.method, {parameter.name: wrong}, "parameters")
                assert len(problems) == 1, f"{parameter.name}: {wrong!r} is accepted"
        if parameter.between:
            # an end that is left out is outside itself
            for outside in (parameter.between.low - (not parameter.between.above), parameter.between.high * 2):
                assert check_parameters(case.method, {parameter.name: outside}, "parameters")


def _must_fail(call: Callable[[], Any], words: Sequence[str]) -> None:
    refusal = ""
    try:
        call()
    except ChorusError as error:
        refusal = str(error)
    assert refusal, f"accepted, though it should be refused (naming {', '.join(words)})"
    for word in words:
        assert word in refusal, f"the message does not name {word}: {refusal}"


def checks() -> list[Check]:
    """Every check of the contract; each takes a method's name and fails with an AssertionError."""
    return [
        explains_itself,
        keeps_shapes,
        streams_as_in_memory,
        reads_bytes_as_tensors,
        repeats_itself,
        agrees_with_itself,
        ignores_order,
        scales,
        is_precise,
        takes_factors,
        refuses_nonfinite,
        refuses_nonsense,
    ]


def check_golden(fixture: str | Path | Mapping[str, Any], *, tolerance: float | None = None) -> int:
    """Compare a method with numbers from elsewhere; returns how many values were compared.

    The fixture, JSON: {method, source, tensors, base?, parameters, expected, sensitive}. Tensors are nested
    lists. `sensitive` names parameters of which one percent must show. `tolerance`, of the largest value: 1e-6.
    """
    case = json.loads(Path(fixture).read_text()) if isinstance(fixture, str | Path) else fixture
    # numbers that this package made itself would only say that it has not changed
    assert case["source"], "a golden fixture names the package and version that its numbers come from"
    tensors = [golden_tensor(t) for t in case["tensors"]]
    base = golden_tensor(case["base"]) if case.get("base") is not None else None
    expected = torch.tensor(case["expected"], dtype=torch.float64).reshape(tensors[0].shape)
    role = Role(**case["role"]) if case.get("role") else ENCODER
    limit = tolerance or float(case.get("tolerance", 1e-6))

    def merged(parameters: Mapping[str, Any]) -> torch.Tensor:
        return merge_tensors(
            case["method"], tensors, base=base, parameters=parameters, role=role, seed=case.get("seed", 0)
        )

    close(merged(case["parameters"]), expected, limit)
    # numbers that a wrong parameter gives too prove nothing
    for name in case["sensitive"]:
        given = case["parameters"][name]
        changed = [v * 1.01 for v in given[:1]] + given[1:] if isinstance(given, list) else given * 1.01
        try:
            close(merged({**case["parameters"], name: changed}), expected, limit)
        except AssertionError:
            continue
        raise AssertionError(f"{case['method']}: {name} changed by one percent and the golden test did not notice")
    return expected.numel()


def golden_tensor(value: Any) -> torch.Tensor:
    """A fixture's tensor: float32 from nested lists."""
    return torch.tensor(value, dtype=torch.float32)
