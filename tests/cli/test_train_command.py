"""`chorus train` about its results: what stands on stdout, what on stderr, what a campaign's table says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chorus.cli.main import run
from chorus.errors import ChorusError
from chorus.tasks.registry import TASKS
from chorus.train.facts import Trained
from chorus.train.layers import load_train_config
from chorus.train.orders import ORDERS

CONFIG = ["model.base=org/base", "data.train=m.csv", "output=out", "logs=logs"]


def trained(**changes):
    facts = {"directory": Path("out"), "steps": 40, "best_step": 30, "metric": "wer", "best": 12.345, "before": 50.0,
             "waited_share": 0.1, "merged": None, "reused": False, "left_out": {}}  # fmt: skip
    return Trained(**{**facts, **changes})


@pytest.fixture
def asked(monkeypatch):
    """What `train` is asked for; it answers with what `answer` holds."""
    seen = {"answer": trained()}

    def train(config, **settings):
        seen.update(config=config, settings=settings)
        settings["note"]("on the way")
        return seen["answer"]

    monkeypatch.setattr("chorus.train.run.train", train)
    return seen


def test_the_directory_is_the_result_and_the_rest_is_for_people(asked, capsys):
    assert run(["train", *CONFIG]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out\n"
    assert shown.err.splitlines() == [
        "on the way", "dev wer 12.35 %, before 50.00 %; step 30 of 40 is kept",
        "next: name out under models: in a recipe, and chorus merge it",
    ]  # fmt: skip


def test_an_adapter_is_named_on_its_base_and_its_merged_model_beside_it(asked, capsys):
    asked["answer"] = trained(merged=Path("out-merged"))
    assert run(["train", *CONFIG, "adapter.rank=2", "--merge"]) == 0
    shown = capsys.readouterr()
    assert shown.out == "out\nout-merged\n"
    assert 'name "org/base+out" under models:' in shown.err
    assert asked["config"].adapter.merge


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"best": None}, "40 steps"),
        ({"metric": "loss", "best": 1.5, "before": 2.5}, "dev loss 1.50, before 2.50; step 30 of 40 is kept"),
        ({"before": None}, "dev wer 12.35 %; step 30 of 40 is kept"),
    ],
)
def test_what_was_measured_is_told_as_far_as_it_was(asked, capsys, changes, told):
    asked["answer"] = trained(**changes)
    assert run(["train", *CONFIG]) == 0
    assert capsys.readouterr().err.splitlines()[1] == told


def test_quiet_leaves_the_result_alone(asked, capsys):
    assert run(["train", *CONFIG, "-q"]) == 0
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("out\n", "")
    assert asked["settings"]["quiet"]


def test_json_is_the_result_as_it_is(asked, capsys):
    assert run(["train", *CONFIG, "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == trained().as_dict()
    assert found["directory"] == "out"


def test_only_one_of_several_processes_speaks(asked, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert run(["train", *CONFIG, "-q"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flag", ["--skip-bad", "--allow-leakage", "--restart", "--overwrite", "--quiet"])
def test_every_flag_reaches_the_training_and_no_other(asked, flag):
    assert run(["train", *CONFIG, flag]) == 0
    names = {"skip_bad", "allow_leakage", "restart", "overwrite", "quiet"}
    assert {name for name in names if asked["settings"][name]} == {flag.lstrip("-").replace("-", "_")}


def test_the_device_of_the_line_wins(asked):
    assert run(["train", *CONFIG, "device=cpu", "--device", "cuda:1"]) == 0
    assert asked["config"].device == "cuda:1"


def test_files_come_in_their_order_and_settings_last(asked, tmp_path):
    for name, epochs in (("a.yaml", 1), ("b.yaml", 2), ("c.yaml", 3)):
        (tmp_path / name).write_text(f"train: {{epochs: {epochs}}}\nseed: {epochs}\n")
    line = [*CONFIG, str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml"), "--config", str(tmp_path / "c.yaml"), "seed=9"]
    assert run(["train", *line]) == 0
    assert (asked["config"].train.epochs, asked["config"].seed) == (3, 9)


def test_print_config_is_a_configuration_and_trains_nothing(asked, capsys, tmp_path):
    assert run(["train", *CONFIG, "seed=4", "--print-config"]) == 0
    (tmp_path / "c.yaml").write_text(capsys.readouterr().out)
    assert load_train_config(tmp_path / "c.yaml").seed == 4
    assert "config" not in asked


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ([], "no configuration"),
        ([*CONFIG, "--parallel", "2"], "go with --each and --continual"),
        ([*CONFIG, "--only", "a"], "go with --each and --continual"),
        ([*CONFIG, "--by", "speaker"], "go with --each and --continual"),
        ([*CONFIG, "--order", "conflicting_stress"], "go with --each and --continual"),
        ([*CONFIG, "--order", "conflicting_stress", "--each", "task"], "--order names column and values"),
        ([*CONFIG, "--order", "conflicting_stress", "--continual", "--only", "a"], "--order names column and values"),
        ([*CONFIG, "--order", "conflicting", "--continual"], 'did you mean "conflicting_stress"'),
        ([*CONFIG, "trian.epochs=3"], 'did you mean "train.epochs"'),
        ([*CONFIG, "--parallel", "0", "--each", "domain"], "parallel"),
    ],
)
def test_lines_that_make_no_sense(asked, capsys, line, told):
    assert run(["train", *line]) == 2
    assert told in capsys.readouterr().err
    assert "config" not in asked


# ---- campaigns ----


@pytest.fixture
def campaign(monkeypatch):
    """What a campaign is asked for; every job ends with a result."""
    from chorus.train.jobs import Job

    seen = {}

    def plan_jobs(config, **asked):
        seen["asked"] = asked
        return [Job(name, config) for name in ("d0", "d1")]

    def run_jobs(jobs, **more):
        seen["more"] = more
        more["note"]("d0: on the way")
        results = [trained(directory=Path(f"out/{job.name}"), before=None).as_dict() for job in jobs]
        return [results[0], {**results[1], "before": 20.0}]

    monkeypatch.setattr("chorus.train.jobs.plan_jobs", plan_jobs)
    monkeypatch.setattr("chorus.train.jobs.walked_column", lambda config: "domain")  # which reads the manifests
    monkeypatch.setattr("chorus.train.campaign.run_jobs", run_jobs)
    return seen


def test_a_campaign_ends_in_a_table(campaign, capsys):
    line = ["--each", "domain", "--joint", "--only", "b", "--only", "a", "--parallel", "3", "--restart"]
    assert run(["train", *CONFIG, *line]) == 0
    shown = capsys.readouterr()
    assert shown.err == "d0: on the way\n"
    rows = [row.split() for row in shown.out.splitlines() if row.strip()]
    assert rows[-2:] == [["d0", "-", "12.35", "40", "out/d0"], ["d1", "20.00", "12.35", "40", "out/d1"]]
    assert "dev wer before" in shown.out
    assert campaign["asked"] == {"joint": True, "continual": None, "each": "domain", "only": ["b", "a"]}
    assert campaign["more"]["parallel"] == 3
    assert campaign["more"]["settings"]["restart"]


def test_a_campaign_as_json_names_its_jobs(campaign, capsys):
    assert run(["train", *CONFIG, "--each", "domain", "--json", "-q"]) == 0
    shown = capsys.readouterr()
    assert [(one["job"], one["before"]) for one in json.loads(shown.out)] == [("d0", None), ("d1", 20.0)]
    assert shown.err == ""


@pytest.mark.parametrize(("more", "column"), [([], "domain"), (["--by", "speaker"], "speaker")])
def test_one_after_another_walks_the_domains_or_another_column(campaign, more, column):
    assert run(["train", *CONFIG, "--continual", *more]) == 0
    assert campaign["asked"]["continual"] == column


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("compatible_acoustic", "speaker_ver, langid, kws, asr"),
        ("conflicting_stress", "asr, intent, emotion, speaker_ver"),
        ("heldout_asr_probe", "speaker_ver, langid, kws, intent"),
        ("semantic_to_speaker", "intent, asr, kws, langid, speaker_id, speaker_ver"),
        ("speaker_to_semantic", "speaker_ver, speaker_id, langid, kws, asr, intent"),
    ],
)
def test_an_order_by_name_is_its_tasks(campaign, name, tasks):
    assert run(["train", *CONFIG, "--continual", "--order", name]) == 0
    assert (campaign["asked"]["continual"], campaign["asked"]["only"]) == ("task", tasks.split(", "))


def test_the_docs_tell_each_order_as_it_is():
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    table = page.partition("| order | |")[2].partition("\n\n")[0]
    told = dict(re.findall(r"^\| `(\w+)` \| ([^|:]+)", table, re.M))
    assert told.pop("speaker_to_semantic").strip() == "the same from the end"
    assert {name: tuple(tasks.strip().split(", ")) for name, tasks in told.items()} == {
        name: tasks for name, tasks in ORDERS.items() if name != "speaker_to_semantic"
    }
    assert len(ORDERS) == 5
    assert ORDERS["speaker_to_semantic"] == ORDERS["semantic_to_speaker"][::-1]
    assert {task for tasks in ORDERS.values() for task in tasks} <= set(TASKS.names())


def test_a_campaign_that_fails_says_which(campaign, capsys, monkeypatch):
    def failed(jobs, **more):
        raise ChorusError("1 of 2 trainings failed\n  d1: no room", "the others are kept")

    monkeypatch.setattr("chorus.train.campaign.run_jobs", failed)
    assert run(["train", *CONFIG, "--joint"]) == 4
    assert "error: 1 of 2 trainings failed\n  d1: no room\n  hint: the others are kept" in capsys.readouterr().err
