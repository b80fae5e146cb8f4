"""Where exports go: names, what is in the way there, and what is left when one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chorus
from adapters import make_adapters
from chorus.errors import CheckpointError, OutputError, UsageError
from sounds import BASE


@pytest.fixture
def shipped(tmp_path: Path) -> Path:
    """A folder with a file of whisper.cpp's in it, as its own `models/` has them."""
    folder = tmp_path / "models"
    folder.mkdir()
    chorus.export(BASE, folder, "ggml", types="q8_0")
    return folder


def test_a_file_s_name_keeps_neither_its_ending_nor_the_format_s_own_word(shipped):
    source = shipped / "ggml-base-q8_0.bin"
    (found,) = chorus.export(source, shipped, "ggml", types="q5_0", tokenizer=BASE).places.values()
    assert found.name == "ggml-base-q8_0-q5_0.bin"
    assert source.exists()  # in the same folder, which is no result that would be replaced


def test_a_file_is_not_written_over_what_it_is_made_from(shipped):
    source = shipped / "ggml-base-q8_0.bin"
    before = source.read_bytes()
    with pytest.raises(UsageError, match="is one of the inputs"):
        chorus.export(source, source, "ggml", types="f16", tokenizer=BASE, overwrite=True)
    assert source.read_bytes() == before


def test_a_sidecar_that_is_no_export_s_stays(shipped):
    sidecar = shipped / "ggml-base-q8_0.bin.json"
    assert json.loads(sidecar.read_text())["format"] == "ggml"
    chorus.export(BASE, shipped, "ggml", types="q8_0", overwrite=True)
    sidecar.write_text('{"notes": "mine"}')
    with pytest.raises(OutputError, match=r"ggml-base-q8_0.bin.json: no file of this format"):
        chorus.export(BASE, shipped, "ggml", types="q8_0", overwrite=True)
    assert sidecar.read_text() == '{"notes": "mine"}'


def test_nothing_is_left_of_an_export_that_fails(shipped, monkeypatch):
    from chorus.export.ggml import writer

    def fail(*args: object) -> None:
        raise CheckpointError("the disk is full", "make room")

    monkeypatch.setattr(writer, "_record", fail)
    before = sorted(path.name for path in shipped.iterdir())
    with pytest.raises(CheckpointError, match="the disk is full"):
        chorus.export(BASE, shipped, "ggml", types=["f16", "q4_0"])
    assert sorted(path.name for path in shipped.iterdir()) == before


def test_every_file_of_a_directory_stands_in_its_facts(tmp_path):
    chorus.export(BASE, tmp_path / "out", "ctranslate2")
    facts = json.loads((tmp_path / "out/chorus.json").read_text())
    there = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert set(facts["contents"]) == there - {"chorus.json"}


def test_two_that_write_one_file_do_not_meet(shipped):
    """The second is refused while the first writes: it would rename what is half written."""
    from chorus.export.output import appearing, new_file

    place = shipped / "new.bin"
    with appearing([place], lambda path: True, overwrite=False) as drafts, new_file(drafts[place]) as file:
        with pytest.raises(OutputError, match="another command is writing it"):
            chorus.export(BASE, place, "ggml")
        file.write(b"whole")
    assert place.read_bytes() == b"whole"


def test_what_a_killed_export_left_goes_and_a_folder_in_its_place_is_told(shipped):
    (shipped / "new.bin.partial").write_bytes(b"half")
    chorus.export(BASE, shipped / "new.bin", "ggml", types="q8_0")
    assert not (shipped / "new.bin.partial").exists()
    (shipped / "other.bin.partial").mkdir()
    with pytest.raises(OutputError, match=r"other.bin.partial: is in the way"):
        chorus.export(BASE, shipped / "other.bin", "ggml")


def test_an_adapter_beside_its_base_s_config_is_an_adapter(tmp_path):
    """As trainers leave it; and one that names no base says how to name it."""
    base, (adapter,) = make_adapters(tmp_path, "whisper", 1)
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**facts, "base_model_name_or_path": str(base)}))
    (adapter / "config.json").write_bytes((base / "config.json").read_bytes())
    chorus.export(adapter, tmp_path / "alone", "hf")
    chorus.export(f"{base}+{adapter}", tmp_path / "both", "hf")
    weights = "model.safetensors"
    assert (tmp_path / "alone" / weights).read_bytes() == (tmp_path / "both" / weights).read_bytes()
    (adapter / "adapter_config.json").write_text(json.dumps({**facts, "base_model_name_or_path": None}))
    with pytest.raises(CheckpointError, match="names no base") as caught:
        chorus.export(adapter, tmp_path / "again", "hf")
    assert "BASE+" in caught.value.hint
