"""Every method of the registry keeps the contract, and equals the numbers of other implementations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chorus.merge.methods
import chorus.testing
from chorus.merge.method import METHODS

GOLDEN = sorted((Path(__file__).parents[1] / "golden" / "data").glob("*.json"))
FILES = sorted(p.stem for p in Path(chorus.merge.methods.__file__).parent.glob("[!_]*.py"))


def test_the_registry_holds_one_method_a_file():
    assert METHODS.names() == FILES
    assert len(FILES) >= 23
    assert len(chorus.testing.checks()) == 12


@pytest.mark.parametrize("check", chorus.testing.checks(), ids=lambda c: c.__name__)
@pytest.mark.parametrize("name", METHODS.names())
def test_contract(name, check):
    check(name)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda p: p.stem)
def test_golden(path):
    assert chorus.testing.check_golden(path) > 0


def test_every_method_has_golden_numbers():
    assert len(GOLDEN) >= 43
    assert {json.loads(p.read_text())["method"] for p in GOLDEN} == set(FILES)


def test_a_broken_method_fails_the_contract():
    """The checks can fail: each of these methods breaks one promise."""
    import torch

    from chorus.merge.method import method

    facts = {"summary": "x", "paper": "x", "space": "weights", "base": "input", "when": "x"}
    recipe = "merge_method: {}\nmodels: [{{model: a}}, {{model: b}}]"

    def coarse(x):
        return torch.bfloat16 if x.dtype == torch.float32 else x.dtype

    broken = {
        "adds_one": (lambda tensors: tensors[0] + 1, chorus.testing.agrees_with_itself),
        "takes_first": (lambda tensors: tensors[0].clone(), chorus.testing.ignores_order),
        "writes_input": (lambda tensors: tensors[0].zero_(), chorus.testing.agrees_with_itself),
        "squares": (lambda tensors: tensors[0] * tensors[0].abs(), chorus.testing.scales),
        "rounds": (lambda tensors: tensors[0].to(coarse(tensors[0])).to(tensors[0].dtype), chorus.testing.is_precise),
        "centres": (lambda tensors: tensors[0] - tensors[0].mean(), chorus.testing.streams_as_in_memory),
        "cuts": (lambda tensors: tensors[0][:-1], chorus.testing.keeps_shapes),
        "random": (lambda tensors: torch.rand_like(tensors[0]), chorus.testing.repeats_itself),
    }
    try:
        for name, (function, check) in broken.items():
            method(name, recipe=recipe.format(name), **facts)(function)
            with pytest.raises((AssertionError, RuntimeError)):
                check(name)
    finally:
        for name in broken:
            METHODS._items.pop(name, None)
