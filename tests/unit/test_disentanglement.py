"""The disentanglement error, against sums that are written and evaluated by themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import chorus
from chorus.analyse.disentanglement import _failed, check_grid, distance
from chorus.analyse.evaluated import EvaluatedRows
from chorus.analyse.interference import cells_of
from chorus.analyse.overfitting import _Setting
from chorus.cli.main import run
from chorus.errors import UsageError
from chorus.plain import exact
from chorus.tasks.scored import Scored, score_texts
from digits import as_model, some_digits, spoilt_whisper
from models import load_all
from results import counted
from sounds import BASE

WORDS = st.lists(st.sampled_from(["one", "two", "three"]), max_size=5).map(" ".join)


def said(text: str) -> Scored:
    (row,) = score_texts([{"name": "x", "condition": "clean", "reference": "one", "hypothesis": text}], "marks")
    return row


@given(WORDS, WORDS)
def test_a_distance_of_texts_is_the_same_both_ways_and_at_most_1(one: str, other: str) -> None:
    found = distance(said(one), said(other), labels=False)
    assert found == pytest.approx(distance(said(other), said(one), labels=False))
    assert (found == 0) == (one == other)
    x, y = one.split(), other.split()
    table = [[i + j if not i * j else 0 for j in range(len(y) + 1)] for i in range(len(x) + 1)]
    for i in range(1, len(x) + 1):
        for j in range(1, len(y) + 1):
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, table[i - 1][j - 1] + (x[i - 1] != y[j - 1]))
    assert found == pytest.approx(table[-1][-1] / max(len(x), len(y), 1))


def test_of_labels_the_likeliest_counts_and_not_what_is_written() -> None:
    one = replace(said("one"), scores={"on": [-2.0, 1], "one": [-1.0, 1]})
    other = replace(said("on"), scores={"on": [-3.0, 1], "one": [-2.5, 1]})
    turned = replace(said("one"), scores={"on": [-0.5, 1], "one": [-2.5, 1]})
    assert distance(one, other, labels=True) == 0
    assert distance(one, turned, labels=True) == 1
    assert distance(said("one"), said("on"), labels=True) == 1, "without odds by what is written"


def test_the_error_is_that_of_the_written_sums(tmp_path: Path) -> None:
    models = {name: spoilt_whisper(tmp_path / name, 0.8, seed) for seed, name in enumerate("ab", 1)}
    manifest = some_digits(tmp_path / "digits.csv", ("theo", "george"), 8)
    rows = EvaluatedRows([str(manifest)], decoding={"window_s": [1], "max_new_tokens": 4})
    homes = {"a": ["theo"], "b": ["george"]}
    found = chorus.analyse_disentanglement(models, BASE, rows, weights=[1.0], specialists=homes)
    assert found.weights == [0.0, 1.0]
    base, a, b = (load_all(one) for one in (BASE, *models.values()))
    sums = {name: a[name].double() + b[name].double() - base[name].double() for name in base}
    as_model(tmp_path / "both", {name: value.to(base[name].dtype) for name, value in sums.items()})
    heard = {}
    for name, model in (("a", models["a"]), ("b", models["b"]), ("both", tmp_path / "both")):
        decoding = chorus.Decoding(window_s=(1,), max_new_tokens=4)
        made = chorus.evaluate(model, manifest, tmp_path / f"evaluated-{name}", decoding=decoding)
        heard[name] = {row.name: row for row in made.scored}
    for model, (home,) in homes.items():
        mine = {name: row for name, row in heard[model].items() if row.domain == home}
        wanted = [distance(row, heard["both"][name], labels=False) for name, row in mine.items()]
        assert len(wanted) == found.utterances[model] == 8
        assert found.parts[model][1][1] == pytest.approx(sum(wanted) / len(wanted))
    assert found.errors[1][1] == pytest.approx(found.parts["a"][1][1] + found.parts["b"][1][1])
    # alone each is itself, and what the other does where it is not added is not asked
    assert [found.parts["a"][1][0], found.parts["b"][0][1], found.errors[0][0]] == [0, 0, 0]
    assert found.errors[1][1] > 0, "noise on noise changes something"
    json.dumps(found.as_dict(), allow_nan=False)


def test_grids_that_are_none_are_refused() -> None:
    assert check_grid([1, 0.5, 1]) == [0.0, 0.5, 1.0]
    with pytest.raises(UsageError, match="no weight but 0"):
        check_grid([0.0])
    with pytest.raises(UsageError, match="weight inf"):
        check_grid([float("inf")])
    with pytest.raises(UsageError, match="disentanglement is of two"):
        chorus.analyse_disentanglement([BASE], BASE, ["none.csv"])


def test_the_command_prints_the_grid_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("jinja2")
    manifest = some_digits(tmp_path / "digits.csv", ("theo", "george"), 3)
    other = spoilt_whisper(tmp_path / "b", 0.5)
    given = [f"a={BASE}", f"b={other}", "--base", str(BASE), "--data", str(manifest), "--window", "1"]
    more = ["--max-new-tokens", "3", "--weights", "1", "--specialist", "a=theo", "--specialist", "b=george"]
    assert run(["analyse", "disentanglement", *given, *more, "-o", str(tmp_path / "out"), "-q"]) == 0
    assert "0: each answers as if it were alone" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.html").read_text().count("data:image/svg+xml") == 3


def test_sums_that_could_not_be_decoded_are_told(tmp_path: Path) -> None:
    """Silence is like silence: a distance of 0 between two that failed would look like no entanglement."""
    answer = {
        "name": "x", "condition": "clean", "domain": "radio", "seconds": 1.0, "speaker": "s", "language": "en",
        "reference": "one", "hypothesis": "",
    }  # fmt: skip
    base = counted(tmp_path, "base", [{**answer, "hypothesis": "one"}])
    both = counted(tmp_path, "both", [{**answer, "failed": "no finite odds"}])
    cells, _ = cells_of([base, both], "domain", "clean", "base", None, common=False)
    (told,) = _failed([*cells, *cells])
    assert told.endswith("both (1)")


def test_weights_that_lie_close_are_no_two_sums_under_one_name() -> None:
    assert len({exact(weight) for weight in (0.3, 0.30000001, 0.3000000000000001)}) == 3
    near = [_Setting(0, 1, weight).label(["a"]) for weight in (0.3, 0.30000001, 1.0, 1.0000001)]
    assert len(set(near)) == 4
