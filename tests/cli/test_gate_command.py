"""`chorus gate` on any metric of a task, and `chorus evaluate` of finished results of several tasks."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from chorus.cli.main import run
from chorus.errors import DataError, UsageError
from chorus.evaluate import describe
from chorus.evaluate.gate import gate
from chorus.evaluate.results import Evaluation
from chorus.tasks.scored import Answer
from results import counted, made_up

LABELS = ("up", "down")


def answered_with(
    place: Path, label: str, wrong: int, *, task: str = "langid", conditions: Sequence[str] = ("clean",)
) -> Evaluation:
    """Twenty rows of two domains, so many of them answered with the other label, and one with none."""
    rows: list[Answer] = []
    for condition in conditions:
        for i in range(20):
            right = LABELS[i % 2]
            said = "" if i == 19 else LABELS[1 - i % 2] if i < wrong else right
            rows.append({
                "name": f"{i}", "condition": condition, "reference": right, "hypothesis": said, "choices": [*LABELS],
                "domain": "car" if i < 8 else "home", "language": "en", "speaker": f"{i % 3}",
            })  # fmt: skip
    return counted(place, label, rows, task=task, conditions=conditions)


@pytest.fixture
def keywords(tmp_path: Path) -> str:
    """85 % are right, 95 % are labels."""
    return str(answered_with(tmp_path, "keywords", 2).directory)


def test_a_bound_is_the_least_of_what_is_better_high(keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", keywords, "--bound", "accuracy=85", "--bound", "recognised=95"]) == 0
    told = capsys.readouterr().out
    assert "ok   accuracy: 85.00 (at least 85.00)" in told
    assert "ok   recognised: 95.00 (at least 95.00)" in told
    assert run(["gate", keywords, "--bound", "accuracy=85.01", "--bound", "recognised=1"]) == 1
    told = capsys.readouterr().out
    assert "FAIL accuracy: 85.00 (at least 85.01)" in told
    assert "ok   recognised" in told


def test_a_bound_is_the_most_of_what_is_better_low(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = str(made_up(tmp_path, "texts", {"x": 10}).directory)
    assert run(["gate", texts, "--bound", "error_rate=25"]) == 0
    assert run(["gate", texts, "--bound", "error_rate=24.9"]) == 1
    assert "FAIL error rate: 25.00 (at most 24.90)" in capsys.readouterr().out
    assert run(["gate", texts, "--max-wer", "25", "--bound", "error_rate=25"]) == 0


def test_json_tells_each_bound_and_its_side(keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", keywords, "--bound", "macro_f1=99", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] is False
    assert [(c["what"], c["bound"], c["ok"]) for c in told["checks"]] == [
        ("failed decodes", "at most", True), ("macro F1", "at least", False),
    ]  # fmt: skip
    assert told["checks"][1]["limit"] == 99


def test_fails_with_an_unknown_metric_and_names_the_nearest(keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", keywords, "--bound", "acuracy=90"]) == 2
    told = capsys.readouterr().err
    assert 'task langid has no metric "acuracy"; did you mean "accuracy"?' in told
    assert "macro_f1" in told
    assert run(["gate", keywords, "--bound", "bleu=9"]) == 2
    assert 'task langid has no metric "bleu"' in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--max-wer", "--max-cer"])
def test_fails_with_an_error_rate_of_labels(flag: str, keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They were counted of texts that stand for labels, and a pipeline was green by them."""
    assert run(["gate", keywords, flag, "100", "--bound", "accuracy=1"]) == 2
    told = capsys.readouterr().err
    assert f"task langid has no {flag[-3:].upper()}" in told
    assert "--bound accuracy=" in told


@pytest.mark.parametrize("bound", ["accuracy", "accuracy=", "=90", "accuracy=nan", "accuracy=90%", "", "="])
def test_fails_with_what_is_no_bound(bound: str, keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", keywords, "--bound", bound]) == 2
    assert "write METRIC=VALUE, as in accuracy=90" in capsys.readouterr().err


def test_fails_with_a_metric_that_is_bounded_twice(keywords: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gate", keywords, "--bound", "accuracy=90", "--bound", "accuracy=10"]) == 2
    assert "--bound accuracy stands twice" in capsys.readouterr().err


def test_fails_with_a_metric_that_nothing_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No likelihoods, no EER: neither a pass nor a failure."""
    found = answered_with(tmp_path, "a", 1, task="kws")
    with pytest.raises(DataError, match="constrained accuracy is not defined"):
        gate(found, bounds={"constrained_accuracy": 0.0})
    assert run(["gate", str(found.directory), "--bound", "constrained_accuracy=0"]) == DataError.exit_code
    assert "not every runtime tells" in capsys.readouterr().err


def test_a_bound_is_of_the_clean_recordings(tmp_path: Path) -> None:
    found = answered_with(tmp_path, "a", 2, conditions=("clean", "telephone"))
    noisy = [{**row, "hypothesis": ""} if row["condition"] == "telephone" else row for row in found.rows]
    again = counted(tmp_path, "b", noisy, task="langid", conditions=("clean", "telephone"))  # type: ignore[arg-type]
    assert [check.value for check in gate(again, bounds={"accuracy": 50.0})[1:]] == [85.0]


@pytest.mark.parametrize("limit", [0.7, 700.0, -5.0])
def test_a_bound_that_is_no_percentage_is_refused(limit: float, tmp_path: Path) -> None:
    found = answered_with(tmp_path, "a", 1)
    with pytest.raises(UsageError, match="accuracy is told in percent"):
        gate(found, bounds={"accuracy": limit})


def test_a_regression_is_of_the_metric_that_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    better, worse = (
        str(answered_with(tmp_path, name, wrong).directory) for name, wrong in (("better", 0), ("worse", 6))
    )
    given = ["gate", worse, "--against", better, "--max-regression", "1", "--max-domain-regression", "2"]
    assert run(given) == 1
    told = capsys.readouterr().out
    # six of eight in the car are wrong, none of twelve at home
    assert "FAIL regression of accuracy against better, points of the mean of 2 domains: 37.50 (at most 1.00)" in told
    assert "FAIL regression of accuracy in the worst domain (car), points: 75.00 (at most 2.00)" in told
    # what is answered with no label at all are as many in both
    assert run([*given, "--metric", "recognised"]) == 0
    told = capsys.readouterr().out
    assert "ok   regression of recognised against better, points of the mean of 2 domains: 0.00 (at most 1.00)" in told
    assert "-0.00" not in told
    assert run([*given, "--metric", "recognised", "--json"]) == 0
    values = [check["value"] for check in json.loads(capsys.readouterr().out)["checks"]]
    assert all(math.copysign(1, value) == 1 for value in values), values


def test_a_metric_without_a_regression_or_without_a_name_is_refused(
    keywords: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["gate", keywords, "--bound", "accuracy=1", "--metric", "macro_f1"]) == 2
    assert "none is bounded" in capsys.readouterr().err
    assert run(["gate", keywords, "--against", keywords, "--max-regression", "1", "--metric", "acuracy"]) == 2
    assert 'did you mean "accuracy"?' in capsys.readouterr().err


# ---- finished evaluations of several tasks ----


def test_results_of_several_tasks_have_tables_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one table the labels had error rates of their texts, or the texts none, as the table chose."""
    both = ("clean", "telephone")
    labels = [answered_with(tmp_path, name, n, conditions=both) for name, n in (("a", 2), ("b", 4))]
    texts = made_up(tmp_path, "t", {"x": 3, "y": 1}, conditions=both)
    mixed = [labels[0], texts, labels[1]]
    assert describe.by_task(mixed) == [labels, [texts]]
    for order in (mixed, [texts, *labels]):
        assert run(["evaluate", *(str(one.directory) for one in order), "-q"]) == 0
        out = capsys.readouterr().out
        assert "langid, percent, 20 utterances" in out
        assert "accuracy by domain" in out
        assert "WER in percent, normaliser marks, 40 utterances" in out
        tables = out.split("\n\n")
        (rates,) = (one for one in tables if one.startswith("WER"))
        assert [line.split()[0] for line in rates.splitlines()[2:]] == ["t"]
        (conditions,) = (one for one in tables if one.startswith("by condition"))
        assert [line.split()[0] for line in conditions.splitlines()[2:]] == ["t"]
    assert run(["evaluate", *(str(one.directory) for one in mixed)]) == 0
    assert "chorus compare" not in capsys.readouterr().err, "they are not comparable"


def test_results_under_other_conditions_stand_in_one_table(tmp_path: Path) -> None:
    one, other = made_up(tmp_path, "one", {"x": 3}), made_up(tmp_path, "two", {"x": 4}, conditions=("noise:10db",))
    table = describe.condition_table([one, other])
    assert table is not None
    assert list(table.columns) == ["system", "clean", "noise:10db"]
    assert [row[1:].index("-") for row in table.rows] == [1, 0]
    answers = [answered_with(tmp_path, "l", 2), answered_with(tmp_path, "m", 4, conditions=("noise:10db", "clean"))]
    main = describe.main_table(answers)
    assert [row[1].split()[0] for row in main.rows] == ["85.00", "75.00"]
    assert describe.metrics_table(answers) is not None


def test_confusion_is_in_the_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    made = [answered_with(tmp_path, name, n) for name, n in (("a", 2), ("b", 4))]
    plots = tmp_path / "plots"
    names = [str(one.directory) for one in made]
    assert run(["evaluate", *names, "--json", "--confusion", str(plots)]) == 0
    told = json.loads(capsys.readouterr().out)
    found = told[1]["confusion"]
    assert (found["labels"], found["answers"]) == (["down", "up"], ["down", "up", "(none)"])
    assert found["counts"] == [[7, 2, 1], [2, 8, 0]]
    assert sorted(path.name for path in plots.iterdir())[::2] == ["confusion-a.png", "confusion-b.png"]
    assert run(["evaluate", *names, "--json"]) == 0
    assert all("confusion" not in one for one in json.loads(capsys.readouterr().out))


def test_fails_with_a_confusion_of_texts_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = made_up(tmp_path, "t", {"x": 3})
    for more in ([], ["--json"]):
        assert run(["evaluate", str(texts.directory), *more, "--confusion", str(tmp_path / "plots")]) == 2
        told = capsys.readouterr()
        assert "answers of the task asr are no labels" in told.err
        assert not told.out
    assert not (tmp_path / "plots").exists()
