"""What an experiment found, written as results.json, and drawn from it: tables, plots, the page. Made up, no model."""

from __future__ import annotations

import contextlib
import json
import math
import random
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from chorus.analyse.interference_facts import Effect, Outgoing, Summed
from chorus.analyse.overfitting import GridPoint, OverfittingAnalysis
from chorus.analyse.ranks import Ranks
from chorus.errors import DataError
from chorus.evaluate.compare import compare
from chorus.evaluate.results import Evaluation
from chorus.experiment.commands import commands_of
from chorus.experiment.cost import describe
from chorus.experiment.findings import findings
from chorus.experiment.findings import told as told_of
from chorus.experiment.load import load_experiment
from chorus.experiment.pooled import pooled
from chorus.experiment.publish import publish
from chorus.experiment.results import Results, collect, read_results, write_results
from chorus.experiment.schema import Experiment
from chorus.experiment.steps import Outcome, curves_of
from chorus.experiment.tables import tables_of
from chorus.search.grids import grid_of
from chorus.search.selection import Chosen
from damage import of_document, torn
from results import made_up
from sounds import ROOT

CELLS = ("radio", "phone", "extra", "fado")
WRONG = {  # of 20 utterances of each cell
    "base": (16, 16, 4, 4), "radio": (4, 18, 8, 6), "phone": (18, 4, 8, 6), "joint": (6, 6, 6, 12),
    "linear": (10, 11, 4, 5), "ties": (7, 8, 5, 6),
}  # fmt: skip
CONDITIONS = ["clean", "telephone"]


def told(output: Path, **more: object) -> Experiment:
    domains = {name: {"where": {"domain": name}} for name in ("radio", "phone")}
    return load_experiment({
        "name": "made-up", "output": str(output), "base": "openai/whisper-small", "data": {"manifest": "rows.csv"},
        "domains": domains, "seeds": [0, 1], "conditions": CONDITIONS,
        "tests": {"out-of-domain": {"extra": {}}, "other-language": {"fado": {"language": "pt"}}},
        "methods": {"linear": {}, "ties": {"density": [0.2, 0.5], "lambda": 1.0}},
        "curves": {"ties": {"lambda": [0.5, 1.0, 1.5]}}, "decoding": {"window_s": 3, "beam": 2, "prompt": "a b"},
        **more,
    })  # fmt: skip


def evaluation(place: Path, label: str, wrong: tuple[int, ...]) -> Evaluation:
    role = {"base": "base", "joint": "joint", "radio": "specialist", "phone": "specialist"}.get(label, "merge")
    cells = dict(zip(CELLS, wrong, strict=True))
    home = label if role == "specialist" else ""
    return made_up(place, label, cells, role=role, home=home, languages={"fado": "pt"}, conditions=CONDITIONS)


def outcome_of(experiment: Experiment, place: Path) -> Outcome:
    chosen = {"linear": Chosen(grid_of("linear", {})[0], 44.0),
              "ties": Chosen(grid_of("ties", {"density": 0.5, "lambda": 1.0})[0], 31.5)}  # fmt: skip
    outcome = Outcome(experiment.output_dir, "ties", chosen)
    outcome.test["asr"], outcome.curves["asr"] = {}, {}
    for seed in experiment.seeds:
        outcome.test["asr"][seed] = [
            evaluation(place / f"{seed}", label, tuple(min(20, n + seed) for n in wrong))
            for label, wrong in WRONG.items()
        ]
        points = curves_of(experiment, chosen)["ties"].settings
        outcome.curves["asr"].setdefault("ties", {})[seed] = [
            evaluation(place / f"curve-{seed}", p.label, (9 - i, 8, 5, 5 + i)) for i, p in enumerate(points)
        ]
    return outcome


RANKS = {
    label: [Ranks(f"m{i}", 8, 2.0 + i, 1.5, 0.1 * scale) for i in range(3)]
    for scale, label in enumerate(("radio", "phone", "joint", "linear", "ties"), 1)
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Results]:
    place = tmp_path_factory.mktemp("made-up")
    experiment = told(place / "out")
    (place / "out").mkdir()
    write_results(collect(experiment, outcome_of(experiment, place), RANKS), place / "out")
    publish(place / "out")
    return experiment, read_results(place / "out")


def test_results_are_read_as_they_were_written(drawn: tuple[Experiment, Results], tmp_path: Path) -> None:
    experiment, results = drawn
    write_results(results, tmp_path)
    ours, theirs = ((d / "results.json").read_bytes() for d in (tmp_path, experiment.output_dir))
    assert ours == theirs
    assert read_results(tmp_path) == results
    json.loads(ours, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def test_results_hold_what_is_shown(drawn: tuple[Experiment, Results]) -> None:
    _, results = drawn
    (task,) = results.tasks.values()
    assert (results.best, task.metric, results.seeds) == ("ties", "error rate", [0, 1])
    radio = task.by_seed["base"]["in-domain"]
    assert radio.each == {0: 40.0, 1: 42.5}
    assert radio.mean == 41.25
    assert radio.deviation == pytest.approx(2.5 / math.sqrt(2))
    assert [(one.name, one.of, one.dev) for one in results.selection] == [("linear", 1, 44.0), ("ties", 2, 31.5)]
    curve = task.curves["ties"]
    assert curve.parameter == "lambda"
    assert [p.value for p in curve.points] == [0.5, 1.0, 1.5]
    values = [p.averages["in-domain"].value for p in curve.points]
    assert values == sorted(values, reverse=True)
    assert all(p.averages["in-domain"].low <= p.averages["in-domain"].value for p in curve.points)
    ranks = results.effective_ranks["joint"]
    assert (ranks.role, ranks.effective, ranks.share, ranks.norm) == ("joint", 3.0, 3 / 8, pytest.approx(0.3))
    assert results.effective_ranks["radio"].role == "specialist"
    assert set(task.by_condition) == set(CONDITIONS)
    assert "openai/whisper-small" in results.source
    assert results.facts["seeds"] == "0, 1"
    assert load_experiment(_yaml(results.source)) == drawn[0], "the source on the page is the experiment"


def _yaml(text: str) -> dict[str, object]:
    import yaml

    found: dict[str, object] = yaml.safe_load(text)
    return found


def test_the_demo_prints_a_table_of_results_as_they_are_now(
    drawn: tuple[Experiment, Results], capsys: pytest.CaptureFixture[str]
) -> None:
    """What the README's first command ends in; nothing else runs it in a minute."""
    demo = runpy.run_path(str(ROOT / "examples" / "digits" / "demo.py"), run_name="demo")
    demo["print_table"](json.loads((drawn[0].output_dir / "results.json").read_text()))
    shown = capsys.readouterr().out
    assert "ties *" in shown
    assert "in-domain [95 %]" in shown


def test_every_table_is_there_in_every_form(drawn: tuple[Experiment, Results]) -> None:
    experiment, results = drawn
    titles = [table.title for table in tables_of(results)]
    assert len(titles) == 8
    for words in ("WER", "under conditions", "Each seed", "ties over lambda", "chosen on dev", "Differences", "Ranks"):
        assert sum(words in title for title in titles) == 1, words
    names = {p.name for p in (experiment.output_dir / "tables").iterdir()}
    assert len(names) == 3 * 8
    assert {p.split(".")[-1] for p in names} == {"md", "csv", "tex"}


def test_an_earlier_runs_tables_go(drawn: tuple[Experiment, Results], tmp_path: Path) -> None:
    experiment, _ = drawn
    shutil.copy(experiment.output_dir / "results.json", tmp_path)
    (tmp_path / "tables").mkdir()
    for name in ("09-of-another-run.md", "notes.md"):
        (tmp_path / "tables" / name).write_text("old")
    publish(tmp_path)
    assert not (tmp_path / "tables" / "09-of-another-run.md").exists()
    assert (tmp_path / "tables" / "notes.md").exists(), "what is not ours stays"


def test_it_is_drawn_again_without_models_evaluations_and_their_packages(
    drawn: tuple[Experiment, Results], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, _ = drawn
    shutil.copy(experiment.output_dir / "results.json", tmp_path)
    for name in ("torch", "transformers", "safetensors", "accelerate", "soundfile"):
        monkeypatch.setitem(sys.modules, name, None)
    publish(tmp_path)
    for path in (p for p in experiment.output_dir.rglob("*") if p.is_file()):
        assert (tmp_path / path.relative_to(experiment.output_dir)).read_bytes() == path.read_bytes(), path.name


def test_every_system_of_the_page_leads_to_its_command(drawn: tuple[Experiment, Results]) -> None:
    experiment, results = drawn
    page = (experiment.output_dir / "report.html").read_text()
    anchors = re.findall(r'id="(cmd-[^"]+)"', page)
    assert len(anchors) == len(set(anchors)) == len(results.commands) == 4 + 2 + 3
    for row in re.findall(r"<tr>(<td.*?)</tr>", page, re.DOTALL):
        assert re.match(r'<td[^>]*><a href="#(cmd-[^"]+)"', row)[1] in anchors
    assert page.count("data:image/svg+xml;base64,") == 4


def test_commands_tell_the_decoding_and_the_conditions(drawn: tuple[Experiment, Results]) -> None:
    _, results = drawn
    by_name = {one.name: one.lines for one in results.commands}
    (base,) = by_name["base"]
    for flag in ("base=openai/whisper-small", "--window 3", "--beam 2", "--prompt 'a b'", "--condition telephone",
                 "--normaliser marks", "--split all"):  # fmt: skip
        assert flag in base
    assert "--condition clean" not in base
    assert by_name["radio"][0].startswith("chorus train ")
    assert by_name["ties"][1].startswith("chorus merge ")
    (point,) = by_name["ties[density=0.5,lambda=1.5]"]
    assert point.startswith("chorus evaluate ties_density_0.5_lambda_1.5_=")


def test_findings_are_sentences_of_the_numbers(drawn: tuple[Experiment, Results]) -> None:
    _, results = drawn
    text = " ".join(told_of(results))
    merge = next(line for line in results.tasks["asr"].compared.lines if line.label == "ties")
    assert f"Chosen on dev: ties. On test, error rate over the domains: {merge.averages['in-domain']:.1f} %" in text
    assert f"recovers {merge.recovery_mean:.2f} in the mean" in text
    assert "Outside the domains the merge loses" in text
    assert "over 2 seeds together" in text


def test_findings_tell_that_ranks_and_weights_are_of_one_seed(drawn: tuple[Experiment, Results]) -> None:
    _, results = drawn
    effect = Effect(5.0, 4.0, 6.0, None)
    others = Summed(1, effect, "phone", 5.0, 0, None, None, "", None, 1, 1, 0, 0)
    outgoing = Outgoing("radio", ["radio"], effect, others, overfits=False, surely=False)
    point = GridPoint("radio", "radio", None, 1.0, False, 1.0, {}, 1.0, outgoing)
    grids = OverfittingAnalysis("base", [], ["radio"], {"radio": ["radio"]}, [point])
    for seeds in ([0, 1], [0]):
        lines = told_of(results.model_copy(update={"overfitting": grids.as_dict(), "seeds": seeds}))
        (place,) = [i for i, line in enumerate(lines) if line.startswith("radio gains at home")]
        assert ("of the first of 2 seeds alone" in lines[place - 1]) == (len(seeds) > 1), lines


def test_findings_know_metrics_of_which_more_is_better(tmp_path: Path) -> None:
    """BLEU: the best specialist has most, a gain is upward, a loss downward, and nothing is percent."""
    evaluations = [
        made_up(tmp_path, label, dict(zip(CELLS, wrong, strict=True)), role=role, home=home, task="st", words=6)
        for label, wrong, role, home in (
            ("base", (16, 16, 4, 4), "base", ""), ("radio", (4, 18, 10, 6), "specialist", "radio"),
            ("phone", (12, 6, 8, 6), "specialist", "phone"), ("joint", (6, 6, 6, 9), "joint", ""),
            ("ties", (7, 9, 6, 7), "merge", ""),
        )
    ]  # fmt: skip
    compared = compare(evaluations)
    lines = {line.label: line for line in compared.lines}
    text = " ".join(findings(compared, "ties", 1))
    assert "%" not in text
    assert f"On test, BLEU over the domains: {lines['ties'].averages['in-domain']:.1f} [" in text
    assert lines["phone"].averages["in-domain"] > lines["radio"].averages["in-domain"]
    assert "the best of them over all domains, phone, has" in text
    gains = sorted(lines[n].rates[n] - lines["base"].rates[n] for n in ("radio", "phone"))
    assert gains[0] > 0
    assert f"gain {gains[0]:.1f} to {gains[1]:.1f} points" in text
    forgotten = lines["ties"].forgetting
    assert forgotten is not None
    assert forgotten > 0
    assert f"Outside the domains the merge loses {forgotten:.1f} points" in text
    fallen = [lines[n].forgetting for n in ("radio", "phone")]
    assert f"(change of the specialists: radio {-fallen[0]:+.1f}, phone {-fallen[1]:+.1f})" in text


def test_a_plan_names_the_metric_that_chooses(tmp_path: Path) -> None:
    assert any("by the in-domain dev error rate ->" in line for line in describe(told(tmp_path)))
    translating = told(tmp_path, decoding={"task": "st"})
    assert any("by the in-domain dev BLEU ->" in line for line in describe(translating))


def test_an_experiment_of_one_seed_without_joint_curves_and_conditions(tmp_path: Path) -> None:
    experiment = told(tmp_path / "out", seeds=[0], joint=False, curves={}, conditions=["clean"], tests={})
    chosen = {"linear": Chosen(grid_of("linear", {})[0], 44.0)}
    outcome = Outcome(experiment.output_dir, "linear", chosen)
    outcome.test["asr"] = {0: [
        made_up(tmp_path, label, dict(zip(CELLS[:2], WRONG[label][:2], strict=True)), role=role, home=home)
        for label, role, home in (("base", "base", ""), ("radio", "specialist", "radio"),
                                  ("phone", "specialist", "phone"), ("linear", "merge", ""))
    ]}  # fmt: skip
    (tmp_path / "out").mkdir()
    write_results(collect(experiment, outcome, {k: RANKS[k] for k in ("radio", "phone", "linear")}), tmp_path / "out")
    page = publish(tmp_path / "out").read_text()
    assert "Joint" not in page.split("<section")[0]
    assert not (tmp_path / "out" / "plots" / "trade.svg").exists()
    assert len(list((tmp_path / "out" / "tables").glob("*.md"))) == 6
    assert [c.name for c in commands_of(experiment, chosen)] == ["base", "radio", "phone", "linear"]


def test_a_rate_of_nothing_is_null_and_drawn_as_a_dash(tmp_path: Path) -> None:
    """Where all references are empty there is no error rate."""
    experiment = told(tmp_path / "out", seeds=[0], curves={}, conditions=["clean"], tests={}, joint=False)
    outcome = Outcome(experiment.output_dir, "linear", {"linear": Chosen(grid_of("linear", {})[0], math.nan)})
    for label, role, home in (("base", "base", ""), ("radio", "specialist", "radio"), ("phone", "specialist", "phone"),
                              ("linear", "merge", "")):  # fmt: skip
        outcome.test.setdefault("asr", {}).setdefault(0, []).append(
            made_up(tmp_path, label, {"radio": 3, "phone": 0}, role=role, home=home, words=0)
        )
    results = collect(experiment, outcome, {k: RANKS[k] for k in ("radio", "phone", "linear")})
    (tmp_path / "out").mkdir()
    write_results(results, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text())["selection"][0]["dev"] is None
    assert math.isnan(read_results(tmp_path / "out").selection[0].dev)
    publish(tmp_path / "out")
    (table,) = (tmp_path / "out" / "tables").glob("01-*.csv")
    assert "base,-,-,-" in table.read_text()


@pytest.mark.parametrize(
    ("written", "message"),
    [(None, "not there"), ("{", "not readable as JSON"), ('{"version": 7}', "not what this version writes")],
)
def test_results_that_cannot_be_read_say_why(written: str | None, message: str, tmp_path: Path) -> None:
    if written is not None:
        (tmp_path / "results.json").write_text(written)
    with pytest.raises(DataError, match=message):
        publish(tmp_path)


@pytest.mark.parametrize("damage", [of_document, torn])
def test_results_that_were_changed_are_refused(damage, drawn: tuple[Experiment, Results], tmp_path: Path) -> None:
    """A hundred damages of each kind: a changed number would stand in tables and plots like any other."""
    text = (drawn[0].output_dir / "results.json").read_text(encoding="utf-8")
    same = 0
    for seed in range(100):
        data = damage(text, random.Random(seed))
        (tmp_path / "results.json").write_bytes(data)
        with contextlib.suppress(DataError):
            read_results(tmp_path)
            assert json.loads(data, parse_int=float) == json.loads(text, parse_int=float), seed
            same += 1
    assert same < 30, "most is white space or the end of a line"
    assert not (tmp_path / "report.html").exists()


def test_pooled_seeds_keep_every_answer(tmp_path: Path) -> None:
    seeds = {s: [evaluation(tmp_path / str(s), "base", WRONG["base"])] for s in (3, 5)}
    (one,) = pooled(seeds)
    assert len(one.rows) == 2 * len(seeds[3][0].rows)
    assert {row["name"].split(" (")[1] for row in one.rows} == {"seed 3)", "seed 5)"}
    assert [row.utterance for row in one.scored] == [row["utterance"] for row in one.rows]
