"""An adapter written factor by factor: what is read back, whatever the order; what its config says; what is told."""

from __future__ import annotations

import json
from itertools import permutations

import pytest
import torch

from chorus.checkpoints.adapted import AdaptedTensor, Factors, ShiftedTensor
from chorus.checkpoints.adapter import open_adapter
from chorus.checkpoints.adapter_report import AdapterResult, ModuleReport, notes
from chorus.checkpoints.adapter_writer import AdapterWriter, target_modules
from chorus.checkpoints.lazy_tensor import ChangedTensor, KeepingTensor, LazyTensor, MemoryTensor
from chorus.checkpoints.task_vector import ShiftedByFile

MODULES = ["layers.0.q", "layers.1.q", "layers.0.v"]


def factors(name: str, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.Generator().manual_seed(sum(map(ord, name)))
    return torch.randn(6, rank, generator=numbers), torch.randn(rank, 4, generator=numbers)


def write(place, order=MODULES, **how):
    writer = AdapterWriter(place, how.pop("dtype", "float32"))
    for name in order:
        writer.add(name, *factors(name, how.get("ranks", {}).get(name, 2)))
    writer.add_whole("layers.0.norm.weight", torch.ones(4), matrix=False)
    config = writer.finish(base="org/base", task_type=None, every_module=[*MODULES, "layers.1.v"])
    return config, {p.name: p.read_bytes() for p in sorted(place.iterdir())}


def test_the_order_in_which_factors_come_changes_no_byte(tmp_path):
    made = [write(tmp_path / str(i), order)[1] for i, order in enumerate(permutations(MODULES))]
    assert len(made) == 6
    assert set(made[0]) == {"adapter_config.json", "adapter_model.safetensors"}
    assert all(one == made[0] for one in made)


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path)
    found = open_adapter(tmp_path, "mine")
    assert sorted(found.low_rank) == sorted(MODULES)
    for name, one in found.low_rank.items():
        left, right = factors(name)
        assert one.scale == 1.0
        assert torch.equal(one.b.read(), left)
        assert torch.equal(one.a.read(), right)
    assert list(found.replaced) == ["layers.0.norm.weight"]


def test_the_config_names_ranks_that_differ_and_the_shortest_targets(tmp_path):
    config, _ = write(tmp_path, ranks={"layers.0.v": 3})
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["rank_pattern"] == config["alpha_pattern"] == {"layers.0.v": 3}
    assert config["target_modules"] == ["layers.0.v", "q"]  # layers.1.v is not adapted, so `v` alone would be wrong
    assert config["modules_to_save"] == ["layers.0.norm"]
    assert config == json.loads((tmp_path / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("chosen", "every", "targets"),
    [
        (["a.q", "b.q"], ["a.q", "b.q"], ["q"]),
        (["a.q"], ["a.q", "b.q"], ["a.q"]),
        (["a.q", "a.v"], ["a.q", "b.q", "a.v"], ["a.q", "v"]),
        ([], ["a.q"], []),
    ],
)
def test_targets_are_exactly_the_chosen_modules(chosen, every, targets):
    assert target_modules(chosen, every) == targets


def test_a_bias_finds_its_name_once_its_module_is_known(tmp_path):
    writer = AdapterWriter(tmp_path)
    assert writer.add_whole("a.bias", torch.ones(6), matrix=True)  # before the module's factors
    assert writer.add_whole("b.bias", torch.ones(6), matrix=True)
    writer.add("a", *factors("a"))
    config = writer.finish(base="x", task_type=None, every_module=["a", "b"])
    header = (tmp_path / "adapter_model.safetensors").read_bytes()[:800]
    assert b'"base_model.model.a.base_layer.bias"' in header
    assert b'"base_model.model.b.bias"' in header
    assert config["bias"] == "all"


def test_what_is_neither_weight_nor_bias_finds_no_place(tmp_path):
    writer = AdapterWriter(tmp_path)
    assert not writer.add_whole("a.running_mean", torch.ones(6), matrix=False)
    assert writer.saved == []


def test_factors_can_be_read_before_the_end(tmp_path):
    writer = AdapterWriter(tmp_path, "bfloat16")
    left, right = factors("a")
    writer.add("a", left, right)
    assert torch.equal(writer.factors("a")[0], left.bfloat16().float())
    assert writer.parameters == left.numel() + right.numel()


def test_modules_are_called_as_peft_finds_them(tmp_path):
    writer = AdapterWriter(tmp_path)
    writer.add("lm.model.0.q", *factors("q"))
    writer.add("lm.model.1.q", *factors("q", 3))
    writer.add_whole("lm.model.0.q.bias", torch.ones(6), matrix=True)
    writer.add_whole("lm.model.norm.weight", torch.ones(4), matrix=False)
    names = {f"lm.{rest}": rest.replace("model", "model.lm") for rest in ("model.0.q", "model.1.q", "model.norm")}
    config = writer.finish(base="x", task_type=None, every_module=["model.lm.0", "model.lm.0.q"], names=names)
    assert config["target_modules"] == ["q"]
    assert config["rank_pattern"] == {"model.lm.1.q": 3}
    assert config["modules_to_save"] == ["model.lm.norm"]
    found = open_adapter(tmp_path, "mine")
    assert sorted(found.low_rank) == ["model.lm.0.q", "model.lm.1.q"]
    assert sorted(found.replaced) == ["model.lm.0.q.bias", "model.lm.norm.weight"]


# ---- what is told ----


def result(*energies: float, dropped=()) -> AdapterResult:
    modules = [ModuleReport(f"m{i}", 4, energy, "dense") for i, energy in enumerate(energies)]
    return AdapterResult(None, [], modules, dropped=list(dropped), warnings=["w"], parameters=3)


def test_a_module_of_which_little_is_kept_is_named_with_the_worst():
    assert notes(result(0.9, 1.0)) == []
    told = notes(result(0.79, 0.5, 0.95, dropped=[("x", 0.1), ("y", 2.0)]))
    assert told[0].startswith("2 of 3 modules keep less than 80 % of their energy, m1 keeps 50.0 %")
    assert told[1].startswith("2 tensors changed and cannot be in an adapter")
    assert "y (norm 2)" in told[1]


def test_variants_are_told_together():
    one = result(0.9)
    one.add(result(0.8, dropped=[("x", 1.0)]))
    assert ([m.energy for m in one.modules], one.parameters, one.warnings) == ([0.9, 0.8], 6, ["w"])


# ---- what lazy tensors offer ----


def test_a_tensor_with_something_added_tells_it_apart():
    base, shift = MemoryTensor("w", torch.zeros(6, 4).bfloat16()), MemoryTensor("w", torch.ones(6, 4).half())
    left, right = factors("a")
    adapter = Factors("w", 1.0, MemoryTensor("a", right), MemoryTensor("b", left))
    adapted, shifted = AdaptedTensor(base, adapter), ShiftedByFile(base, shift)
    for one in (adapted, shifted):
        assert isinstance(one, LazyTensor)
        assert isinstance(one, ChangedTensor)
        assert (one.dtype, one.stored_dtype) == ("float32", "bfloat16")
        assert torch.equal(one.difference(3, 9), one.flat(3, 9))  # on a base of zeros
        assert torch.equal(one.read().reshape(-1)[3:9], one.flat(3, 9))
    assert isinstance(adapted, KeepingTensor)
    assert not isinstance(shifted, KeepingTensor)
    assert not isinstance(base, ChangedTensor)
    assert not isinstance(ShiftedTensor(base, shift, 0.5), ChangedTensor)


def test_what_an_adapted_tensor_keeps_for_the_next_read_can_be_dropped():
    left, right = factors("a")
    adapter = Factors("w", 0.5, MemoryTensor("a", right), MemoryTensor("b", left))
    adapted = AdaptedTensor(MemoryTensor("w", torch.ones(6, 4)), adapter)
    before = adapted.read()
    adapted.release()
    assert torch.equal(adapted.read(), before)
    assert torch.allclose(before, 1 + 0.5 * (left @ right))
