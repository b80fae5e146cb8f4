"""Where exports go: names, what is in the way there, and what is left when one fails."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import chorus
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
