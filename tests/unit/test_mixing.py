"""Mixtures: each group as often as its temperature and weight say, rare answers more often, none by chance."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chorus.data.manifest import Row
from chorus.data.utterance import Utterance
from chorus.errors import RecipeError
from chorus.train.examples import EpochSampler
from chorus.train.layers import load_train_config
from chorus.train.mixing import drawn, shares

SIZES = {"kws": 160, "langid": 30, "asr": 10}


def rows() -> list[Utterance]:
    """Three tasks; of kws nine in ten rows have one answer."""
    found = []
    for task, n in SIZES.items():
        for i in range(n):
            text = ("on" if i % 10 else "off") if task == "kws" else f"{task} {i % 5}"
            found.append(
                Utterance(Row(f"{task}{i}.wav", text, "en", domain="a" if i % 2 else "b", extra={"task": task}), 1.0)
            )
    return found


def config(**mix: Any) -> Any:
    return load_train_config({"model": {"base": "b"}, "data": {"train": "m.csv", "mix": mix or None}})


def by_task(each: list[float]) -> dict[str, float]:
    found = dict.fromkeys(SIZES, 0.0)
    for one, share in zip(rows(), each, strict=True):
        found[one.row.get("task")] += share
    return found


@pytest.mark.parametrize(
    ("mix", "wanted"),
    [
        ({"temperature": 1}, {"kws": 0.8, "langid": 0.15, "asr": 0.05}),
        ({"temperature": 2}, {name: n**0.5 for name, n in SIZES.items()}),
        ({"temperature": 1e9}, dict.fromkeys(SIZES, 1.0)),
        ({"weights": {"asr": 4, "kws": 0}}, {"kws": 0, "langid": 30, "asr": 40}),
    ],
)
def test_groups_have_their_shares(mix: dict[str, Any], wanted: dict[str, float]) -> None:
    found = by_task(shares(rows(), config(**mix)) or [])
    total = sum(wanted.values())
    assert found == pytest.approx({name: value / total for name, value in wanted.items()})


def test_rare_answers_are_learnt_more_often_within_their_group() -> None:
    plain, rare = (shares(rows(), config(by="task", rare=flag)) or [] for flag in (False, True))
    assert by_task(plain) == pytest.approx(by_task(rare))
    said: dict[str, float] = {"on": 0.0, "off": 0.0}
    for one, share in zip(rows(), rare, strict=True):
        if one.row.get("task") == "kws":
            said[one.row.text] += share
    # 144 and 16 rows: 12 to 4 by the square root, not 9 to 1
    assert said["on"] / said["off"] == pytest.approx(3)


def test_without_a_mix_each_row_comes_once() -> None:
    assert shares(rows(), config()) is None
    each = shares(rows(), config(temperature=1)) or []
    assert sorted(drawn(each, np.random.default_rng(0))) == list(range(200))


def test_what_no_row_has_is_refused() -> None:
    with pytest.raises(RecipeError, match=r'no row has task "kwz"; did you mean "kws"'):
        shares(rows(), config(weights={"kwz": 2}))
    with pytest.raises(RecipeError, match="every group has weight 0"):
        shares(rows(), config(weights=dict.fromkeys(SIZES, 0)))


def test_one_group_can_be_left_out() -> None:
    assert by_task(shares(rows(), config(weights={"kws": 0})) or [])["kws"] == 0
    assert shares(rows(), config(by="domain", weights={"a": 3}))


def test_values_out_of_range_are_refused() -> None:
    for wrong in ({"temperature": 0}, {"weights": {"kws": -1}}):
        with pytest.raises(RecipeError):
            config(**wrong)


@given(st.lists(st.floats(0, 5), min_size=1, max_size=40).filter(lambda values: sum(values) > 0.1), st.integers(0, 99))
@settings(max_examples=80, deadline=None)
def test_an_epoch_is_as_long_as_ever_and_no_row_is_far_from_its_share(weights: list[float], seed: int) -> None:
    each = [w / sum(weights) for w in weights]
    found = Counter(drawn(each, np.random.default_rng(seed)).tolist())
    assert sum(found.values()) == len(each)
    for i, share in enumerate(each):
        expected = share * len(each)
        assert np.floor(expected - 1e-6) <= found[i] <= np.ceil(expected + 1e-6)


def test_over_epochs_the_fractions_even_out() -> None:
    each = np.array([0.5, 1.5, 0.25, 1.75]) / 4
    found = sum((np.bincount(drawn(each, np.random.default_rng(i)), minlength=4) for i in range(4000)), np.zeros(4))
    assert found / 4000 == pytest.approx(each * 4, abs=0.04)


def test_the_sampler_draws_by_seed_and_epoch() -> None:
    each = shares(rows(), config(temperature=5))
    for by_length in (False, True):
        sampler = EpochSampler([1.0] * 200, 8, 3, by_length=by_length, shares=each)
        sampler.set_epoch(1)
        first = list(sampler)
        assert first == list(sampler)
        assert len(first) == 200
        kinds = Counter(rows()[i].row.get("task") for _, i in first)
        assert kinds["asr"] > 40, "a twentieth of the rows, nearly a third of the epoch"
