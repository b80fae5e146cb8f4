"""The setting that unties what is to be untied, and nothing besides; and when two tensors hold the same."""

from __future__ import annotations

import copy
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from chorus.architectures import ties
from chorus.checkpoints.adapted import AdaptedTensor, Factors
from chorus.checkpoints.lazy_tensor import MemoryTensor
from chorus.checkpoints.ties import equal_values

KEY = ties.KEY
CONFIG: dict[str, Any] = {
    "model_type": "omni", "thinker": {"model_type": "thinker", KEY: True}, "talker": {"model_type": "talker"},
    "sampling": {"temperature": 1.0},
}  # fmt: skip


def inventory(config: dict[str, Any], names: Collection[str]) -> SimpleNamespace:
    """Of a model of two parts, each with a head that is tied unless its own config, or the whole one, says not."""
    if KEY in config["sampling"]:
        raise ValueError("no such setting")
    parts = [part for part in ("thinker", "talker") if config.get(KEY, True) and config[part].get(KEY, True)]
    return SimpleNamespace(tied={f"{part}.head": f"{part}.embeddings" for part in parts})


@pytest.fixture(autouse=True)
def of_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "inventory_of", inventory)


def untied(*copies: str) -> dict[str, Any]:
    given = copy.deepcopy(CONFIG)
    found = ties.untied_config(given, [], copies)
    assert given == CONFIG, "the given one stays as it is"
    return found


@pytest.mark.parametrize("part", ["thinker", "talker"])
def test_one_part_is_untied_where_the_other_stays_tied(part: str) -> None:
    assert untied(f"{part}.head") == {**CONFIG, part: {**CONFIG[part], KEY: False}}


def test_both_are_untied_where_both_must_be() -> None:
    assert inventory(untied("thinker.head", "talker.head"), []).tied == {}


def test_what_is_not_tied_needs_no_other_config() -> None:
    assert untied("elsewhere.head") == CONFIG


def test_where_no_setting_unties_the_config_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ties, "inventory_of", lambda *_: SimpleNamespace(tied={"thinker.head": "thinker.embeddings"}))
    assert untied("thinker.head") == CONFIG


def adapted(scale: float = 0.5, **others: torch.Tensor) -> AdaptedTensor:
    """A matrix with factors on it; `others` in the place of its parts."""
    parts = {"base": torch.ones(4, 3), "a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(8.0).reshape(4, 2)}
    base, a, b = (MemoryTensor(name, others.get(name, values)) for name, values in parts.items())
    return AdaptedTensor(base, Factors("head", scale, a, b))


def test_two_adapters_are_one_tensor_where_all_that_makes_them_is_the_same() -> None:
    assert equal_values(adapted(), adapted())
    for other in (
        adapted(scale=1.0), adapted(base=torch.zeros(4, 3)), adapted(a=torch.zeros(2, 3)), adapted(b=torch.zeros(4, 2))
    ):  # fmt: skip
        assert not equal_values(adapted(), other)
