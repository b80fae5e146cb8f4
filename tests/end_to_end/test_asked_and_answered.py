"""Tasks whose answers are labels, from a manifest to a comparison, on speech LLMs of the real classes."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

import chorus
from chorus.cli.main import run
from chorus.data.audio import write_flac
from chorus.data.manifest import read_manifest
from chorus.errors import DataError
from chorus.evaluate.results import read_evaluation
from chorus.tasks.registry import TASKS
from chorus.train.backbones.choose import load_backbone
from chorus.train.config import Augment
from chorus.train.layers import load_train_config
from chorus.train.rows import gather
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.test_sets import load_test_set
from sounds import MANIFEST, tiny, tone

HEADER = ["path", "audio_2", "text", "language", "speaker", "speaker_2", "split", "task"]


@pytest.fixture(scope="module", params=["qwen2_audio", "omni", "qwen3_asr", "voxtral"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny(tmp_path_factory.mktemp("bases") / request.param, request.param)


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks in one file: words, languages, pairs."""
    place = tmp_path_factory.mktemp("speech")
    lines = []
    for i in range(18):
        write_flac(place / f"{i}.flac", tone(0.4, 200 + 40 * (i % 3), seed=i))
        split = ("train", "train", "dev", "test")[i % 4]
        word, language, speaker = ("on", "one", "off")[i % 3], ("en", "de")[i // 4 % 2], f"s{i % 2}"
        lines.append([f"{i}.flac", "", word, language, speaker, "", split, "kws"])
        lines.append([f"{i}.flac", "", "", language, speaker, "", split, "langid"])
        other = (i + 4) % 16  # of the same split
        lines.append([f"{i}.flac", f"{other}.flac", "", "en", speaker, f"s{(i // 4) % 2}", split, "speaker_ver"])
    with (place / "tasks.csv").open("w", newline="") as file:
        csv.writer(file).writerows([HEADER, *lines])
    return place / "tasks.csv"


def config_of(base: Path, manifest: Path, out: Path, **more: Any) -> Any:
    return load_train_config({
        "model": {"base": str(base)}, "task": "kws", "data": {"train": str(manifest), "max_duration_s": 2},
        "adapter": {"rank": 2}, "train": {"steps": 2, "batch_size": 4}, "device": "cpu", "output": str(out),
        "logs": f"{out}-logs", **more,
    })  # fmt: skip


def test_each_row_is_asked_and_answered_by_its_task(base: Path, manifest: Path, tmp_path: Path) -> None:
    config = config_of(base, manifest, tmp_path)
    rows = gather(config)
    backbone = load_backbone(config, "cpu", texts=[])
    asked = {}
    for one in rows.train:
        example = backbone.example(one, None, Augment())
        question, answer = (backbone.tokenizer.decode(ids) for ids in (example.prompt, example.labels))
        asked.setdefault(one.row.get("task"), (question, answer, one))
    question, answer, _ = asked["kws"]
    # by all rows of the manifest, not by those of this split
    end = backbone.recogniser.dialect.end
    assert "Choose from: off, on, one. Output only the word." in question
    assert answer in (f"on{end}", f"one{end}", f"off{end}")
    question, answer, _ = asked["langid"]
    assert "Choose from: English, German." in question
    assert answer in (f"English{end}", f"German{end}")
    question, answer, pair = asked["speaker_ver"]
    assert "Do they belong to the same speaker?" in question
    assert answer in (f"yes{end}", f"no{end}")
    assert pair.duration_s == pytest.approx(0.4 + 0.5 + 0.4)


def test_from_training_to_a_comparison(base: Path, manifest: Path, tmp_path: Path, capsys: Any) -> None:
    chorus.train(config_of(base, manifest, tmp_path / "adapter"), note=lambda text: None)
    systems = [f"base={base}", f"tuned={base}+{tmp_path / 'adapter'}"]
    asked = ["evaluate", *systems, "--data", str(manifest), "--task", "speaker_ver", "-o", str(tmp_path / "found")]
    assert run([*asked, "-q"]) == 0
    assert "EER" in capsys.readouterr().out
    found = read_evaluation(tmp_path / "found" / "tuned")
    rows = [r for r in read_manifest(manifest, needs=("path",)) if r.split == "test" and r.get("task") == "speaker_ver"]
    assert len(found.rows) == len(rows)
    for row in found.rows:
        assert set(row["scores"]) == {"yes", "no"} == set(row["choices"])
    metrics = found.summary["metrics"]["clean"]
    assert set(metrics) == {metric.name for metric in TASKS.get("speaker_ver").metrics}
    assert metrics["eer"]["value"] is not None
    assert run(["compare", *(str(tmp_path / "found" / n) for n in ("base", "tuned")), "--base", "base"]) == 0
    assert "exact McNemar" in capsys.readouterr().out
    # what is there is read; as Parquet it is the same
    assert run([*asked, "-q"]) == 0
    assert run([*asked, "-q", "--parquet"]) == 0
    assert read_evaluation(tmp_path / "found" / "tuned").summary["metrics"] == found.summary["metrics"]


def test_what_was_answered_with_what_is_shown_and_drawn(
    base: Path, manifest: Path, tmp_path: Path, capsys: Any
) -> None:
    found, plots = tmp_path / "found", tmp_path / "plots"
    asked = ["evaluate", f"base={base}", "--data", str(manifest), "--task", "kws", "-o", str(found)]
    assert run([*asked, "--condition", "noise:10db", "-q"]) == 0
    first = capsys.readouterr().out
    assert first.splitlines()[0].startswith("kws, percent, "), "no word of error rates"
    assert "WER" not in first
    assert run(["evaluate", str(found / "base"), "--confusion", str(plots), "--by", "language", "-q"]) == 0
    out = capsys.readouterr().out
    assert "was answered with" in out
    assert "macro F1 by language" in out
    assert sorted(path.name for path in plots.iterdir()) == ["confusion-base.png", "confusion-base.svg"]
    text = ["evaluate", f"base={base}", "--data", str(manifest), "-o", str(tmp_path / "asr")]
    assert run([*text, "-q"]) == 2
    assert "none of its 54 rows is left (asked for: task = asr)" in capsys.readouterr().err
    text[3:4] = [str(MANIFEST), "--limit", "2"]
    assert run([*text, "--max-new-tokens", "4", "-q", "--confusion", str(plots)]) == 2
    assert "answers of the task asr are no labels" in capsys.readouterr().err


def test_what_is_written_can_be_counted_alone(base: Path, manifest: Path, tmp_path: Path) -> None:
    rows = load_test_set([manifest], task="langid", limit=2)
    found = chorus.evaluate(base, rows, tmp_path / "e", decoding=Decoding(task="langid", labels="free"))
    assert all("scores" not in row and row["choices"] == ["English", "German"] for row in found.rows)
    assert found.summary["metrics"]["clean"]["constrained_accuracy"]["value"] is None
    assert all(len(row["hypothesis"].encode()) < 200 for row in found.rows), "an answer of a label is no essay"


def test_rows_that_cannot_be_answered_stop_a_training_before_it_loads(
    base: Path, manifest: Path, tmp_path: Path
) -> None:
    text = manifest.read_text().replace(",on,", ",on.,", 1)
    broken = manifest.with_name("broken.csv")
    broken.write_text(text)
    config = config_of(base, broken, tmp_path / "x")
    with pytest.raises(DataError, match=r'0\.flac: task kws: "on" and "on\." are the same choice'):
        gather(config)
    strange = manifest.with_name("strange.csv")
    strange.write_text(manifest.read_text().replace(",kws", ",kwz", 1))
    with pytest.raises(DataError, match=r'0\.flac: unknown task "kwz"'):
        gather(config_of(base, strange, tmp_path / "x"))
    assert not (tmp_path / "x").exists()


def test_a_row_that_asks_nothing_stops_a_training_before_it_loads_and_is_left_out_where_that_is_asked(
    base: Path, manifest: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"path": str(manifest.parent / f"{i}.flac"), "instruction": "Is it loud?" if i < 12 else "", "answer": "yes",
         "choices": "yes|no", "split": "train" if i % 4 else "dev"}
        for i in range(14)
    ]  # fmt: skip
    with (tmp_path / "c.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    given = ["task=custom", f"model.base={base}", f"data.train={tmp_path / 'c.csv'}", "data.max_duration_s=2",
             "train.steps=1", "device=cpu", f"output={tmp_path / 'out'}", f"logs={tmp_path / 'logs'}",
             "adapter.rank=2"]  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("chorus.train.backbones.choose.load_backbone", None)
        assert run(["train", *given]) == DataError.exit_code
    told = capsys.readouterr().err
    assert f"error: {rows[13]['path']}: task custom: no instruction\n" in told
    assert "give the column instruction, or leave such rows out" in told
    assert run(["train", *given, "--skip-bad"]) == 0
    assert "left out: 2 task custom: no instruction" in capsys.readouterr().err


def test_each_row_may_have_choices_of_its_own(base: Path, manifest: Path, tmp_path: Path) -> None:
    """As lists in JSON lines; results in Parquet, whose columns have every row's keys, are read as they were."""
    offered = (["low", "high"], ["on", "off", "low"])
    lines = [
        {"path": str(manifest.parent / f"{i}.flac"), "instruction": "Is it {choices}?", "answer": choices[0],
         "choices": choices, "split": "test"}
        for i, choices in enumerate(offered)
    ]  # fmt: skip
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked = ["evaluate", str(base), "--data", str(tmp_path / "c.jsonl"), "--task", "custom"]
    for form in ([], ["--parquet"]):
        out = tmp_path / f"e{len(form)}"
        assert run([*asked, "-o", str(out), *form]) == 0
        (place,) = out.iterdir()
        assert [sorted(row["scores"]) for row in read_evaluation(place).rows] == [sorted(one) for one in offered]
