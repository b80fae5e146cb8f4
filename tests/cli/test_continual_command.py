"""`chorus continual`, as its users meet it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from adapters import make_adapters
from calibrations import adapters_on
from chorus.cli.main import run
from chorus.data.manifest import write_manifest
from sounds import BASE, corpus


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    base, made = make_adapters(tmp_path_factory.mktemp("adapters"), "qwen2", 3)
    return str(base), [str(path) for path in made]


@pytest.fixture
def one(adapters, tmp_path):
    base, models = adapters
    assert run(["continual", base, f"radio={models[0]}", "-o", str(tmp_path / "one"), "-q"]) == 0
    return base, str(tmp_path / "one"), models


def test_it_says_where_it_is_and_what_is_in_it(one, out, capsys):
    base, state, models = one
    capsys.readouterr()
    assert run(["continual", state, f"phone={models[1]}", "-o", str(out), "--base", base]) == 0
    shown = capsys.readouterr()
    assert shown.out == f"{out}\n"
    assert "2 models in it: radio 0.5, phone 0.5" in shown.err
    assert "12 modules, rank " in shown.err
    told = json.loads((out / "chorus.json").read_text())["continual"]
    assert [s["model"] for s in told["stages"]] == ["radio", "phone"]


def test_json_is_one_document(one, out, capsys):
    base, state, models = one
    capsys.readouterr()
    flags = ["--base", base, "--json", "--method", "weighted", "--weight", "0.8", "--alpha", "1.25"]
    assert run(["continual", state, models[1], "-o", str(out), *flags]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["models"], found["directory"]) == (2, str(out))
    assert found["shares"] == pytest.approx({"radio": 1.0, "adapter-1": 0.25})
    assert found["continual"]["stages"][1]["method"] == "weighted"


def test_given_again_it_says_that_it_is_there(one, out, capsys):
    base, state, models = one
    line = ["continual", state, models[1], "-o", str(out), "--base", base]
    assert run(line) == 0
    capsys.readouterr()
    assert run(line) == 0
    assert "merged already" in capsys.readouterr().err
    assert run([*line, "--energy", "0.5"]) == 4
    assert "--overwrite" in capsys.readouterr().err
    assert run([*line, "--energy", "0.5", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--weight", "0.5"], ["weight is weighted's", "--method weighted"]),
        (["--method", "weighted"], ["no weight, and no dev rows", "--weight", "--dev"]),
        (["--method", "weighted", "--weight", "0.1", "--weight", "0.2"], ["2 weights", "--dev"]),
        (["--dev", "rows.csv"], ["dev rows choose a weight", "--method weighted"]),
        (["--method", "opcm"], ["norm of each", "--method fta"]),
        (["--energy", "2"], ["energy", "less than or equal to 1"]),
        (["--method", "mean"], ["'fta', 'weighted', 'opcm'"]),
        (["--count", "2"], ["says itself what is in it", "leave --count out"]),
        (["--test", "no.csv"], ["no.csv", "no such file"]),
        (["--task", "nonsense"], ["unknown task", "nonsense"]),
        (["--language", "klingon"], ["unknown language", "klingon"]),
        (["--normaliser", "none"], ["none"]),
    ],
    ids=lambda x: " ".join(x),
)
def test_what_makes_no_sense_is_refused_with_a_remedy(one, out, capsys, flags, words, monkeypatch, tmp_path):
    base, state, models = one
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(["continual", state, models[1], "-o", str(out), "--base", base, *flags]) in (2, 4)
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert not out.exists()


@pytest.mark.parametrize(
    ("columns", "flags", "words"),
    [
        ("path,keyword", [], ["no column text, which the task asr needs", "--task"]),
        ("path,keyword", ["--task", "st"], ["no column text, which the task st needs", "call it text"]),
        ("sound,keyword", ["--task", "kws"], ["no column path, which the task kws needs", "call it path"]),
    ],
)
def test_fails_with_a_manifest_of_keywords_and_names_what_there_is(one, out, capsys, tmp_path, columns, flags, words):
    base, state, models = one
    (tmp_path / "kw.csv").write_text(f"{columns}\na.wav,on\n")
    line = ["continual", state, models[1], "-o", str(out), "--base", base, "--test", f"a={tmp_path / 'kw.csv'}"]
    assert run([*line, *flags]) == 4
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert "--columns" not in shown


def test_fails_with_a_state_of_no_provenance_and_says_what_to_add(adapters, out, capsys):
    base, models = adapters
    assert run(["continual", models[0], models[1], "-o", str(out), "--base", base]) == 2
    shown = capsys.readouterr().err
    assert "adapter-0 does not say how many models are in it" in shown
    assert "hint: say it: --count N" in shown
    assert run(["continual", models[0], models[1], "-o", str(out), "--base", base, "--count", "1"]) == 0


def test_fails_with_an_adapter_whose_base_is_elsewhere_and_names_the_flag(one, out, capsys, tmp_path, monkeypatch):
    _, state, models = one
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert run(["continual", state, models[1], "-o", str(out), "--offline"]) == 4
    shown = capsys.readouterr().err
    assert "org/base" in shown
    assert "--base DIR" in shown


def test_the_tables_show_what_is_recovered_and_forgotten(tmp_path, capsys):
    models = adapters_on(BASE, "whisper", tmp_path, 2)
    _, rows = corpus(tmp_path / "speech", 6)
    test = write_manifest([replace(r, split="test") for r in rows], tmp_path / "speech" / "test.csv")
    flags = ["--window", "1", "--max-new-tokens", "8", "--language", "en", "--device", "cpu", "--test", f"a={test}"]
    assert run(["continual", str(BASE), f"a={models[0]}", "-o", str(tmp_path / "one"), *flags, "-q"]) == 0
    line = ["continual", str(tmp_path / "one"), f"b={models[1]}", "-o", str(tmp_path / "two"), "--base", str(BASE)]
    capsys.readouterr()
    assert run([*line, *flags]) == 0
    shown = capsys.readouterr().out
    assert "After 2 models" in shown
    for word in ("recovery", "best before", "forgetting", "Stages", "error rate", "below zero is lost"):
        assert word in shown
    assert shown.splitlines()[-1] == str(tmp_path / "two")
    (row,) = [text.split() for text in shown.splitlines() if text.startswith("a ")]
    told = json.loads((tmp_path / "two" / "chorus.json").read_text())["continual"]
    before, now = (stage["figures"]["a"]["value"] for stage in told["stages"])
    assert float(row[-1]) == pytest.approx(before - now, abs=0.01)


def test_what_dev_chose_is_a_table(tmp_path, capsys):
    models = adapters_on(BASE, "whisper", tmp_path, 2)
    dev, _ = corpus(tmp_path / "speech", 6)
    assert run(["continual", str(BASE), f"a={models[0]}", "-o", str(tmp_path / "one"), "-q"]) == 0
    line = ["continual", str(tmp_path / "one"), f"b={models[1]}", "-o", str(tmp_path / "two"), "--base", str(BASE)]
    line += ["--window", "1", "--max-new-tokens", "8", "--language", "en", "--device", "cpu", "--method", "weighted"]
    capsys.readouterr()
    assert run([*line, "--weight", "0.25", "--weight", "0.75", "--dev", f"words={dev}"]) == 0
    shown = capsys.readouterr()
    lines = [text.split() for text in shown.out.splitlines()]
    assert ["earlier", "merge", "words"] in lines
    assert [text[0] for text in lines if text and text[0] in ("0.25", "0.75")] == ["0.25", "0.75"]
    (chosen,) = [text[1] for text in lines if text[:1] == ["chosen:"]]
    assert f"the earlier merge counts {chosen}, chosen on words" in shown.err
    told = json.loads((tmp_path / "two" / "chorus.json").read_text())["continual"]["stages"][1]
    assert told["state_weight"] == float(chosen)
    # given again, dev is not decoded anew
    assert run([*line, "--weight", "0.25", "--weight", "0.75", "--dev", f"words={dev}"]) == 0
    again = capsys.readouterr().err
    assert "merged already" in again
    assert "share" not in again
