"""`chorus export` and `chorus merge --export`, as their users meet them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.cli.main import run
from sounds import BASE


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yml"
    path.write_text(f"merge_method: linear\nmodels:\n  - {{model: {BASE}, parameters: {{weight: 1}}}}\n")
    return path


def test_prints_the_files_and_notes_their_size_on_stderr(tmp_path, capsys):
    assert run(["export", str(BASE), "--to", "ggml", "--type", "f16,q5_0", "-o", str(tmp_path / "models")]) == 0
    shown = capsys.readouterr()
    assert shown.out.split() == [f"{tmp_path}/models/ggml-base.bin", f"{tmp_path}/models/ggml-base-q5_0.bin"]
    assert "11.6 MB written" in shown.err


def test_what_is_in_the_way_is_told_with_the_remedy(tmp_path, capsys):
    assert run(["export", str(BASE), "--to", "ggml", "--type", "q6_k", "-o", str(tmp_path / "x.bin")]) == 4
    told = capsys.readouterr().err
    assert "rows of 64 values are no whole blocks of 256" in told
    assert "--type q5_1" in told
    assert run(["export", str(BASE), "--to", "ggml", "--type", "q6k", "-o", str(tmp_path / "x.bin")]) == 2
    assert 'did you mean "q6_k"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_several_types_want_a_folder(tmp_path, capsys):
    place = tmp_path / "x.bin"
    place.write_bytes(b"")
    assert run(["export", str(BASE), "--to", "ggml", "--type", "f16,q8_0", "-o", str(place)]) == 2
    assert "name a folder" in capsys.readouterr().err


def test_the_sidecar_says_what_went_in_and_names_no_place(recipe, tmp_path):
    assert run(["export", str(recipe), "--to", "ggml", "-o", str(tmp_path / "x.bin"), "-q"]) == 0
    facts = json.loads((tmp_path / "x.bin.json").read_text())
    assert (facts["format"], facts["type"]) == ("ggml", "f16")
    assert facts["recipe"]["merge_method"] == "linear"
    assert facts["bytes"] == (tmp_path / "x.bin").stat().st_size
    assert "rows for f16" in facts["checks"]
    assert str(BASE.parent) not in json.dumps(facts)


def test_the_formats_are_listed_with_their_types(capsys):
    from chorus.export.registry import EXPORTERS

    assert run(["export", "--formats"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    rows = {words[0]: words for words in lines if words and words[0] in EXPORTERS}
    assert len(rows) == len(EXPORTERS) >= 6
    assert all(set(EXPORTERS.get(name).types) <= set(words) for name, words in rows.items())


def test_a_folder_that_is_not_there_yet_is_named_by_its_slash(tmp_path, capsys):
    assert run(["export", str(BASE), "--to", "ggml", "-o", f"{tmp_path}/new/models/", "-q"]) == 0
    assert capsys.readouterr().out.split() == [f"{tmp_path}/new/models/ggml-base.bin"]


def test_adapters_by_themselves_are_for_gguf(tmp_path, capsys):
    assert run(["export", str(BASE), "--to", "ggml", "--adapter", "-o", str(tmp_path / "x.bin")]) == 2
    assert "ggml has no adapters by themselves" in capsys.readouterr().err


def test_merge_exports_its_result(recipe, tmp_path, capsys):
    out = tmp_path / "merged"
    assert run(["merge", str(recipe), "-o", str(out), "--export", "ggml:q5_0,q8_0", "-q", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(place).name for place in told["exports"]] == ["ggml-merged-q5_0.bin", "ggml-merged-q8_0.bin"]
    assert run(["export", str(BASE), "--to", "ggml", "--type", "q5_0", "-o", str(tmp_path / "x.bin")]) == 0
    assert (out / "ggml-merged-q5_0.bin").read_bytes() == (tmp_path / "x.bin").read_bytes()


def test_an_export_that_cannot_be_is_told_before_the_merge(recipe, tmp_path, capsys):
    out = tmp_path / "merged"
    assert run(["merge", str(recipe), "-o", str(out), "--export", "ggml:q4_k"]) == 4
    assert "no whole blocks" in capsys.readouterr().err
    assert run(["merge", str(recipe), "-o", str(out), "--export", "ggml", "--as", "adapter"]) == 2
    assert "--export is for models" in capsys.readouterr().err
    assert not out.exists()
