"""An evaluation in tables for people: groups, conditions, metrics, the worst utterances; the cache of conversions."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from chorus import cache
from chorus.evaluate import describe
from chorus.evaluate.facts import Measures
from chorus.evaluate.results import Evaluation
from chorus.transcribe.backends.converting import bound, in_cache
from results import made_up


@pytest.fixture
def two(tmp_path: Path) -> list[Evaluation]:
    conditions = ("clean", "telephone")
    return [
        made_up(tmp_path, label, {"radio": n, "phone": 2}, conditions=conditions) for label, n in (("a", 4), ("b", 8))
    ]


def test_the_main_table_has_a_line_a_system_and_names_the_normaliser(two: list[Evaluation]) -> None:
    table = describe.main_table(two)
    assert "WER in percent, normaliser marks, 40 utterances" in table.title
    assert [row[0] for row in table.rows] == ["a", "b"]
    rate, edits = table.rows[0][1], table.rows[0][6:9]
    assert rate.startswith("7.50 [")
    assert edits == ["6", "0", "0"]
    assert table.rows[0][-1] == "2.0", "half as long as the audio"


def test_each_line_names_its_runtime_where_they_differ_and_the_title_none(two: list[Evaluation]) -> None:
    same = describe.main_table(two)
    assert same.title.endswith(", transformers, beam 1")
    assert "decoded by" not in same.columns
    other = replace(two[1], summary={**two[1].summary, "backend": "whisper.cpp"})
    table = describe.main_table([two[0], other])
    assert "transformers" not in table.title
    at = list(table.columns).index("decoded by")
    assert [row[at] for row in table.rows] == ["transformers, beam 1", "whisper.cpp, beam 1"]
    assert all(len(row) == len(table.columns) for row in table.rows)
    assert table.rows[0][2].startswith("7.50 [")


def test_groups_end_with_their_unweighted_mean(two: list[Evaluation]) -> None:
    table = describe.group_table(two, "domain")
    assert table is not None
    assert list(table.columns) == ["system", "radio", "phone", "macro average"]
    assert [cell.split(" ")[0] for cell in table.rows[1]] == ["b", "20.00", "5.00", "12.50"]
    assert describe.group_table(two, "language") is None, "one language tells nothing apart"


def test_conditions_are_columns_where_there_are_several(two: list[Evaluation], tmp_path: Path) -> None:
    table = describe.condition_table(two)
    assert table is not None
    assert list(table.columns) == ["system", "clean", "telephone"]
    assert describe.condition_table([made_up(tmp_path, "c", {"x": 1})]) is None


def test_metrics_of_a_task_have_a_table_with_signatures(two: list[Evaluation], tmp_path: Path) -> None:
    assert describe.metrics_table(two) is None
    table = describe.metrics_table([made_up(tmp_path, "t", {"x": 3}, task="st", words=6)])
    assert table is not None
    assert list(table.columns) == ["system", "condition", "BLEU", "chrF"]
    assert [note.split(":")[0] for note in table.notes] == ["BLEU", "chrF"]
    assert " [" in table.rows[0][2]
    mixed = describe.metrics_table([made_up(tmp_path, "u", {"x": 3}, task="st", words=6), *two])
    assert mixed is not None
    assert [row[0] for row in mixed.rows] == ["u"], "the others are of another task"


def test_the_worst_come_first_with_their_alignments(tmp_path: Path) -> None:
    lines = describe.worst(made_up(tmp_path, "a", {"x": 3}), 2)
    assert sum("1 errors of 2 words" in line for line in lines) == 2
    assert "  REF: one two" in lines
    assert "  HYP: one wrong" in lines


def test_the_note_on_intervals_says_what_was_resampled(tmp_path: Path) -> None:
    few = made_up(tmp_path, "few", {"x": 3}, speakers=3).summary["all"]
    many = made_up(tmp_path, "many", {"x": 3}, speakers=20).summary["all"]
    assert "fewer than 20 speakers" in describe.clusters_note(few)
    assert describe.clusters_note(many) == "95 % intervals by resampling 20 speakers"


def test_what_is_not_defined_is_a_dash(tmp_path: Path) -> None:
    told: Measures = made_up(tmp_path, "a", {"x": 0}, each=1).summary["all"]
    assert describe.with_interval(told) == "0.00", "one utterance has no interval"
    assert describe.number(None) == "-"


def test_conversions_not_used_for_longest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("newest", "older", "oldest")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.bin").write_bytes(b"x" * 100)
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    monkeypatch.setattr(cache, "limit_bytes", lambda: 250)
    bound(tmp_path, tmp_path / "oldest")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["newest", "oldest"], "what was just made stays"


def test_two_processes_may_convert_the_same_model_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "directory", lambda: tmp_path)

    def make(place: Path, holds: str = "model.bin") -> None:
        place.mkdir(parents=True)
        (place / holds).write_bytes(b"x")

    def slow(place: Path) -> None:
        make(place)
        make(tmp_path / "form" / "key")  # the other one, in the meantime

    assert (in_cache("form", "key", "model.bin", slow) / "model.bin").read_bytes() == b"x"
    assert [p.name for p in (tmp_path / "form").iterdir()] == ["key"]
    make(tmp_path / "form" / "other", "notes.txt")
    with pytest.raises(OSError, match="not empty"):
        in_cache("form", "other", "model.bin", make)
