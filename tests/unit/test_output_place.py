"""An output is never one of the inputs, nor around one, by whatever name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import chorus
from adapters import make_adapters
from chorus.checkpoints.output_place import place_of, refuse_input
from chorus.checkpoints.writer import PartialDirectory
from chorus.errors import UsageError
from models import Family, copy_model, files_of

REPLACE = chorus.Options(overwrite=True)


def refused(output: Path, *inputs: Path) -> str:
    with pytest.raises(UsageError) as error:
        refuse_input(output, inputs)
    return error.value.message


def test_an_input_is_refused_under_every_name_that_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "runs" / "model"
    model.mkdir(parents=True)
    link, folder = tmp_path / "link", tmp_path / "folder"
    link.symlink_to(model)
    folder.symlink_to(tmp_path / "runs")
    monkeypatch.chdir(model)
    for name in (model, link, folder / "model", Path("."), Path("../model"), model / "weights" / ".."):
        assert "is one of the inputs" in refused(name, model)
    assert "is one of the inputs" in refused(model, link)
    assert "holds an input" in refused(tmp_path, model)
    assert "holds an input" in refused(folder, model)
    # a link in the output's folder goes with it, wherever it leads
    assert "holds an input" in refused(tmp_path / "runs", model)


def test_what_the_writer_clears_beside_the_output_is_no_input_either(tmp_path: Path) -> None:
    for ending in (".partial", ".replaced"):
        beside = tmp_path / f"out{ending}"
        beside.mkdir()
        assert beside.name in refused(tmp_path / "out", beside / "model.safetensors")


def test_places_beside_and_below_an_input_are_free(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    refuse_input(model / "merged", [model])
    refuse_input(tmp_path / "model-2", [model])
    refuse_input(tmp_path / "new", [tmp_path / "gone"])


def test_where_no_result_can_be_is_told_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name, told in {
        ".": "working directory", "/": "working directory", "..": "working directory", "~nul\0": "no name of",
        str(Path.home()): "your home", "../file/below": "Not a directory", "../loop": "symbolic links",
        "n" * 300: "too long", "n" * 250: "too long", "/".join(["n" * 200] * 30): "too long",
    }.items():  # fmt: skip
        with pytest.raises(UsageError, match=told):
            place_of(Path(name))
    for name in ("new", "../new/deep", "n" * 240, "../beside"):
        assert place_of(Path(name)) == Path(name)


def test_a_home_is_no_place_under_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "disk" / "anna").mkdir(parents=True)
    (tmp_path / "homes").symlink_to("disk")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "homes" / "anna"))
    for name in ("homes/anna", "disk/anna", "disk"):
        with pytest.raises(UsageError, match="your home"):
            place_of(tmp_path / name)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # as for a user without a home
    assert place_of(tmp_path / "disk" / "anna") == tmp_path / "disk" / "anna"


def test_a_link_to_a_directory_is_that_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "chorus.json").write_text("{}")
    (tmp_path / "link").symlink_to("real")
    partial = PartialDirectory(tmp_path / "link", resume=False, overwrite=True)
    (partial.path / "new").write_text("new")
    partial.finish(())
    assert os.listdir(tmp_path / "link") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_no_command_replaces_what_it_reads(tmp_path: Path) -> None:
    base, (adapter,) = make_adapters(tmp_path, "qwen2", 1)
    tuned = copy_model(base, tmp_path / "tuned")
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": [
        {"model": str(tuned), "parameters": {"weight": 1.0}},
        {"model": str(base), "lora": str(adapter), "parameters": {"weight": 1.0}},
    ]}  # fmt: skip
    before = files_of(tmp_path)
    for output in (base, tuned, adapter, tmp_path):
        for act in (
            lambda out: chorus.merge(recipe, out, REPLACE),
            lambda out: chorus.merge_into_adapter(recipe, out, REPLACE, ranks=chorus.RankRule(max_rank=2)),
            # a plan that goes into another merge: what it reads is read there
            lambda out: chorus.apply(chorus.plan(recipe), adapter, out, REPLACE),
        ):
            with pytest.raises(UsageError, match="input"):
                act(output)
    for output in (base, tuned):
        for extract in (chorus.extract_lora, chorus.extract_task_vector):
            with pytest.raises(UsageError, match="is one of the inputs"):
                extract(tuned, base, output, overwrite=True)
    assert files_of(tmp_path) == before


def test_a_recipe_in_the_output_is_an_input(qwen: Family, tmp_path: Path) -> None:
    recipe = tmp_path / "out" / "recipe.yml"
    recipe.parent.mkdir()
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {qwen.base}}}]\n")
    with pytest.raises(UsageError, match="holds an input"):
        chorus.merge(recipe, recipe.parent, REPLACE)
    assert os.listdir(recipe.parent) == ["recipe.yml"]
