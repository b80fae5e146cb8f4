"""Directories as trainers and caches leave them: what they are, and where the right thing lies."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

import chorus
from chorus.cli.main import run
from chorus.errors import CheckpointError, ChorusError
from models import Family, copy_model, write_recipe

pytestmark = pytest.mark.reported("directories-as-left")
ADAPTER = json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/base"})
Make = Callable[[Path, Path], None]


def _file(path: Path, text: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _pointer(place: Path, base: Path) -> None:
    copy_model(base, place)
    _file(place / "model.safetensors", "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 988097824\n")


def _cache(place: Path, base: Path) -> None:
    shutil.copytree(base, place / "snapshots" / "abc")


def _run(place: Path, base: Path) -> None:
    for step in (100, 2000, 300):
        shutil.copytree(base, place / f"checkpoint-{step}")


def _adapter_run(place: Path, base: Path) -> None:
    _file(place / "checkpoint-500" / "adapter_config.json", ADAPTER)


def _beside_base(place: Path, base: Path) -> None:
    """An adapter beside the base's config."""
    _file(place / "adapter_config.json", ADAPTER)
    save_file({}, place / "adapter_model.safetensors")
    shutil.copy(base / "config.json", place)


def _deepspeed(place: Path, base: Path) -> None:
    _file(place / "global_step10" / "mp_rank_00_model_states.pt")
    shutil.copy(base / "config.json", place)


def _step(place: Path, base: Path) -> None:
    _file(place / "zero_pp_rank_0_mp_rank_00_optim_states.pt")


def _fsdp(place: Path, base: Path) -> None:
    _file(place / "__0_0.distcp")


def _gguf(place: Path, base: Path) -> None:
    _file(place / "model-q4.gguf")


def _incomplete(place: Path, base: Path) -> None:
    _file(place / "config.json", (base / "config.json").read_text())
    _file(place / ".cache" / "huggingface" / "download" / "model.safetensors.abc.incomplete")


def _shards(place: Path, base: Path) -> None:
    _file(place / "config.json", (base / "config.json").read_text())
    for number in (1, 2):
        shutil.copy(base / "model.safetensors", place / f"model-0000{number}-of-00002.safetensors")


def _one_shard(place: Path, base: Path) -> None:
    _file(place / "config.json", (base / "config.json").read_text())
    shutil.copy(base / "model.safetensors", place / "model-00001-of-00002.safetensors")


# the directory's name -> how it comes about, and what must be said of it
LEFT: dict[str, tuple[Make, tuple[str, ...]]] = {
    "lfs": (_pointer, ("a Git LFS pointer", "git lfs pull")),
    "models--org--m": (_cache, ("the hub's cache", "name org/m", "snapshots/abc")),
    "run": (_run, ("did you mean", "checkpoint-2000?", "2 more")),
    "adapters": (_adapter_run, ("an adapter lies inside", "checkpoint-500")),
    "beside": (_beside_base, ("an adapter, not a model", "org/base+")),
    "deepspeed": (_deepspeed, ("a DeepSpeed checkpoint", "zero_to_fp32.py")),
    "global_step7": (_step, ("zero_to_fp32.py",)),
    "fsdp": (_fsdp, ("an FSDP checkpoint", "accelerate merge-weights")),
    "incomplete": (_incomplete, ("a download that did not end",)),
    "shards": (_shards, ("not a model", "model.safetensors.index.json is missing")),
    "shard": (_one_shard, ("not a model", "model.safetensors.index.json is missing")),
    "gguf": (_gguf, ("model-q4.gguf", "name that model")),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_it_is_and_where_the_model_lies(qwen: Family, tmp_path, capsys, name):
    make, words = LEFT[name]
    make(tmp_path / name, qwen.base)
    models = [{"model": str(place), "parameters": {"weight": 1.0}} for place in (qwen.base, tmp_path / name)]
    path = write_recipe(tmp_path / "r.yml", {"merge_method": "linear", "models": models})
    for command in (["plan", str(path)], ["merge", str(path), "-o", str(tmp_path / "out")]):
        assert run(command) in (2, 4)
        told = capsys.readouterr().err
        for word in words:
            assert word in told
        assert "bytes; the limit" not in told
    assert not (tmp_path / "out").exists()


def test_an_adapter_s_directory_that_lies_deeper_is_named(qwen: Family, tmp_path, capsys):
    _file(tmp_path / "checkpoint-9" / "adapter_model" / "adapter_config.json", ADAPTER)
    assert run(["apply", str(qwen.base), str(tmp_path / "checkpoint-9"), "-o", str(tmp_path / "out")]) in (2, 4)
    told = capsys.readouterr().err
    assert f"did you mean {tmp_path}/checkpoint-9/adapter_model?" in told
    assert told.startswith("error: apply: ")


@pytest.mark.parametrize("name", ["my modelz/fine tune", "my models/fine tuen"])
def test_a_mistyped_path_is_no_hub_id_and_the_nearest_is_named(name, tmp_path, monkeypatch):
    (tmp_path / "my models" / "fine tune").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        chorus.open_model(name)
    assert caught.value.message.startswith(f"{name}: no such file or directory; did you mean my models")
    assert "org/name" in caught.value.hint


def test_one_output_cannot_be_merged_alone(qwen: Family, tmp_path, capsys):
    outputs = [{"name": "a"}, {"name": "b"}]
    path = write_recipe(tmp_path / "r.yml", qwen.recipe("linear", 2, base=False, outputs=outputs))
    assert run(["plan", f"{path}:a"]) == 2
    assert "merged in one pass" in capsys.readouterr().err


def test_an_extraction_says_which_flags_keep_what_it_drops(whisper: Family, tmp_path):
    found = chorus.extract_lora(whisper.tuned[0], whisper.base, tmp_path / "a", ranks=chorus.RankRule(max_rank=1))
    assert found.warnings[-1] == (
        "an adapter can hold embeddings and heads with --embeddings, norms and biases with --save-full vectors"
    )
    with pytest.raises(ChorusError, match="is not empty"):
        chorus.extract_lora(whisper.tuned[0], whisper.base, tmp_path / "a")
