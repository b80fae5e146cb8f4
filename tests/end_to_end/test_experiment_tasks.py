"""An experiment whose domains are of several tasks: one adapter a task, merged, chosen by what is recovered."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from chorus.cli.main import run as chorus_command
from chorus.data.audio import write_flac
from chorus.errors import MisfitError, RecipeError
from chorus.evaluate.results import read_evaluation
from chorus.evaluate.scores import value_of
from chorus.experiment.load import load_experiment
from chorus.experiment.results import read_results
from chorus.experiment.rows import learnt_rows
from chorus.experiment.run import experiment
from chorus.experiment.steps import counts
from chorus.experiment.trainings import jobs_of
from sounds import tiny, tone

SPLITS = ("train", "train", "train", "dev", "test")


def manifests(place: Path) -> dict[str, str]:
    """Words and speakers in one file that names no task; pairs of speakers in another."""
    place.mkdir(exist_ok=True)
    words, pairs = [], []
    for i in range(40):
        split = SPLITS[i % 5]
        write_flac(place / f"{i}.flac", tone(0.4, 200 + 60 * (i % 2), seed=i))
        words.append([f"{i}.flac", ("on", "off")[i % 2], f"s{i // 5 % 2}", split])
        other = (i + 5 * (1 + i % 2)) % 40
        pairs.append([f"{i}.flac", f"{other}.flac", f"s{i // 5 % 2}", f"s{other // 5 % 2}", split])
    found = {}
    for name, header, rows in (
        ("words", ["path", "keyword", "speaker", "split"], words),
        ("pairs", ["path", "audio_2", "speaker", "speaker_2", "split"], pairs),
    ):
        with (place / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        found[name] = str(place / f"{name}.csv")
    return found


def settings(place: Path, base: Path, **more: Any) -> dict[str, Any]:
    rows = manifests(place / "rows")
    return {
        "name": "tasks", "output": str(place / "out"), "device": "cpu", "base": str(base), "data": {"language": "en"},
        "domains": {
            "words": {"task": "keyword", "manifest": rows["words"]},
            "speakers": {"task": "speaker_id", "manifest": rows["words"]},
            "pairs": {"task": "speaker_ver", "manifest": rows["pairs"]},
        },
        "train": {"adapter": {"rank": 8, "roles": ["encoder", "projector", "language_model"]},
                  "train": {"steps": 40, "batch_size": 12, "learning_rate": 5e-3}, "dev": {"metric": "loss"}},
        "methods": {"linear": {}, "task_arithmetic": {"lambda": [0.5, 1.0]}},
        "decoding": {"max_new_tokens": 6, "batch_size": 32}, "parallel": 2,
        "calibrate": {"learnt": {"granularity": "task", "updates": 6, "every": 3, "batch_size": 8}},
        "overfitting": {"ranks": [2], "weights": [0.5, 1.0], "trained": [2]}, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen2-Audio of weights so large that sound reaches its last layer: else nothing is learnt so soon."""
    found = tiny(tmp_path_factory.mktemp("bases") / "qwen2_audio", "qwen2_audio")
    weights = load_file(found / "model.safetensors")
    larger = {name: (5 * one if one.ndim > 1 else one).contiguous() for name, one in weights.items()}
    save_file(larger, found / "model.safetensors", metadata={"format": "pt"})
    return found


@pytest.fixture(scope="module")
def ran(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    given = settings(tmp_path_factory.mktemp("experiment"), base)
    return given, experiment(given)


def test_each_task_has_its_adapter_its_rows_and_its_metric(ran: Any) -> None:
    given, outcome = ran
    out, results = Path(given["output"]), read_results(outcome.directory)
    for name in ("words", "speakers", "pairs", "joint"):
        assert (out / "models" / "seed-0" / name / "adapter_config.json").exists()
    assert {name: task.metric for name, task in results.tasks.items()} == {
        "kws": "macro F1", "speaker_id": "accuracy", "speaker_ver": "accuracy"
    }  # fmt: skip
    for task, cell in (("kws", "words"), ("speaker_id", "speakers"), ("speaker_ver", "pairs")):
        compared = results.tasks[task].compared
        assert [one.name for one in compared.cells] == [cell]
        homes = {line.label: line.home for line in compared.lines if line.role == "specialist"}
        assert homes == {name: name if name == cell else "" for name in ("words", "speakers", "pairs")}
        # once a task, all systems, and nothing of another's
        assert len(list((out / "test" / "seed-0" / task).iterdir())) == 8
        assert len(list((out / "dev" / "seed-0" / task).iterdir())) == 5 + 4
    asked = {row["choices"] for row in csv.DictReader((out / "test-kws.csv").open())}
    assert asked == {'["off", "on"]'}


def test_settings_are_chosen_by_what_they_recover(ran: Any) -> None:
    given, outcome = ran
    told = json.loads((Path(given["output"]) / "selection.json").read_text())
    assert told["metric"] == "recovery"
    assert told["models"]["base"]["0"] == pytest.approx(0)
    values = told["chosen"]
    assert told["best"] == outcome.best == max(values, key=lambda name: values[name]["dev"])
    every = [one["dev"]["0"] for one in told["settings"]["task_arithmetic"]]
    assert values["task_arithmetic"]["dev"] == max(every)


def test_dev_recovery_is_that_of_the_evaluations(ran: Any) -> None:
    """By hand: of the cells whose specialist surely gains, the mean of (merged - base) / (own - base)."""
    given, _ = ran
    place = Path(given["output"]) / "dev" / "seed-0"

    def value(task: str, label: str) -> float:
        one = read_evaluation(place / task / label)
        return value_of(one.scored, one.task.metrics[0])

    cells = {"kws": "words", "speaker_id": "speakers", "speaker_ver": "pairs"}
    told = json.loads((Path(given["output"]) / "selection.json").read_text())
    counted = {task: name for task, name in cells.items() if name in told["counted"]["0"]}
    assert counted
    for label, reached in (("linear", told["settings"]["linear"][0]["dev"]), ("joint", told["models"]["joint"])):
        shares = [
            100 * (value(t, label) - value(t, "base")) / (value(t, name) - value(t, "base"))
            for t, name in counted.items()
        ]
        assert reached["0"] == pytest.approx(sum(shares) / len(shares)), label


def test_the_report_tells_recovery_and_every_task(ran: Any) -> None:
    _given, outcome = ran
    page = outcome.report.read_text()
    for words in ("What others recover", "Interference", "kws: ", "speaker_ver: ", "recovers"):
        assert words in page, words
    titles = [p.read_text().splitlines()[0] for p in sorted((outcome.directory / "tables").glob("*.md"))]
    assert "recover" in titles[0]
    plots = {str(p.relative_to(outcome.directory / "plots")) for p in (outcome.directory / "plots").rglob("*.svg")}
    assert {"points.svg", "ranks.svg", "kws/by-domain.svg", "speaker_ver/by-domain.svg"} <= plots


def test_a_command_of_the_report_ends_in_the_same_answers(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, outcome = ran
    command = next(c for c in read_results(outcome.directory).commands if c.name == outcome.best)
    monkeypatch.chdir(tmp_path)
    found = {}
    for line in command.lines[:3]:
        program, *rest = shlex.split(line)
        assert program == "chorus"
        assert chorus_command([*rest, "--device", "cpu", "-q"]) == 0
        task = rest[rest.index("--task") + 1]
        found[task] = read_evaluation(next(p.parent for p in tmp_path.rglob(f"{task}/*/summary.json")))
    assert set(found) == {"kws", "speaker_id", "speaker_ver"}
    for task, theirs in found.items():
        ours = read_evaluation(Path(given["output"]) / "test" / "seed-0" / task / outcome.best)
        assert [r["hypothesis"] for r in ours.rows] == [r["hypothesis"] for r in theirs.rows]


def test_what_is_calibrated_stands_among_the_merges(ran: Any) -> None:
    given, outcome = ran
    out = Path(given["output"])
    recipe = yaml.safe_load((out / "recipes" / "seed-0" / "learnt.yml").read_text())
    found = yaml.safe_load((out / "calibrated" / "seed-0" / "learnt" / "recipe.yml").read_text())
    assert [model["parameters"] for model in recipe["models"]] == [model["parameters"] for model in found["models"]]
    assert outcome.chosen["learnt"].setting.label == "learnt"
    told = next(one for one in read_results(out).selection if one.name == "learnt")
    assert told.parameters == given["calibrate"]["learnt"]
    rows = list(csv.DictReader((out / "calibrated" / "train.csv").open()))
    assert {(row["domain"], row["task"]) for row in rows} == {
        ("words", "kws"), ("speakers", "speaker_id"), ("pairs", "speaker_ver")
    }  # fmt: skip
    assert all(row["choices"] for row in rows if row["domain"] != "pairs")


def test_a_calibration_that_is_wrong_is_told_before_anything_is_trained(tmp_path: Path, base: Path) -> None:
    given = settings(
        tmp_path, base, calibrate={"a/b": {}, "linear": {"granularty": "task"}, "x": {"seed": 3, "bands": 0}}
    )
    with pytest.raises(RecipeError) as caught:
        load_experiment(given)
    for words in ("calibrate.a/b: names a folder", "calibrate.linear: a method has this name", "granularty",
                  "calibrate.x.seed: set by the experiment", "bands"):  # fmt: skip
        assert words in str(caught.value)
    assert list(load_experiment(settings(tmp_path, base, calibrate=True)).calibrate) == ["calibrated"]


def test_each_specialist_is_measured_over_rank_and_weight(ran: Any) -> None:
    grids = read_results(ran[1].directory).grids
    assert grids is not None
    assert grids.homes == {"words": ["kws"], "speakers": ["speaker_id"], "pairs": ["speaker_ver"]}
    for name in grids.models:
        points = {(one.rank, one.weight, one.trained) for one in grids.of(name)}
        assert points == {(rank, w, own) for rank, own in ((2, False), (2, True), (None, False)) for w in (0.5, 1.0)}
        whole = next(one for one in grids.of(name) if one.rank is None and one.weight == 1)
        assert whole.inside == pytest.approx(1) or whole.inside is None
    page = ran[1].report.read_text()
    assert "Over rank and weight, words" in page
    assert "of the grid" in page


def test_ranks_and_weights_that_there_are_none_of_are_told(tmp_path: Path, base: Path) -> None:
    given = settings(tmp_path, base, overfitting={"weights": [0.0], "trained": [4]})
    given["train"].pop("adapter")
    with pytest.raises(RecipeError) as caught:
        load_experiment(given)
    assert "a weight is not 0" in str(caught.value)
    assert "overfitting.trained: words is trained as a whole and has no rank" in str(caught.value)


def test_run_again_it_does_nothing_again(ran: Any) -> None:
    given, outcome = ran
    before = {p: p.stat().st_mtime_ns for p in outcome.directory.rglob("*.jsonl")}
    again = experiment(given)
    assert again.best == outcome.best
    assert {p: p.stat().st_mtime_ns for p in outcome.directory.rglob("*.jsonl")} == before


def test_on_the_command_line_each_task_has_its_table(ran: Any, tmp_path: Path, capsys: Any) -> None:
    given, _ = ran
    (tmp_path / "e.yml").write_text(json.dumps(given))
    assert chorus_command(["experiment", str(tmp_path / "e.yml"), "--report"]) == 0
    shown = capsys.readouterr().out
    assert "What others recover" in shown
    assert all(f"{task}: " in shown for task in ("kws", "speaker_id", "speaker_ver"))
    assert chorus_command(["experiment", str(tmp_path / "e.yml"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "by the in-domain dev recovery" in shown
    assert "words (kws), speakers (speaker_id), pairs (speaker_ver)" in shown


# ---- what is refused, and how it is laid out; nothing is trained ----


def test_a_specialist_learns_its_task_and_the_joint_model_all(tmp_path: Path, base: Path) -> None:
    found = load_experiment(settings(tmp_path, base))
    jobs = {job.name: job.config for job in jobs_of(found)}
    assert {name: one.task for name, one in jobs.items()} == {
        "words": "kws", "words@2": "kws", "speakers": "speaker_id", "speakers@2": "speaker_id",
        "pairs": "speaker_ver", "pairs@2": "speaker_ver", "joint": "asr",
    }  # fmt: skip
    assert {name: one.adapter.rank for name, one in jobs.items() if one.adapter} == {
        name: 2 if name.endswith("@2") else 8 for name in jobs
    }
    assert [source.task for source in jobs["joint"].data.train] == ["kws", "speaker_id", "speaker_ver"]
    # three tasks: base, three specialists at two ranks, joint; three settings of two methods, and what is calibrated
    assert counts(found) == {
        "train": 7, "calibrate": 1, "dev": 3 * (5 + 4), "test": 3 * (5 + 3), "ranks": 4 + 3, "overfitting": 1,
        "report": 1,
    }  # fmt: skip


def test_a_task_of_the_test_sets_alone_is_not_chosen_by(tmp_path: Path, base: Path) -> None:
    given = settings(tmp_path, base)
    given["tests"] = {"out-of-domain": {"unseen": given["domains"].pop("pairs")}}
    found = load_experiment(given)
    assert list(found.chosen_tasks) == ["kws", "speaker_id"]
    assert list(found.tasks) == ["kws", "speaker_id", "speaker_ver"]
    assert counts(found)["dev"] == 2 * (4 + 4)


def test_domains_of_a_task_must_have_the_same_labels(tmp_path: Path, base: Path) -> None:
    given = settings(tmp_path, base)
    other = tmp_path / "rows" / "other.csv"
    other.write_text((tmp_path / "rows" / "words.csv").read_text().replace(",off,", ",of,"))
    given["domains"]["speakers"] = {"task": "kws", "manifest": str(other)}
    with pytest.raises(MisfitError, match=r"words and speakers: task kws: not the same labels \(of, off\)") as caught:
        learnt_rows(load_experiment(given), "kws")
    assert "choices" in caught.value.hint


def test_what_is_learnt_as_one_task_and_measured_as_another_is_refused(tmp_path: Path, base: Path) -> None:
    given = settings(tmp_path, base)
    given["domains"]["words"]["train"] = {"task": "langid"}
    with pytest.raises(RecipeError, match=r"domains\.words\.train\.task: langid, and its rows are measured as kws"):
        load_experiment(given)
    given = settings(tmp_path, base)
    given["domains"]["words"]["task"] = "kwz"
    with pytest.raises(RecipeError, match=r"domains\.words\.task"):
        load_experiment(given)
