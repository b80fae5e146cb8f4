"""A device that is unknown or not there: the same message, hint and exit code, whatever the command."""

from __future__ import annotations

import json

import pytest
import torch

from chorus.cli.main import run
from chorus.data.manifest import read_manifest, write_manifest
from models import write_recipe
from sounds import BASE, MANIFEST


@pytest.fixture
def lines(qwen, tmp_path):
    few = write_manifest([r for r in read_manifest(MANIFEST).rows if r.split == "test"][:2], tmp_path / "few.csv")
    recipe = write_recipe(
        tmp_path / "recipe.yml", {"merge_method": "passthrough", "models": [{"model": str(qwen.base)}]}
    )
    train = [f"model.base={BASE}", f"data.train={few}", f"output={tmp_path / 'tuned'}", "data.dev=null"]
    return {
        "merge": ["merge", str(recipe), "-o", str(tmp_path / "merged")],
        "evaluate": ["evaluate", str(BASE), "--data", str(few), "-o", str(tmp_path / "results")],
        "train": ["train", "--task", "asr", *train],
    }


@pytest.mark.parametrize("command", ["merge", "evaluate", "train"])
@pytest.mark.parametrize("device", ["nonsense", "cuda:x", "cuda:93"])
def test_exits_2_and_says_what_to_do(lines, command, device, capsys):
    assert run([*lines[command], "--device", device]) == 2
    told = capsys.readouterr().err
    assert "device" in told
    assert device in told
    assert "hint: " in told
    assert "Traceback" not in told


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("command", ["merge", "evaluate", "train"])
def test_a_gpu_where_there_is_none(lines, command, capsys):
    assert run([*lines[command], "--device", "cuda"]) == 2
    assert "chorus doctor" in capsys.readouterr().err


def test_a_merge_on_the_best_device_says_which_it_was(lines, tmp_path, capsys):
    assert run([*lines["merge"], "--device", "auto"]) == 0
    made = json.loads((tmp_path / "merged" / "chorus.json").read_text())
    assert made["resolved"]["device"] == ("cuda" if torch.cuda.is_available() else "cpu")
