"""`chorus analyse`, as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.cli.main import run
from models import Family, files_of, write_recipe
from results import family
from sounds import BASE, corpus


def test_weights_prints_tables_and_writes_a_page(
    qwen: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("jinja2")
    recipe = write_recipe(tmp_path / "m.yml", qwen.recipe("linear", 2))
    given = [f"radio={qwen.tuned[0]}", str(qwen.tuned[1]), str(recipe), "--base", str(qwen.base)]
    assert run(["analyse", "weights", *given, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    for words in ("What each has changed in base", "radio | tuned-1", "m (merge)", "By layer", "language_model 0"):
        assert words in shown.out
    assert f"page: {tmp_path / 'out' / 'report.html'}" in shown.err
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"weights.json", "report.html", "plots", "chorus.json"}
    before = files_of(tmp_path / "out")
    assert run(["analyse", "weights", *given, "-o", str(tmp_path / "out"), "-q"]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert files_of(tmp_path / "out") == before
    assert run(["analyse", "weights", *given, "-o", str(tmp_path / "out"), "-q", "--overwrite"]) == 0


def test_weights_prints_json_of_a_part(qwen: Family, capsys: pytest.CaptureFixture[str]) -> None:
    given = [*map(str, qwen.tuned[:2]), "--base", str(qwen.base), "--include", "mlp", "--no-spectra", "--json", "-q"]
    assert run(["analyse", "weights", *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["models"]) == ("weights", ["tuned-0", "tuned-1"])
    assert {tensor["kind"] for tensor in told["tensors"]} == {"mlp"}


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--density", "2"], "density must lie above 0"),
        (["--encoder-only", "--decoder-only"], "exclude each other"),
        (["--include", "("], "not a regular expression"),
        (["--merge", "no/such/recipe.yml"], "no/such/recipe.yml"),
        (["--jobs", "0"], "0"),
    ],
)
def test_what_makes_no_sense_is_told(
    qwen: Family, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    assert run(["analyse", "weights", str(qwen.tuned[0]), "--base", str(qwen.base), *flags]) != 0
    shown = capsys.readouterr()
    assert words in shown.err
    assert not shown.out


def test_an_output_that_is_an_input_is_refused(qwen: Family, capsys: pytest.CaptureFixture[str]) -> None:
    before = files_of(qwen.tuned[0])
    given = ["analyse", "weights", str(qwen.tuned[0]), "--base", str(qwen.base), "--no-spectra"]
    assert run([*given, "-o", str(qwen.tuned[0]), "--overwrite"]) == 2
    assert "is one of the inputs" in capsys.readouterr().err
    assert files_of(qwen.tuned[0]) == before


def test_two_models_of_one_name_are_refused(qwen: Family, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"a={qwen.tuned[0]}", f"a={qwen.tuned[1]}", "--base", str(qwen.base)]
    assert run(["analyse", "weights", *given]) == 2
    assert 'two models are called "a"' in capsys.readouterr().err


def test_interference_prints_the_matrix_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    places = [str(one.directory) for one in family(tmp_path / "evaluations")]
    assert run(["analyse", "interference", *places, "-o", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr()
    for words in ("radio    40.0  +30.0 [", "What goes out", "What comes in", "ratio of sums", "yes*"):
        assert words in shown.out
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "interference.json", "report.html", "plots", "chorus.json"
    }  # fmt: skip
    assert run(["analyse", "interference", *places, "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads((tmp_path / "out" / "interference.json").read_text())
    assert told["effects"]["radio"]["phone"]["points"] == pytest.approx(-5.0)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--specialist", "radio"], "write LABEL=ROW"),
        (["--specialist", "radio=nowhere"], 'no row is called "nowhere"'),
        (["--base", "nobody"], 'no result is called "nobody"'),
    ],
)
def test_interference_tells_what_makes_no_sense(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], words: str
) -> None:
    places = [str(one.directory) for one in family(tmp_path)]
    assert run(["analyse", "interference", *places, *flags]) == 2
    assert words in capsys.readouterr().err


def test_a_model_is_no_evaluation(qwen: Family, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["analyse", "interference", str(qwen.base)]) != 0
    assert "no evaluation" in capsys.readouterr().err


def test_path_and_cka_print_tables_and_write_pages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    manifest, _ = corpus(tmp_path / "tones", 6)
    given = [f"same={BASE}", "--base", str(BASE), "--data", f"tones={manifest}", "--window", "1", "--split", "all"]
    assert run(["analyse", "path", *given, "--points", "2", "-o", str(tmp_path / "path"), "-q"]) == 0
    shown = capsys.readouterr().out
    assert "base to same" in shown
    assert "none" in shown
    assert (tmp_path / "path" / "path.json").exists()
    assert run(["analyse", "cka", *given, "--limit", "4", "--json", "-q"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["utterances"] == 4
    assert all(layer["difference"] == [[0.0, 0.0], [0.0, 0.0]] for layer in told["layers"])
    assert run(["analyse", "path", *given, "--until", "0.2"]) == 2
    assert "--until 1.5" in capsys.readouterr().err


def test_overfitting_prints_a_grid_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    manifest, _ = corpus(tmp_path / "tones", 6)
    given = [f"same={BASE}", "--base", str(BASE), "--data", str(manifest), "--window", "1", "--max-new-tokens", "3"]
    grid = ["--ranks", "2", "--weights", "1", "--specialist", "same=d0", "--evaluations", str(tmp_path / "kept")]
    assert run(["analyse", "overfitting", *given, *grid, "-o", str(tmp_path / "out"), "-q"]) == 0
    shown = capsys.readouterr().out
    for words in ("same: at home in d0", "in-task D", "whole", "keeps all of it"):
        assert words in shown
    assert (tmp_path / "out" / "overfitting.json").exists()
    assert len(list((tmp_path / "kept" / "asr").iterdir())) == 2, "the base and the model, each once"
    assert run(["analyse", "overfitting", *given, "-q"]) == 2
    assert "--specialist same=ROW" in capsys.readouterr().err
    assert run(["analyse", "overfitting", *given, "--ranks", "2,x"]) == 2
    assert "--ranks 1,4" in capsys.readouterr().err
