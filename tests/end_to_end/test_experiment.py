"""The whole line on the digits, small: what it writes, that it resumes, that test stays closed, what it refuses."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from chorus.cli.main import run as chorus_command
from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.errors import ChorusError, DataError, RecipeError
from chorus.evaluate.results import read_evaluation
from chorus.experiment.cost import describe
from chorus.experiment.load import load_experiment
from chorus.experiment.places import plain_template
from chorus.experiment.progress import Steps, duration
from chorus.experiment.publish import publish
from chorus.experiment.ranks import delta_ranks
from chorus.experiment.run import experiment
from chorus.experiment.steps import counts
from chorus.merge.method import METHODS
from chorus.search.grids import Setting
from chorus.search.recipes import recipe_of
from sounds import BASE, MANIFEST, ROOT

EXAMPLES = sorted([*(ROOT / "examples" / "experiments").glob("*.yml"), ROOT / "examples" / "digits" / "demo.yml"])
PAPER = (
    "linear", "model_stock", "karcher", "multislerp", "task_arithmetic", "ties", "pcb", "sce", "iso_c", "iso_cts",
    "tsv_m", "boosted_tsv_m",
)  # fmt: skip
# the last is what Debian's first one starts, after reading settings of the system's that may not be there
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "/usr/lib/chromium/chromium")


def rows_for(place: Path, test: Path | None = None) -> Path:
    """A few recordings of three speakers; the test rows in a manifest of their own where `test` names one."""
    chosen: list[Row] = []
    tests: list[Row] = []
    for speaker in ("george", "nicolas", "theo"):
        mine = [r for r in read_manifest(MANIFEST).rows if r.speaker == speaker]
        for split, count in (("train", 16), ("dev", 10), ("test", 10)):
            part = [r for r in mine if r.split == split]
            taken = part[:: max(1, len(part) // count)][:count]
            (tests if split == "test" and test else chosen).extend(taken)
    if test:
        write_manifest(tests, test)
    return write_manifest(chosen, place / "rows.csv")


def settings(place: Path, manifest: Path, **more: Any) -> dict[str, Any]:
    return {
        "name": "small", "output": str(place / "out"), "device": "cpu", "base": str(BASE),
        "data": {"manifest": str(manifest), "by": "speaker", "language": "en"}, "domains": ["george", "nicolas"],
        "tests": {"out-of-domain": ["theo"]},
        "train": {"train": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-4, "window_s": [3]},
                  "dev": {"window_s": 3, "max_new_tokens": 6}},
        "methods": {"linear": {}, "task_arithmetic": {"lambda": [0.3, 0.6]}, "tsv_m": {"lambda": [0.5, 1.0]}},
        "curves": {"tsv_m": {"rank_fraction": [0.2, 1.0]}},
        "decoding": {"window_s": 3, "max_new_tokens": 6, "batch_size": 32}, "conditions": ["clean", "telephone"],
        "parallel": 2, **more,
    }  # fmt: skip


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """One experiment with two seeds, run once for the module."""
    place = tmp_path_factory.mktemp("experiment")
    manifest = rows_for(place)
    given = settings(place, manifest, seeds=[0, 1])
    return given, experiment(given)


def test_it_ends_in_models_tables_plots_and_a_report(ran: Any) -> None:
    given, outcome = ran
    out = Path(given["output"])
    for seed in (0, 1):
        for name in ("george", "nicolas", "joint"):
            assert (out / "models" / f"seed-{seed}" / name / "model.safetensors").exists()
    assert len(list((out / "dev" / "seed-1").iterdir())) == 4 + 5
    assert {p.name for p in (out / "test" / "seed-0").iterdir()} >= {"base", "joint", "george", "linear", "tsv_m"}
    assert (out / "merged" / outcome.best / "model.safetensors").exists()
    assert len(list((out / "tables").glob("*.md"))) == len(list((out / "tables").glob("*.tex"))) >= 6
    assert {p.name for p in (out / "plots").glob("*.svg")} == {
        "by-domain.svg", "trade.svg", "ranks.svg", "tsv_m-rank_fraction.svg"
    }  # fmt: skip
    values = json.loads((out / "results.json").read_text())
    (task,) = values["tasks"].values()
    assert {line["label"] for line in task["comparison"]["lines"]} == {
        "base", "george", "nicolas", "joint", "linear", "task_arithmetic", "tsv_m"
    }  # fmt: skip
    assert task["comparison"]["clusters"] == 30
    assert set(values["effective_ranks"]) == {"george", "nicolas", "joint", "linear", "task_arithmetic", "tsv_m"}
    assert len(task["curves"]["tsv_m"]) == 2


def test_the_selection_is_the_lowest_dev_rate_over_seeds(ran: Any) -> None:
    given, outcome = ran
    told = json.loads((Path(given["output"]) / "selection.json").read_text())
    for name, chosen in told["chosen"].items():
        means = [sum(s["dev"].values()) / 2 for s in told["settings"][name]]
        assert chosen["dev"] == pytest.approx(min(means))
    assert told["best"] == outcome.best == min(told["chosen"], key=lambda n: told["chosen"][n]["dev"])
    dev = read_evaluation(Path(given["output"]) / "dev" / "seed-0" / "linear")
    by_hand = [dev.summary["by"]["domain"][d]["error_rate"] for d in ("george", "nicolas")]
    assert told["settings"]["linear"][0]["dev"]["0"] == pytest.approx(sum(by_hand) / 2)


def test_a_merge_in_memory_is_heard_as_the_written_one(ran: Any, tmp_path: Path) -> None:
    given, outcome = ran
    out = Path(given["output"])
    line = ["evaluate", f"again={out / 'merged' / outcome.best}", "--data", str(out / "test.csv"), "--split", "all"]
    line += ["--window", "3", "--max-new-tokens", "6", "--batch-size", "32", "--device", "cpu", "-o", str(tmp_path)]
    assert chorus_command([*line, "--condition", "telephone", "-q"]) == 0
    ours = read_evaluation(out / "test" / "seed-0" / outcome.best)
    theirs = read_evaluation(tmp_path / "again")
    assert [r["hypothesis"] for r in ours.rows] == [r["hypothesis"] for r in theirs.rows]


def test_run_again_it_does_nothing_again(ran: Any) -> None:
    given, outcome = ran
    out = Path(given["output"])
    kept = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.name in ("model.safetensors", "results.jsonl")}
    assert len(kept) > 20
    report = outcome.report.read_bytes()
    seen: list[str] = []
    again = experiment(given, show=lambda done, total, told: seen.append(f"{done}/{total}"))
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert again.best == outcome.best
    assert outcome.report.read_bytes() == report
    total = sum(counts(load_experiment(given)).values())
    assert seen[-1] == f"{total}/{total}"


def test_the_report_is_drawn_again_from_results_alone(
    ran: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without models, evaluations, recordings or packages for training: the same page, from results.json."""
    given, outcome = ran
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(outcome.directory / "results.json", again)
    for name in ("accelerate", "torch", "transformers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    assert publish(again) == again / "report.html"
    assert (again / "report.html").read_bytes() == outcome.report.read_bytes()
    for kind in ("tables", "plots"):
        drawn = {p.name: p.read_bytes() for p in (again / kind).iterdir()}
        assert drawn == {p.name: p.read_bytes() for p in (outcome.directory / kind).iterdir()}
        assert len(drawn) >= 8
    assert {p.name for p in again.iterdir()} == {"results.json", "report.html", "tables", "plots"}
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump({**given, "output": str(again)}))
    assert chorus_command(["experiment", str(path), "--report", "-q"]) == 0
    assert chorus_command(["experiment", str(path), "--report", "-q", "-o", str(tmp_path / "nothing")]) == 2
    assert chorus_command(["experiment", str(path), "--report", "--seed", "3"]) == 2


def test_ranks_are_found_again_and_another_models_are_not(ran: Any) -> None:
    given, outcome = ran
    kept = {p: p.stat().st_mtime_ns for p in (outcome.directory / "ranks").iterdir()}
    assert {p.stem for p in kept} == {"george", "nicolas", "joint", "linear", "task_arithmetic", "tsv_m"}
    experiment_ = load_experiment(given)
    chosen = {**outcome.chosen, "linear": outcome.chosen["tsv_m"]}  # under the same label, another merge
    found = delta_ranks(experiment_, chosen)
    assert {p.stem for p in kept if p.stat().st_mtime_ns != kept[p]} == {"linear"}
    assert found["linear"] == found["tsv_m"]
    delta_ranks(experiment_, outcome.chosen)


def test_the_command_prints_the_table_and_where_the_report_is(
    ran: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given, outcome = ran
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump(given))
    assert chorus_command(["experiment", str(path)]) == 0
    told = capsys.readouterr()
    assert "| base |" in told.out
    assert told.out.rstrip().endswith("report.html")
    assert "chosen on dev" in told.err
    assert chorus_command(["experiment", str(path), "--json", "-q"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["best"] == outcome.best
    assert not printed.err


def test_another_grid_hears_only_what_is_new(ran: Any) -> None:
    given, _ = ran
    out = Path(given["output"])
    models = {p: p.stat().st_mtime_ns for p in (out / "models").rglob("model.safetensors")}
    linear = (out / "dev" / "seed-0" / "linear" / "summary.json").stat().st_mtime_ns
    more = {**given, "methods": {**given["methods"], "linear": {}, "ties": {"density": 0.5}}, "seeds": [0]}
    outcome = experiment(more)
    assert {p: p.stat().st_mtime_ns for p in models} == models
    assert (out / "dev" / "seed-0" / "linear" / "summary.json").stat().st_mtime_ns == linear
    assert "ties" in outcome.chosen


def test_every_number_of_the_report_leads_to_its_command(ran: Any) -> None:
    """Each row's cells link to an anchor that is there, and the commands there run."""
    _, outcome = ran
    page = outcome.report.read_text()
    anchors = set(re.findall(r'id="(cmd-[^"]+)"', page))
    linked = set(re.findall(r'href="#(cmd-[^"]+)"', page))
    assert linked
    assert linked <= anchors
    for row in re.findall(r"<tr>(<td.*?)</tr>", page, re.DOTALL):
        first = re.findall(r"<td[^>]*>(.*?)</td>", row)[0]
        assert "<a href" in first, first
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "<script" not in page
    assert page.count("data:image/svg+xml;base64,") == 4
    for picture in re.findall(r"base64,([^\"]+)", page):
        assert b"<svg" in base64.b64decode(picture)
    commands = re.findall(r"<pre>(chorus evaluate tsv_m=.*?)(?:\n|</pre>)", page)
    assert len(commands) == 1


@pytest.fixture(scope="module")
def browser() -> str:
    found = (path for name in BROWSERS if (path := shutil.which(name)))
    starts = (p for p in found if subprocess.run([p, "--version"], capture_output=True, check=False).returncode == 0)
    return next(starts, None) or pytest.skip("no Chromium here that starts")


def test_the_report_looks_right_in_a_browser(ran: Any, browser: str, tmp_path: Path) -> None:
    """Headless, offline: the pictures have a size, no column runs out of the page, and it prints."""
    _, outcome = ran
    probe = """<script>addEventListener("load", () => {
      const pictures = [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width]);
      document.title = JSON.stringify({pictures, wide: document.documentElement.scrollWidth, inner: innerWidth,
        rows: document.querySelectorAll("tbody tr").length, links: document.querySelectorAll("td a").length});
    })</script></body>"""
    page = tmp_path / "probe.html"
    page.write_text(outcome.report.read_text().replace("</body>", probe))
    flags = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1200,900", "--virtual-time-budget=5000",
    ]  # fmt: skip
    dumped = subprocess.run(
        [*flags, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    told = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped.stdout)[1].replace("&quot;", '"'))
    assert len(told["pictures"]) == 4
    assert all(complete and natural > 100 and shown > 100 for complete, natural, shown in told["pictures"])
    assert told["wide"] <= told["inner"], "the page scrolls sideways"
    assert told["rows"] > 20
    assert told["links"] > 50
    pdf = tmp_path / "report.pdf"
    subprocess.run(
        [*flags, f"--print-to-pdf={pdf}", outcome.report.as_uri()], capture_output=True, timeout=120, check=True
    )
    assert pdf.read_bytes()[:4] == b"%PDF"
    assert pdf.stat().st_size > 20_000


# ---- the test set stays closed; kills ----


def test_without_the_test_manifest_everything_up_to_the_selection_runs(tmp_path: Path) -> None:
    test = tmp_path / "test.csv"
    manifest = rows_for(tmp_path, test)
    hidden = tmp_path / "hidden.csv"
    test.rename(hidden)
    given = settings(
        tmp_path, manifest, conditions=["clean"], curves={}, methods={"linear": {}, "ties": {"density": [0.3, 0.6]}},
        joint=False, tests={}, keep="none",
        domains={s: {"where": {"speaker": s}, "test": str(test)} for s in ("george", "nicolas")},
    )  # fmt: skip
    given["train"]["adapter"] = {"type": "lora", "rank": 2}
    with pytest.raises(DataError, match=r"test\.csv"):
        experiment(given)
    selection = tmp_path / "out" / "selection.json"
    assert set(json.loads(selection.read_text())["chosen"]) == {"linear", "ties"}
    before = selection.read_bytes()
    hidden.rename(test)
    outcome = experiment(given)
    assert selection.read_bytes() == before
    assert outcome.report.exists()
    assert "Joint" not in outcome.report.read_text().split("<section")[0]


def test_a_killed_experiment_goes_on(tmp_path: Path) -> None:
    """SIGKILL in the sweep: no training and no finished evaluation is done again."""
    manifest = rows_for(tmp_path)
    methods = {"ties": {"density": [0.1, 0.2, 0.3, 0.5], "lambda": [0.4, 0.7, 1.0]}}
    given = settings(tmp_path, manifest, methods=methods, curves={}, conditions=["clean"], joint=False, keep="none")
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump(given))
    child = subprocess.Popen(
        [sys.executable, "-m", "chorus", "experiment", str(path), "-q"], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    dev = tmp_path / "out" / "dev" / "seed-0"
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and child.poll() is None:
        if dev.exists() and len(list(dev.glob("ties*/summary.json"))) >= 4:
            break
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    finished = {p: p.stat().st_mtime_ns for p in dev.glob("*/summary.json")}
    finished |= {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "models").rglob("model.safetensors")}
    assert not (tmp_path / "out" / "selection.json").exists(), "it was too quick to be killed"
    assert len(finished) >= 8
    outcome = experiment(given)
    assert {p: p.stat().st_mtime_ns for p in finished} == finished
    assert outcome.report.exists()


# ---- what is refused ----


def test_every_mistake_is_found_before_the_first_training(tmp_path: Path) -> None:
    manifest = rows_for(tmp_path)
    given = settings(tmp_path, manifest)
    given["methods"] = {"tise": {}, "ties": {"densty": [0.1]}, "boosted_tsv_m": {"beta": [0.1, 1.5]}}
    given["curves"] = {"sce": {"lambda": [1]}}
    given["train"] = {"train": {"epoch": 3}, "seed": 4}
    given["conditions"] = ["telefone"]
    with pytest.raises(RecipeError) as caught:
        load_experiment(given)
    told = str(caught.value)
    for piece in (
        'unknown merge method "tise"; did you mean "ties"', '"density"', "must lie in above 0 to 1", "curves.sce",
        'did you mean "epochs"', "train.seed: set by the experiment", 'did you mean "telephone"',
    ):  # fmt: skip
        assert piece in told, piece
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"domains": ["george"]}, "domains"),
        ({"methds": {}}, 'did you mean "methods"'),
        ({"data": {"by": "speaker"}}, "no manifest"),
        ({"data": {"manifest": "a.csv", "synth": "b.yml"}}, "either manifest or synth"),
        ({"normaliser": "basics"}, "normaliser"),
        ({"preset": "papr"}, "preset"),
        ({"decoding": {"beams": 3}}, "beam"),
        ({"tests": {"out-of-domain": ["george"]}}, "stands twice"),
        ({"domains": {"a/b": {}, "c": {}}}, "names a folder"),
        ({"data": {"manifest": "${NOT_THERE_AT_ALL}/m.csv"}}, "NOT_THERE_AT_ALL"),
        ({"methods": {"ties": {"density": [i / 5000 for i in range(2500)]}}}, "more than 2000"),
        ({"version": 2}, "version"),
    ],
)
def test_wrong_files_say_where(change: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(ChorusError) as caught:
        load_experiment({**settings(tmp_path, Path("rows.csv")), **change})
    assert told in str(caught.value)


def test_dev_and_test_may_not_share_recordings(tmp_path: Path) -> None:
    manifest = rows_for(tmp_path)
    given = settings(tmp_path, manifest)
    for split in ("dev", "train"):
        given["domains"] = {s: {"where": {"speaker": s}} for s in ("george", "nicolas")}
        given["domains"]["george"]["split"] = split
        count = {"dev": 10, "train": 16}[split]
        with pytest.raises(DataError, match=f"{split} and test share {count} recordings"):
            experiment(given)
    assert not (tmp_path / "out" / "models").exists()


def test_copies_of_dev_recordings_in_test_are_found_by_content(tmp_path: Path) -> None:
    from chorus.data.audio import write_flac
    from chorus.experiment.rows import refuse_same_sounds
    from chorus.transcribe.test_sets import of_rows
    from sounds import tone

    for name in ("a", "b"):
        write_flac(tmp_path / f"{name}.flac", tone(0.5))
    a, b = (of_rows([Row(f"{n}.flac", "one", "en", root=tmp_path)]) for n in ("a", "b"))
    with pytest.raises(DataError, match="share 1 recordings"):
        refuse_same_sounds({"asr": a}, {"asr": b})


def test_domains_without_dev_rows_are_named(tmp_path: Path) -> None:
    manifest = rows_for(tmp_path)
    rows = [r for r in read_manifest(manifest).rows if not (r.speaker == "nicolas" and r.split == "dev")]
    write_manifest(rows, manifest)
    with pytest.raises(RecipeError, match="nicolas: no dev rows"):
        experiment(settings(tmp_path, manifest))


def test_without_the_extra_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump(settings(tmp_path, rows_for(tmp_path))))
    monkeypatch.setitem(sys.modules, "accelerate", None)
    assert chorus_command(["experiment", str(path)]) == 3
    assert 'pip install "chorus-merge[train]"' in capsys.readouterr().err


# ---- plans ----


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_the_examples_plans_can_be_told(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if "synth" in path.stem:
        pytest.skip("a recipe of speech")
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("CHORUS_DATA", os.environ.get("CHORUS_DATA", str(tmp_path)))
    made = load_experiment(path)
    lines = "\n".join(describe(made))
    assert "selection.json" in lines
    assert not made.output_dir.exists() or made.output_dir.name == "demo-output"
    if path.stem != "demo":
        assert set(PAPER) == set(made.methods)
    assert all(METHODS.get(m) for m in made.methods)


def test_the_papers_setting_is_written_out() -> None:
    """arXiv 2603.05354 as far as it is known: ten domains, 3 epochs at 2e-6, 256 a step; joint 10 epochs at 1e-5."""
    made = load_experiment(ROOT / "examples" / "experiments" / "paper-large-v3.yml")
    lines = "\n".join(describe(made))
    assert len(made.domains) == 10
    assert len(made.tests.out_of_domain) == 5
    assert "3 epochs, lr 2e-06, batch 256, full" in lines
    assert "10 epochs, lr 1e-05, batch 256, full" in lines
    assert (made.decoding.beam, made.decoding.segments) == (5, "vad")
    assert made.curves["boosted_tsv_m"]["beta"] == [round(0.1 * i, 1) for i in range(1, 11)]


def test_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(tmp_path, rows_for(tmp_path))
    path = tmp_path / "e.yml"
    path.write_text(yaml.safe_dump(given))
    assert chorus_command(["experiment", str(path), "--dry-run", "--seed", "3", "--seed", "4"]) == 0
    told = capsys.readouterr().out
    assert "seeds 3, 4" in told
    assert "for each of 2 seeds" in told
    assert not (tmp_path / "out").exists()


def test_recipes_of_every_method_plan(ran: Any) -> None:
    from chorus.merge.planning.planner import plan

    given, _ = ran
    made = load_experiment(given)
    planned = 0
    for method in METHODS:
        if (method.models[1] is not None and method.models[1] < 2) or method.name in ("slerp", "nuslerp"):
            continue
        assert plan(recipe_of(plain_template(made, 0), Setting(method.name, method.name, {}))).variants[0].tensors
        planned += 1
    assert planned >= 18


def test_a_domain_may_train_longer_than_the_others(tmp_path: Path) -> None:
    from chorus.experiment.trainings import jobs_of

    given = settings(tmp_path, rows_for(tmp_path))
    given["domains"] = {
        "george": {"where": {"speaker": "george"}, "train": {"train": {"epochs": 7}}},
        "nicolas": {"where": {"speaker": "nicolas"}},
    }
    jobs = {job.name: job.config for job in jobs_of(load_experiment(given))}
    assert {name: config.train.epochs for name, config in jobs.items()} == {"george": 7, "nicolas": 1, "joint": 1}
    assert jobs["george"].train.batch_size == 8
    given["domains"]["nicolas"]["train"] = {"train": {"epoch": 2}}
    with pytest.raises(RecipeError, match=r"domains\.nicolas\.train(.|\n)*epochs"):
        load_experiment(given)


def test_the_time_left_is_learnt_from_what_steps_take(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("chorus.experiment.progress.time.monotonic", lambda: now[0])
    told: list[str] = []
    steps = Steps({"train": 3, "dev": 10}, lambda done, total, text: told.append(text))
    for _ in range(3):
        now[0] += 20.0
        steps.ended("train")
    now[0] += 2.0
    steps.ended("dev", "linear")
    assert steps.left_s() == pytest.approx(18.0)
    assert told[-1] == "dev linear; about 18 s left"
    assert (duration(600), duration(9000)) == ("10 min", "2.5 h")
