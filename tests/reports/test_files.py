"""The files beside each other in a model's directory: which are read, which are carried, which are made."""

from __future__ import annotations

import json
import os
import shutil

import pytest
import torch

import chorus
from models import Family, copy_model, files_of, load_all
from sounds import BASE

BESIDE = (
    "tekken.json", "spk_dict.pt", "spiece.model", "source.spm", "target.spm", "qwen.tiktoken", "modeling_x.py",
    "alphabet.json", "language_model/5gram.bin", "additional_chat_templates/tool.jinja", "LICENSE", "NOTICE",
)  # fmt: skip


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


@pytest.mark.reported("side-files-in-no-list")
def test_files_that_are_in_no_list_go_with_the_model(tmp_path, qwen: Family, out):
    """Voxtral's only tokenizer, a wav2vec2's language model, an Omni's speakers, code, licences."""
    a = copy_model(qwen.base, tmp_path / "a", auto_map={"AutoModelForCausalLM": "modeling_x.X"})
    for name in BESIDE:
        (a / name).parent.mkdir(exist_ok=True)
        (a / name).write_text("{}" if name.endswith("json") else f"of {name}")
    (a / "optimizer.pt").write_text("x")
    plan = chorus.plan(linear(qwen.tuned[0], base_model=str(a), merge_method="task_arithmetic"))
    chorus.merge(plan, out)
    assert {name for name in files_of(out) if (a / name).exists()} >= set(BESIDE)
    assert all((out / name).read_bytes() == (a / name).read_bytes() for name in BESIDE)
    assert plan.beside.left == {"of a training": ["optimizer.pt"]}
    assert any("modeling_x.py" in w for w in plan.warnings)


@pytest.mark.reported("old-processor-form")
def test_the_new_processor_form_is_written_where_the_source_had_it(tmp_path, out):
    """transformers 4.46 to 4.55 pass what the new file holds to the processor twice, and fail."""
    old = shutil.copytree(BASE, tmp_path / "old")
    assert (old / "preprocessor_config.json").exists()
    assert not (old / "processor_config.json").exists()
    chorus.merge(linear(old), out)
    settings = json.loads((out / "preprocessor_config.json").read_text())
    assert not (out / "processor_config.json").exists()
    new = shutil.copytree(BASE, tmp_path / "new")
    os.remove(new / "preprocessor_config.json")
    nested = {"feature_extractor": settings, "processor_class": "WhisperProcessor"}
    (new / "processor_config.json").write_text(json.dumps(nested))
    chorus.merge(linear(new), tmp_path / "out-new")
    assert json.loads((tmp_path / "out-new" / "processor_config.json").read_text()) == nested
    made = json.loads((tmp_path / "out-new" / "preprocessor_config.json").read_text())
    assert made["feature_size"] == settings["feature_size"]
