"""chorus evaluate, compare and gate as sentences."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from chorus.cli.main import run
from chorus.data.manifest import read_manifest, write_manifest
from results import family, made_up
from sounds import BASE, MANIFEST


@pytest.fixture
def few(tmp_path: Path) -> Path:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker in ("theo", "george") and r.split == "test"]
    return write_manifest(rows[:100:8], tmp_path / "few.csv")


FAST = ["--window", "3", "--max-new-tokens", "12", "--device", "cpu"]


def test_evaluate_prints_rates_with_intervals_and_the_normaliser(few, tmp_path, capsys):
    out = tmp_path / "results"
    line = [
        "evaluate",
        str(BASE),
        "--data",
        str(few),
        "-o",
        str(out),
        *FAST,
        "--condition",
        "noise:5db",
        "--worst",
        "2",
    ]
    assert run(line) == 0
    told = capsys.readouterr()
    assert "normaliser marks" in told.out
    assert "by condition" in told.out
    assert "by domain" in told.out
    assert "REF:" in told.out
    assert "fewer than 20 speakers" in told.err
    assert run(["evaluate", str(out / "base"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["all"]["utterances"] == 13
    assert run(["evaluate", str(out / "base"), "--worst", "1"]) == 0
    assert "HYP:" in capsys.readouterr().out


def test_evaluate_a_recipe_under_a_name_of_ones_own(few, tmp_path, capsys):
    recipe = tmp_path / "soup.yml"
    recipe.write_text(f"merge_method: passthrough\nmodels: [{{model: {BASE}}}]\n")
    line = ["evaluate", f"mine={recipe}", "--data", f"here={few}", "-o", str(tmp_path / "r"), *FAST, "--limit", "4"]
    assert run(line) == 0
    assert (tmp_path / "r" / "mine" / "summary.json").exists()
    assert "mine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["MODEL"], 2, "no recordings"),
        (["MODEL", "--data", "nowhere.csv"], 4, "no such file"),
        (["MODEL", "--data", "FEW", "--condition", "nois:3db"], 2, 'did you mean "noise"'),
        (["MODEL", "--data", "FEW", "--normaliser", "englisch"], 2, 'did you mean "english"'),
        (["MODEL", "--data", "FEW", "--normalizer", "englisch"], 2, 'did you mean "english"'),
        (["MODEL", "--data", "FEW", "--task", "transcrib"], 2, 'did you mean "transcribe"'),
        (["MODEL", "--data", "FEW", "--device", "nonsense"], 2, 'unknown device "nonsense"'),
        (["MODEL", "--data", "FEW", "--device", "cuda:99"], 2, "device cuda:99: not there"),
        (["MODEL", "--data", "FEW", "--preset", "papr"], 2, 'did you mean "paper"'),
        (["MODEL", "--data", "FEW", "--backend", "whispercpp"], 2, "unknown backend"),
        (["MODEL", "--data", "FEW", "--where", "speaker"], 2, "COLUMN=VALUE"),
        (["MODEL", "--data", "FEW", "--where", "speaker=nobody"], 2, "asked for: speaker = nobody"),
        (["MODEL", "--data", "FEW", "--split", "nonsense"], 2, "asked for: split = nonsense"),
        (["MODEL", "--data", "FEW", "--normaliser", "raw", "--normalizer", "basic"], 2, "given twice: raw, basic"),
        (["MODEL", "--data", "FEW", "--task", "transcrbe"], 2, 'did you mean "transcribe"'),
        (["MODEL", "MODEL", "--data", "FEW"], 2, 'two models are called "base"'),
        (["MODEL", "--data", "FEW", "--only-conditions"], 2, "name one"),
        (["missing-model", "--data", "FEW"], 4, "missing-model"),
    ],
)
def test_evaluate_says_what_is_wrong(arguments, code, told, few, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [{"MODEL": str(BASE), "FEW": str(few)}.get(a, a) for a in arguments]
    assert run(["evaluate", *given, *([] if "--device" in given else ["--device", "cpu"])]) == code
    assert told in capsys.readouterr().err


def test_finished_evaluations_and_models_do_not_mix(few, tmp_path, capsys):
    made = made_up(tmp_path, "a", {"x": 1})
    assert run(["evaluate", str(made.directory), str(BASE), "--data", str(few)]) == 2
    assert "finished evaluation" in capsys.readouterr().err


def test_compare_prints_one_table_and_writes_every_form(tmp_path, capsys):
    results = [str(e.directory) for e in family(tmp_path)]
    out = [tmp_path / f"table{suffix}" for suffix in (".md", ".csv", ".tex", ".json")]
    line = ["compare", *results, "--plots", str(tmp_path / "plots")]
    assert run([*line, *(a for path in out for a in ("--out", str(path)))]) == 0
    told = capsys.readouterr().out
    for word in ("in-domain average", "other languages average", "recovery mean", "forgetting", "merged", "less"):
        assert word in told
    assert json.loads(out[3].read_text())["base"] == "base"
    assert all(path.stat().st_size > 300 for path in out)
    assert (tmp_path / "plots" / "trade.png").exists()
    for form, start in (("markdown", "**WER"), ("csv", "system,"), ("latex", r"\begin{table}"), ("json", "{")):
        assert run(["compare", *results, "--format", form]) == 0
        assert capsys.readouterr().out.startswith(start)
    assert run(["compare", *results, "--averages", "--by", "language"]) == 0


def test_compare_draws_rows_without_a_domain(tmp_path, capsys):
    results = [str(made_up(tmp_path, name, {"": errors}).directory) for name, errors in (("a", 1), ("b", 3))]
    assert run(["compare", *results, "--plots", str(tmp_path / "plots")]) == 0
    assert (tmp_path / "plots" / "by-domain.svg").exists()


def test_compare_refuses_what_cannot_be_compared(tmp_path, capsys):
    results = [str(made_up(tmp_path, n, {"x": 1}, each=c).directory) for n, c in (("a", 20), ("b", 19))]
    assert run(["compare", *results]) == 2
    assert "b lacks x/19" in capsys.readouterr().err
    assert run(["compare", *results, "--common"]) == 0
    assert run(["compare", *results, "--specialist", "a"]) == 2
    assert run(["compare", *results, "--out", "table.pdf"]) == 2
    assert run(["compare", str(tmp_path)]) == 2
    assert run(["compare", results[0], results[0]]) == 2
    capsys.readouterr()
    for more in (["--in-domain", "y"], ["--condition", "telephone"], ["--joint", "c"]):
        assert run(["compare", results[0], *more]) == 2, more
    assert run(["compare", results[0], "--normaliser", "raw", "--normalizer", "basic"]) == 2
    assert "--normaliser is given twice: raw, basic" in capsys.readouterr().err


def test_gate_leaves_with_1_where_something_does_not_hold(tmp_path, capsys):
    base, better = (made_up(tmp_path, n, {"x": c}) for n, c in (("base", 10), ("better", 4)))
    assert run(["gate", str(better.directory), "--max-wer", "12"]) == 0
    assert run(["gate", str(base.directory), "--max-wer", "12"]) == 1
    assert "FAIL WER: 25.00 (at most 12.00)" in capsys.readouterr().out
    regression = ["--max-regression", "0.5", "--against"]
    assert run(["gate", str(better.directory), *regression, str(base.directory)]) == 0
    assert run(["gate", str(base.directory), *regression, str(better.directory), "--json"]) == 1
    assert json.loads(capsys.readouterr().out.split("\n", 2)[2])["ok"] is False
    assert run(["gate", str(base.directory)]) == 2
    assert run(["gate", str(base.directory), "--max-regression", "1"]) == 2
    assert "go together" in capsys.readouterr().err
    assert run(["gate", str(base.directory), "--max-wer", "nan"]) == 2
    assert run(["gate", str(tmp_path / "nowhere"), "--max-wer", "1"]) == 2


def test_gate_tells_two_versions_of_one_name_apart(tmp_path, capsys):
    old, new = (made_up(tmp_path / place, "model", {"x": c}).directory for place, c in (("old", 4), ("new", 10)))
    assert run(["gate", str(new), "--against", str(old), "--max-regression", "1"]) == 1
    assert "regression of error rate against model (against), points: 15.00" in capsys.readouterr().out
    assert run(["gate", str(old), "--against", str(new), "--max-regression", "1"]) == 0


@pytest.mark.parametrize("flag", [("--normaliser", "raw"), ("--overwrite",), ("--window", "3"), ("--limit", "5")])
def test_a_flag_that_would_change_nothing_of_a_finished_evaluation_is_refused(flag, few, tmp_path, capsys):
    out = tmp_path / "results"
    assert run(["evaluate", str(BASE), "--data", str(few), "-o", str(out), *FAST, "-q"]) == 0
    capsys.readouterr()
    finished = str(out / "base")
    assert run(["evaluate", finished, *flag]) == 2
    told = capsys.readouterr().err
    assert f"{flag[0]} has no effect: {finished} is a finished evaluation" in told
    assert "--data again" in told
    assert run(["evaluate", finished, "--by", "speaker", "--worst", "1", "-q"]) == 0
