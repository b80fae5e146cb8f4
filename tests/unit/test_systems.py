"""Systems: whatever the door opens, under labels that make folders, each known by its content."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import chorus
from chorus.checkpoints.lazy_tensor import Checkpoint, MemoryTensor
from chorus.errors import CheckpointError, UsageError
from chorus.transcribe.systems import folder_of, open_system, role_of, unique_labels
from models import Family, write_recipe
from sounds import BASE


def test_a_directory_loads_its_own_weights() -> None:
    system = open_system(str(BASE))
    assert (system.label, system.kind, system.tensors) == ("base", "model", None)
    assert system == open_system(BASE)
    assert open_system(BASE, label="mine").label == "mine"


def test_a_model_that_was_changed_in_memory_is_what_is_evaluated() -> None:
    model = chorus.open_model(BASE)
    name, tensor = next(iter(model.checkpoint.items()))
    changed = {**model.checkpoint, name: MemoryTensor(name, tensor.read() + 1)}
    system = open_system(replace(model, checkpoint=Checkpoint(changed, "changed")))
    assert system.tensors is not None
    assert not (system.tensors[name].read() == tensor.read()).any()


def test_a_merge_is_a_system_however_it_is_given(qwen: Family, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "mix.yml", qwen.recipe("ties", parameters={"density": 0.5}))
    planned = chorus.plan(path)
    systems = [open_system(source) for source in (path, str(path), planned, planned.model())]
    assert {s.label for s in systems} == {"mix"}
    assert {(s.kind, s.role, s.parameters["method"]) for s in systems} == {("merge", "merge", "ties")}
    assert len({s.identity for s in systems}) == 1
    other = write_recipe(tmp_path / "other.yml", qwen.recipe("ties", parameters={"density": 0.4}))
    assert open_system(other).identity != systems[0].identity


def test_an_output_is_named_behind_a_colon(qwen: Family, tmp_path: Path) -> None:
    outputs = {"outputs": [{"name": "a"}, {"name": "b", "parameters": {"density": 0.1}}]}
    path = write_recipe(tmp_path / "two.yml", qwen.recipe("ties", **outputs))
    first, second = open_system(f"{path}:a"), open_system(f"{path}:b")
    assert first.identity != second.identity
    assert first.label != second.label
    unique_labels([first, second])
    for source in (path, chorus.plan(path)):
        with pytest.raises(UsageError, match="several outputs: a, b"):
            open_system(source)
    with pytest.raises(UsageError, match='no output "c"'):
        open_system(f"{path}:c")


def test_identity_follows_content_not_place(qwen: Family, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(qwen.base, copy)
    assert open_system(copy).identity == open_system(qwen.base).identity
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "rope_theta": 1.0}))
    assert open_system(copy).identity != open_system(qwen.base).identity


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        open_system(str(tmp_path / "nowhere" / "model"))
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="names no base") as caught:
        open_system(tmp_path / "adapter")
    assert "BASE+" in caught.value.hint


def test_a_converted_directory_is_one_for_faster_whisper(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"weights")
    first = open_system(tmp_path)
    assert first.kind == "converted"
    (tmp_path / "model.bin").write_bytes(b"others")
    assert open_system(tmp_path).identity != first.identity


def test_what_a_model_was_trained_on_makes_its_role(tmp_path: Path) -> None:
    def trained(*sources: dict[str, object]) -> tuple[str, object]:
        facts = {"kind": "train", "config": {"data": {"train": [{"where": where} for where in sources]}}}
        (tmp_path / "chorus.json").write_text(json.dumps(facts))
        return role_of(tmp_path)

    assert role_of(tmp_path) == ("", {})
    assert trained({"speaker": "ana", "split": "train"}) == ("specialist", {"speaker": "ana"})
    assert trained({"speaker": ["ana", "rui"]}) == ("joint", {})
    assert trained({"split": "train"}) == ("joint", {})
    (tmp_path / "chorus.json").write_text(json.dumps({"recipe": {}}))
    assert role_of(tmp_path) == ("merge", {})


def test_labels_that_share_a_folder_are_refused() -> None:
    system = open_system(BASE)
    with pytest.raises(UsageError, match='two models are called "a/b"'):
        unique_labels([replace(system, label="a--b"), replace(system, label="a/b")])
    assert folder_of("../a b") == "--a_b"
