"""States of a continual merge that are not what they say: changed, damaged, counted wrongly, or in each other."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import chorus
from adapters import make_adapters
from chorus.continual.state import _merged_in
from chorus.errors import CheckpointError, ChorusError, MisfitError, UsageError
from models import Family


@pytest.fixture(scope="module")
def states(tmp_path_factory):
    """A base, three adapters on it, and a state of the first two."""
    place = tmp_path_factory.mktemp("states")
    base, adapters = make_adapters(place, "qwen2", 3)
    chorus.continual(base, adapters[0], place / "one", base=base)
    chorus.continual(place / "one", adapters[1], place / "two", base=base)
    return base, adapters, place / "two"


def changed(path: Path, name: str, to: object) -> None:
    told = json.loads((path / name).read_text())
    (path / name).write_text(json.dumps({**told, **to}) if isinstance(to, dict) else json.dumps(to(told)))


@pytest.mark.parametrize("what", ["weights", "scale", "model"])
def test_weights_that_are_not_those_that_were_written_are_refused(states, qwen: Family, tmp_path, what) -> None:
    base, adapters, state = states
    new = adapters[2]
    if what == "model":
        base, new = qwen.base, qwen.tuned[1]
        chorus.continual(base, qwen.tuned[0], tmp_path / "whole")
        state = tmp_path / "whole"
    copy = shutil.copytree(state, tmp_path / "copy")
    assert chorus.continual(copy, new, tmp_path / "sound", base=base, name="new").facts.count > 1
    if what == "scale":
        changed(copy, "adapter_config.json", {"lora_alpha": 64})
    else:
        (file,) = copy.glob("*.safetensors")
        save_file({name: value * 2 for name, value in load_file(file).items()}, file, {"format": "pt"})
    with pytest.raises(MisfitError, match="not those that were written") as caught:
        chorus.continual(copy, new, tmp_path / "out", base=base, name="new")
    assert "--count" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["stages"].append(c["stages"][0]), "two models of one name"),
        (lambda c: c.update(of=["x", "y"]), "of names 2 models"),
        (lambda c: c["stages"][0].update(weight=float("nan")), "weight"),
        (lambda c: c["stages"][0].update(scale=0.0), "scale"),
        (lambda c: c["stages"][0].update(norm=-1.0), "norm"),
    ],
)
def test_facts_that_contradict_themselves_are_refused(states, tmp_path, change, word) -> None:
    base, adapters, state = states
    copy = shutil.copytree(state, tmp_path / "copy")
    told = json.loads((copy / "chorus.json").read_text())
    change(told["continual"])
    (copy / "chorus.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match=word):
        chorus.continual(copy, adapters[2], tmp_path / "out", base=base)


def test_a_model_that_a_merge_brings_along_again_is_told(states, tmp_path) -> None:
    base, adapters, state = states
    chorus.continual(base, adapters[0], tmp_path / "mine", base=base, name="another name")
    found = chorus.continual(state, tmp_path / "mine", tmp_path / "out", base=base)
    assert "mine is a merge, and counts as one model; adapter-0 stands in both, and counts twice" in found.warnings


def test_another_scale_is_another_model(states, tmp_path) -> None:
    base, adapters, state = states
    new = shutil.copytree(adapters[2], tmp_path / "new")
    chorus.continual(state, new, tmp_path / "out", base=base)
    changed(new, "adapter_config.json", {"lora_alpha": 64})
    with pytest.raises(ChorusError, match="something else"):
        chorus.continual(state, new, tmp_path / "out", base=base)


def test_a_base_among_the_models_is_none_of_them_however_it_is_named(qwen: Family, tmp_path) -> None:
    base, one, two = str(qwen.base), *map(str, qwen.tuned[:2])
    each = {"parameters": {"weight": 1}}
    models = [{"model": {"path": base}, **each}, {"model": {"path": one}, **each}, {"model": two, **each}]
    chorus.merge({"merge_method": "linear", "base_model": base, "models": models}, tmp_path / "mean")
    facts = json.loads((tmp_path / "mean" / "chorus.json").read_text())
    assert _merged_in(facts) == [Path(one).name, Path(two).name]


@pytest.mark.parametrize("count", [0, -1])
def test_a_count_of_none_is_refused_in_python_too(states, tmp_path, count) -> None:
    base, adapters, _ = states
    with pytest.raises(UsageError, match=f"count {count}"):
        chorus.continual(adapters[0], adapters[1], tmp_path / "out", base=base, count=count)
