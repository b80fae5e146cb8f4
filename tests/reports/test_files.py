"""The files beside each other in a model's directory: which are read, which are carried, which are made."""

from __future__ import annotations

import shutil

import pytest
import torch

import chorus
from models import Family, load_all


def linear(*places, **keys):
    models = [{"model": str(place), "parameters": {"weight": 1.0}} for place in places]
    return {"merge_method": "linear", "models": models, **keys}


@pytest.mark.reported("stale-index")
@pytest.mark.parametrize("shards", [True, False], ids=["its shards too", "the index alone"])
def test_a_whole_file_goes_before_an_index_that_was_left_behind(tmp_path, qwen: Family, out, shards):
    """Saved in shards, then again as one file: transformers reads the new weights, and so must a merge."""
    old, new = qwen.tuned[1], qwen.tuned[0]
    assert len(list(old.glob("*.safetensors"))) > 1
    shutil.copytree(old, tmp_path / "m")
    for shard in [] if shards else (tmp_path / "m").glob("*.safetensors"):
        shard.unlink()
    shutil.copy(new / "model.safetensors", tmp_path / "m")
    plan = chorus.plan(linear(tmp_path / "m"))
    (warning,) = [w for w in plan.warnings if "index" in w]
    assert "model.safetensors is read, as transformers does" in warning
    chorus.merge(plan, out)
    expected, found = load_all(new), load_all(out)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
