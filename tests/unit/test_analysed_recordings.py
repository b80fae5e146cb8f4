"""Which rows of which tasks an analysis is of: a manifest's own, all of them, unless one is asked for."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import chorus
from chorus.analyse.deltas import open_all
from chorus.analyse.evaluated import EvaluatedRows
from chorus.analyse.live import AnalysedRows, load_live
from chorus.cli.main import run
from chorus.data.manifest import Row, write_manifest
from chorus.errors import ChorusError, MisfitError, UsageError
from sounds import BASE, corpus

TASKS = ("kws", "langid", "asr")


def of_tasks(folder: Path, names: tuple[str, ...] = TASKS, count: int = 12) -> tuple[Path, list[Row]]:
    """Tones of which each names one of the tasks, in turn."""
    _, rows = corpus(folder, count)
    languages = ("en", "de")
    every = [
        replace(r, extra={"task": names[i % len(names)]}, language=languages[i // len(names) % 2])
        for i, r in enumerate(rows)
    ]
    return write_manifest(every, folder / "mixed.csv"), every


def asked(manifest: Path, **more: object) -> AnalysedRows:
    return AnalysedRows([str(manifest)], window_s=1, split="all", **more)  # type: ignore[arg-type]


def test_every_row_of_a_mixed_manifest_is_there_under_its_task(tmp_path: Path) -> None:
    manifest, rows = of_tasks(tmp_path)
    live = load_live(open_all([BASE], BASE), str(BASE), asked(manifest))
    found = {name: sum(len(one.seconds) for one in given) for name, given in live.batches.items()}
    expected = Counter(f"{r.extra['task']}: {r.domain}" for r in rows)
    assert found == dict(expected)
    assert live.rows == len(rows)
    assert not [text for text in live.warnings if "other tasks" in text]
    # a row's loss is on the answer of its own task: the language of langid, and not what was said
    alone = load_live(open_all([BASE], BASE), str(BASE), asked(manifest, task="langid"))
    assert set(alone.batches) == {"d0", "d1"}
    apart, together = alone.losses(), live.losses()
    assert {f"langid: {name}": loss for name, loss in apart.items()} == pytest.approx(
        {name: loss for name, loss in together.items() if name.startswith("langid")}, rel=1e-5
    )


def test_the_rows_that_one_task_leaves_out_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, rows = of_tasks(tmp_path)
    found = chorus.analyse_path({"same": BASE}, BASE, asked(manifest, task="kws"), points=2)
    assert sum(found.domains.values()) == len(rows) / 3
    told = f"rows of other tasks than kws are left out: {2 * len(rows) // 3}"
    assert told in found.warnings
    given = [f"same={BASE}", "--base", str(BASE), "--data", str(manifest), "--split", "all", "--window", "1"]
    for command in (["path", "--points", "2"], ["cka"]):
        assert run(["analyse", *command, *given, "--task", "kws", "-q"]) == 0
        assert told in capsys.readouterr().out
    tests, notes = EvaluatedRows([str(manifest)], split="all", task="kws").tests()
    assert (list(tests), notes) == (["kws"], [told])


def test_a_task_under_another_spelling_is_that_task(tmp_path: Path) -> None:
    manifest, _ = of_tasks(tmp_path, ("transcribe", "kws"))
    tests, notes = EvaluatedRows([str(manifest)], split="all", task="ASR").tests()
    assert list(tests) == ["asr"]
    assert notes == ["rows of other tasks than asr are left out: 6"]


def test_each_manifest_is_of_its_own_tasks(tmp_path: Path) -> None:
    mixed, _ = of_tasks(tmp_path / "mixed", ("kws", "langid"))
    plain, _ = corpus(tmp_path / "plain", 6)
    tests, notes = EvaluatedRows([str(mixed), f"plain={plain}"], split="all").tests()
    assert {task: len(test.utterances) for task, test in tests.items()} == {"kws": 6, "langid": 6, "asr": 6}
    assert notes == []


def test_rows_without_a_task_among_those_of_several_are_asked_about(tmp_path: Path) -> None:
    manifest, _ = of_tasks(tmp_path, ("kws", "langid", ""))
    told = r"several tasks \(kws, langid\), and 4 that name none"
    with pytest.raises(MisfitError, match=told) as error:
        EvaluatedRows([str(manifest)], split="all").tests()
    assert "--task" in error.value.hint
    with pytest.raises(MisfitError, match=told):
        chorus.analyse_path([BASE], BASE, asked(manifest))
    # of one task those that name none are of it too
    one, _ = of_tasks(tmp_path / "one", ("kws", ""))
    tests, _ = EvaluatedRows([str(one)], split="all").tests()
    assert {task: len(test.utterances) for task, test in tests.items()} == {"kws": 12}


def test_rows_are_by_what_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, _ = corpus(tmp_path, 6)
    found = chorus.analyse_path({"same": BASE}, BASE, asked(manifest, by="speaker"), points=2)
    assert found.domains == {"s0": 2, "s1": 2, "s2": 2}
    given = [f"same={BASE}", "--base", str(BASE), "--data", str(manifest), "--split", "all", "--window", "1"]
    assert run(["analyse", "path", *given, "--by", "language", "--points", "2", "-q"]) == 0
    assert "en" in capsys.readouterr().out.split()
    with pytest.raises(UsageError, match='no rows are by "speakr"'):
        chorus.analyse_path([BASE], BASE, asked(manifest, by="speakr"))
    with pytest.raises(ChorusError, match="no recordings"):
        chorus.analyse_path([BASE], BASE, [])
