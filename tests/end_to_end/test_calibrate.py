"""Calibration of tiny models of the real classes: gradients, the forward, the result, kills, refusals."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import chorus
from calibrations import WEIGHTS, adapters_on, cases, doubled, loaded, recipe_for
from chorus.calibrate import learning, measure
from chorus.calibrate.deltas import Kept, check_bases, deltas_of
from chorus.calibrate.groups import check_plan, coefficients_of, groups_of, starting_weights
from chorus.calibrate.recovery import of_recoveries
from chorus.calibrate.rows import training_config
from chorus.calibrate.run import calibrate
from chorus.calibrate.settings import Calibration
from chorus.cli.main import run
from chorus.data.manifest import Row, write_manifest
from chorus.data.utterance import Utterance
from chorus.errors import CheckpointError, ChorusError, DataError, MisfitError, OutputError, PlanError, UsageError
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.shared import batch_of, loss_of
from chorus.train.config import Augment
from chorus.train.live import Live
from chorus.transcribe.test_sets import looked_at
from models import write_recipe
from sounds import BASE, corpus, tiny

CASES = ["whisper adapters", "whisper tunes", "qwen2_audio adapters", "qwen2_audio tunes"]
SETTINGS = {"batch_size": 2, "window_s": [1], "updates": 3, "every": 1, "device": "cpu", "language": "en"}


@pytest.fixture(scope="module")
def speech(tmp_path_factory) -> Path:
    return corpus(tmp_path_factory.mktemp("speech"), 12)[0]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return cases(tmp_path_factory.mktemp)


class Set:
    """A recipe's models on its loaded base, at double precision where asked, and one batch of rows."""

    def __init__(self, recipe, base, speech, *, double=False, granularity="group", **more):
        self.plan = chorus.plan(recipe, chorus.Options(copy_tokenizer=False))
        check_plan(self.plan)
        check_bases(self.plan)
        self.groups = groups_of(self.plan, granularity, 4)
        self.config = training_config(Calibration(**SETTINGS), str(base), [str(speech)], [str(speech)], [])
        self.backbone = load_backbone(self.config, "cpu")
        if double:
            self.backbone.model.double()
        self.live = Live(
            self.backbone.model, deltas_of(self.plan, self.groups, **more),
            (len(self.groups.tasks), len(self.groups.every)), stored=self.plan.variant().tensors,
        )  # fmt: skip
        self.weights = torch.tensor(starting_weights(self.plan, self.groups), dtype=torch.float64)
        rows = chorus.data.manifest.read_manifest(speech).rows[:3]
        self.batch = batch_of(self.backbone, [self.backbone.example(Utterance(r, 0.6), None, Augment()) for r in rows])

    def loss(self, weights):
        self.live.set(weights)
        return loss_of(self.backbone, self.batch)

    def gradient(self):
        self.loss(self.weights).backward()
        return self.live.gradient()

    def logits(self, model=None):
        model = model or self.backbone.model
        with torch.no_grad(), self.backbone.window(model, self.batch):
            return model(**self.batch).logits


# ---- what is computed ----


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_each_weight_is_the_slope_of_the_loss(made, speech, monkeypatch, case):
    base, recipe = made(case)
    one = Set(recipe, base, speech, double=True)
    doubled(monkeypatch)
    assert one.weights.numel() >= 20
    found, step, seen = one.gradient(), 1e-4, 0
    size = float(found.abs().max())
    for place in torch.nonzero(torch.ones_like(found)).tolist()[::3]:
        move = torch.zeros_like(found)
        move[tuple(place)] = step
        with torch.no_grad():
            slope = float(one.loss(one.weights + move) - one.loss(one.weights - move)) / (2 * step)
        assert slope == pytest.approx(float(found[tuple(place)]), abs=1e-6 * size, rel=1e-5)
        seen += abs(slope) > 1e-6 * size
    assert seen >= 5


@pytest.mark.parametrize("case", CASES)
def test_the_forward_is_that_of_the_merged_model(made, speech, tmp_path, case):
    base, recipe = made(case)
    one = Set(recipe, base, speech)
    before = one.logits()
    chorus.merge(recipe, tmp_path / "whole")
    wanted = one.logits(loaded(case.split()[0], tmp_path / "whole"))
    one.live.set(one.weights)
    size = float((wanted - before).abs().max())
    assert size > 0.05
    assert float((one.logits() - wanted).abs().max()) < 1e-4 * size
    one.live.close()
    assert torch.equal(one.logits(), before)


@pytest.mark.parametrize("case", ["whisper adapters", "qwen2_audio adapters"])
def test_of_adapters_nothing_dense_is_held(made, speech, case):
    base, recipe = made(case)
    one = Set(recipe, base, speech)
    assert len(one.live.ranks) >= 6
    assert set(one.live.ranks.values()) == {5}  # the summed rank of both
    assert one.live._dense == []


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["conv1", "conv2", "q_proj"]},
        {"target_modules": ["embed_tokens", "v_proj"]},
        {"use_dora": True},
        {"use_rslora": True, "bias": "lora_only"},
        {"modules_to_save": ["layer_norm"]},
    ],
    ids=lambda s: " ".join(map(str, s.values())),
)
def test_adapters_of_every_kind_compute_as_their_merge(speech, tmp_path, settings):
    recipe = recipe_for(BASE, adapters_on(BASE, "whisper", tmp_path, 2, **settings), adapters=True)
    one = Set(recipe, BASE, speech)
    before = one.logits()
    chorus.merge(recipe, tmp_path / "whole")
    wanted = one.logits(loaded("whisper", tmp_path / "whole"))
    one.live.set(one.weights)
    size = float((wanted - before).abs().max())
    assert size > 1e-3
    assert float((one.logits() - wanted).abs().max()) < 2e-4 * size


def test_streamed_deltas_are_those_that_are_held(made, speech):
    base, recipe = made("whisper tunes")
    held, streamed = Set(recipe, base, speech), Set(recipe, base, speech, streamed=True)
    assert torch.equal(held.gradient(), streamed.gradient())
    streamed.live.close()
    assert torch.equal(streamed.logits(), Set(recipe, base, speech).logits())


def test_deltas_cut_to_a_rank_come_near_the_whole_ones(made, speech):
    base, recipe = made("whisper tunes")
    whole = Set(recipe, base, speech).gradient()
    errors, energies = [], []
    for rank in (4, 32, 63):
        kept = Kept()
        cut = Set(recipe, base, speech, rank=rank, kept=kept)
        assert any(r == 2 * rank for r in cut.live.ranks.values())
        errors.append(float((cut.gradient() - whole).norm() / whole.norm()))
        energies.append(kept.energy)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1
    assert torch.equal(Set(recipe, base, speech, rank=64).gradient(), whole)  # of these sizes no cut
    assert energies == sorted(energies)
    assert 0 < energies[0] < energies[2] < 1


def test_audio_tower_and_language_model_share_no_group(made, speech):
    _base, recipe = made("qwen2_audio tunes")
    plan = chorus.plan(recipe)
    for granularity, count in (("scalar", 1), ("task", 1), ("component", 5), ("group", 20)):
        groups = groups_of(plan, granularity, 4)
        assert len(groups.every) == count
        if count > 1:
            tower = {g for n, g in groups.of.items() if n.startswith("audio_tower")}
            text = {g for n, g in groups.of.items() if n.startswith("language_model")}
            assert tower
            assert text
            assert not tower & text


# ---- the result ----


def calibrated(recipe, speech, out, **changes):
    more = {k: changes.pop(k) for k in ("restart", "overwrite", "note", "test", "skip_bad") if k in changes}
    data, dev = (changes.pop(k, [str(speech)]) for k in ("data", "dev"))
    return calibrate(recipe, data, dev, out, Calibration(**{**SETTINGS, **changes}), **more)


@pytest.mark.parametrize("granularity", ["scalar", "task", "component", "group"])
@pytest.mark.parametrize("form", ["free", "tanh"])
def test_the_recipe_is_the_model_that_was_measured(made, speech, out, granularity, form):
    _, recipe = made("whisper adapters")
    notes = []
    found = calibrated(
        recipe, speech, out, granularity=granularity, form=form, learning_rate=0.1, patience=9, note=notes.append
    )
    text = found.recipe.read_text()
    assert text.startswith("# The weights")
    assert max(map(len, text.splitlines())) < 200
    plan = chorus.plan(found.recipe)
    groups = groups_of(plan, granularity, 4)
    told = {json.dumps({k: v for k, v in w.items() if k != "weights"}): w["weights"] for w in found.facts["weights"]}
    changed = {
        group for name, group in groups.of.items() if name.endswith(("q_proj.weight", "v_proj.weight", "fc1.weight"))
    }
    assert list(told) == [json.dumps(groups.every[group].selector) for group in sorted(changed)]
    start = starting_weights(chorus.plan(recipe), groups)
    for name, group in groups.of.items():
        # what no adapter changes is not learnt, and keeps the recipe's weights (a scalar scales them all)
        kept = [weights[group] for weights in start]
        wanted = list(told[json.dumps(groups.every[group].selector)].values()) if group in changed else kept
        assert coefficients_of(plan.variant().tensors[name]) == pytest.approx(wanted, abs=1e-12)
    count = {"scalar": 1, "task": 2, "component": 6, "group": 14}[granularity]
    assert any(line.startswith(f"{count} numbers for 2 models in {len(changed)} groups;") for line in notes)
    assert found.facts["best"]["update"] == found.best_update


def test_dev_is_measured_with_the_very_weights_that_are_written(made, speech, out, tmp_path):
    """The loss that the facts tell is that of the merged model, loaded from disk, on the same rows."""
    base, recipe = made("whisper tunes")
    found = calibrated(recipe, speech, tmp_path / "found", learning_rate=0.05, patience=9)
    assert found.best_update > 0
    chorus.merge(found.recipe, tmp_path / "whole")
    one = Set(recipe, base, speech)
    for task in ("d0", "d1"):
        rows = [r for r in chorus.data.manifest.read_manifest(speech).rows if (r.split, r.domain) == ("dev", task)]
        batch = batch_of(one.backbone, [one.backbone.example(u, None, Augment()) for u in looked_at(rows)])
        model = loaded("whisper", tmp_path / "whole")
        with torch.no_grad(), one.backbone.window(model, batch):
            loss = float(model(**batch).loss)
        assert found.facts["best"]["dev"][task] == pytest.approx(loss, rel=1e-4)


def test_of_adapters_one_plain_adapter_comes_too_and_peft_loads_it(made, speech, out, tmp_path):
    from peft import PeftModel

    base, recipe = made("qwen2_audio adapters")
    found = calibrated(recipe, speech, out)
    chorus.merge(found.recipe, tmp_path / "whole")
    one = Set(recipe, base, speech)
    wanted = one.logits(loaded("qwen2_audio", tmp_path / "whole"))
    with warnings.catch_warnings():
        for word in ("missing", "unexpected", "mismatch"):
            warnings.filterwarnings("error", message=f"(?s).*{word}")
        model = PeftModel.from_pretrained(loaded("qwen2_audio", base), found.adapter)
    config = json.loads((found.adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_dora"]) == (5, 5, False)
    assert float((one.logits(model) - wanted).abs().max()) < 1e-5
    cut = calibrated(recipe, speech, out, energy=0.5, overwrite=True)
    facts = json.loads((cut.adapter / "chorus.json").read_text())
    assert all(m["rank"] < 5 and m["energy"] >= 0.5 for m in facts["adapter"]["modules"])


def test_learning_lowers_the_loss_that_it_learns(made, speech, out):
    _, recipe = made("whisper adapters")
    found = calibrated(recipe, speech, out, updates=16, learning_rate=0.05, batch_size=4, every=4, patience=9)
    losses = [entry["loss"] for entry in found.facts["curve"][1:]]
    assert losses[-1] < losses[0]
    assert set(found.facts["rows"]) == {"d0", "d1"}


@pytest.mark.parametrize("rule", ["mean", "minimum", "geometric", "l2"])
def test_a_simplex_is_chosen_by_each_rule(made, speech, out, monkeypatch, rule):
    monkeypatch.setattr("chorus.calibrate.recovery.ERRORS", 0.0)  # of random adapters, what chance gains counts
    _, recipe = made("whisper adapters")
    found = calibrated(
        recipe, speech, out, updates=4, every=1, form="simplex", rule=rule, start=0.5, learning_rate=0.05
    )
    curve = found.facts["curve"]
    scored = [of_recoveries(list(entry["recovery"].values()), rule) for entry in curve]
    assert found.best_update == curve[scored.index(max(scored))]["update"]
    # of a task below the base the geometric mean is none, which JSON has not
    told = found.facts["best"]["score"]
    assert (-math.inf if told is None else told) == pytest.approx(max(scored))
    assert all(weight > 0 for one in found.facts["weights"] for weight in one["weights"].values())


def test_balanced_tasks_count_by_what_each_has_to_recover(made, speech, out, monkeypatch):
    _, recipe = made("whisper adapters")
    monkeypatch.setattr("chorus.calibrate.recovery.ERRORS", 0.0)  # of random adapters, what chance gains counts
    seen = []
    start = learning.Learner.__init__
    monkeypatch.setattr(
        learning.Learner, "__init__", lambda self, *given: (start(self, *given), seen.append(self.shares))[0]
    )  # fmt: skip
    alike = calibrated(recipe, speech, out.with_name("alike"), updates=2)
    found = calibrated(recipe, speech, out, updates=2, balance="recovery")
    singles = found.facts["singles"]
    base = singles["base"]["dev"]
    gains = {task: base[task] - min(one["dev"][task] for one in singles.values()) for task in base}
    assert seen[0] == {"d0": 0.5, "d1": 0.5}
    counted = [task for task, share in seen[1].items() if share]
    assert counted, "of random adapters one at least betters the base"
    total = sum(1 / gains[task] for task in counted)
    assert seen[1] == {task: pytest.approx(1 / gains[task] / total if task in counted else 0) for task in gains}
    assert found.facts["weights"] != alike.facts["weights"]


@pytest.mark.parametrize(("rows", "size", "sizes"), [
    (1, 8, [1]), (2, 8, [1, 1]), (3, 8, [1, 1, 1]), (4, 8, [1] * 4), (9, 8, [2, 2, 2, 2, 1]), (40, 8, [8] * 5),
    (10, 1, [1] * 10),
])  # fmt: skip
def test_dev_is_cut_so_that_an_error_of_the_gain_can_be_told(speech, rows, size, sizes):
    config = training_config(Calibration(batch_size=size), "base", [str(speech)], [str(speech)], [])
    parts = list(measure._parts([Utterance(Row(str(i)), float(i)) for i in range(rows)], config))
    assert [len(part) for part in parts] == sizes
    assert [u.duration_s for part in parts for u in part] == sorted(map(float, range(rows)), reverse=True)


def test_error_rates_choose_as_the_loss_does(made, speech, out):
    _, recipe = made("whisper adapters")
    found = calibrated(recipe, speech, out, updates=1, measure="cer", max_new_tokens=6, normaliser="basic")
    assert set(found.facts["best"]["dev"]) == {"d0", "d1"}
    assert all(value >= 0 for value in found.facts["singles"]["base"]["dev"].values())


# ---- killed, and given again ----


def test_a_killed_calibration_ends_in_the_same_numbers(made, speech, tmp_path, monkeypatch):
    _, recipe = made("whisper tunes")
    settings = {"updates": 5, "every": 2, "patience": 9, "form": "tanh"}
    straight = calibrated(recipe, speech, tmp_path / "straight", **settings)
    real, told = learning.Learner.update, []

    def killed(self, number, **more):
        if number == 3:
            raise KeyboardInterrupt
        return real(self, number, **more)

    monkeypatch.setattr(learning.Learner, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrated(recipe, speech, tmp_path / "again", **settings)
    assert not (tmp_path / "again").exists()
    monkeypatch.setattr(learning.Learner, "update", real)
    with pytest.raises(OutputError, match="another calibration"):
        calibrated(recipe, speech, tmp_path / "again", **{**settings, "seed": 1})
    found = calibrated(recipe, speech, tmp_path / "again", note=told.append, **settings)
    assert "going on from update 2" in told
    assert found.facts == straight.facts
    assert found.recipe.read_bytes() == straight.recipe.read_bytes()
    assert sorted(p.name for p in found.directory.iterdir()) == ["chorus.json", "recipe.yml"]
    with pytest.raises(OutputError, match="exists and is not empty"):
        calibrated(recipe, speech, tmp_path / "again", **settings)


def test_measures_without_a_better_one_end_it(made, speech, out, monkeypatch):
    _, recipe = made("whisper adapters")
    # uphill: no measure is better than the first
    monkeypatch.setattr(Live, "gradient", lambda self, real=Live.gradient: -real(self))
    found = calibrated(recipe, speech, out, updates=40, patience=2, learning_rate=0.05)
    assert (found.best_update, found.updates) == (0, 2)
    plan = chorus.plan(found.recipe)
    assert {coefficients_of(t) for t in plan.variant().tensors.values() if t.steps} == {WEIGHTS[:2]}


# ---- what is refused ----


def test_a_weight_that_diverges_ends_it_with_the_update_named(made, speech, out):
    _, recipe = made("whisper adapters")
    with pytest.raises(ChorusError, match=r"update \d: the weight of base\+adapter-\d \(.*beyond the bound of 1.5"):
        calibrated(recipe, speech, out, learning_rate=0.9, bound=1.5)
    with pytest.raises(ChorusError, match=r"update 2: the (loss|weight) of .* (nan|inf)|update \d: .*beyond"):
        calibrated(recipe, speech, out, learning_rate=1e30, bound=1e300, restart=True)


@pytest.mark.parametrize("kind", ["same file", "copy", "test in dev", "test named apart"])
def test_rows_of_another_side_are_refused(made, speech, out, tmp_path, kind):
    _, recipe = made("whisper adapters")
    rows = chorus.data.manifest.read_manifest(speech).rows
    train = [r for r in rows if r.split == "train"]
    dev = [r for r in rows if r.split == "dev"]
    if kind == "copy":
        (tmp_path / "audio").mkdir()
        shutil.copy(train[0].audio, tmp_path / "audio" / "other.flac")
        dev = [*dev, replace(dev[0], path="audio/other.flac", root=tmp_path)]
    elif kind == "same file":
        dev = [*dev, replace(train[0], split="dev")]
    tests = [replace(dev[0], split="test")] if kind == "test in dev" else []
    aside = [replace(train[1], split="")] if kind == "test named apart" else []
    whole = lambda r: replace(r, path=str(r.audio), root=tmp_path)
    a, b, c = (
        write_manifest([whole(r) for r in some], tmp_path / name)
        for name, some in (("a.csv", train), ("b.csv", [*dev, *tests]), ("c.csv", aside or dev))
    )
    told = "test rows are in the" if "test" in kind else "dev rows are in the calibration data"
    with pytest.raises(DataError, match=told):
        calibrated(recipe, speech, out, data=[str(a)], dev=[str(b)], test=[str(c)] if aside else [])


def test_what_cannot_be_calibrated_is_refused_before_anything_is_loaded(made, speech, out, tmp_path):
    _base, recipe = made("whisper adapters")
    with pytest.raises(PlanError, match="no weighted sum of task vectors"):
        calibrated({**recipe, "merge_method": "ties"}, speech, out)
    with pytest.raises(PlanError, match="plain form"):
        calibrated({**recipe, "outputs": [{"name": "a"}, {"name": "b"}]}, speech, out)
    with pytest.raises(UsageError, match="d0=nobody: no model of the recipe"):
        calibrated(recipe, speech, out, own={"d0": "nobody"})
    with pytest.raises(UsageError, match="d7: no domain of the rows"):
        calibrated(recipe, speech, out, own={"d7": "base+adapter-0"})
    rows = [replace(r, path=str(r.audio)) for r in chorus.data.manifest.read_manifest(speech).rows]
    lonely = write_manifest([r for r in rows if r.split == "train" or r.domain == "d0"], tmp_path / "m.csv")
    with pytest.raises(MisfitError, match="domain d1: only in the calibration rows"):
        calibrated(recipe, lonely, out)
    undivided = write_manifest([r for r in rows if r.split == "train"], tmp_path / "n.csv")
    with pytest.raises(ChorusError, match="dev"):
        calibrated(recipe, undivided, out)


def test_a_row_that_asks_nothing_is_refused_before_anything_is_loaded_or_left_out(
    made, speech, out, tmp_path, monkeypatch
):
    _base, recipe = made("qwen2_audio adapters")
    rows = [
        replace(r, path=str(r.audio), extra={"instruction": "Which word is it?", "answer": r.text})
        for r in chorus.data.manifest.read_manifest(speech).rows
    ]
    rows[0].extra["instruction"] = ""
    mute = write_manifest(rows, tmp_path / "m.csv")
    with monkeypatch.context() as patch:
        patch.setattr("chorus.train.backbones.choose.load_backbone", None)
        with pytest.raises(DataError, match="task custom: no instruction"):
            calibrated(recipe, mute, out, task="custom")
    told = []
    calibrated(recipe, mute, out, task="custom", updates=1, skip_bad=True, note=told.append)
    assert "left out: 1 task custom: no instruction" in told


def test_adapters_of_other_backbones_are_refused(made, speech, out, tmp_path):
    base, recipe = made("whisper adapters")
    strange = adapters_on(tiny(tmp_path / "q", "qwen2_audio"), "qwen2_audio", tmp_path / "q", 1)
    entry = {"model": str(base), "lora": str(strange[0])}
    with pytest.raises(PlanError, match="adapter"):
        calibrated({**recipe, "models": [recipe["models"][0], entry]}, speech, out)
    # of the same shapes, and yet another model
    other = tmp_path / "other"
    model = loaded("whisper", base)
    model.model.encoder.conv1.weight.data += 0.1
    model.model.encoder.layers[0].fc1.weight.data += 0.1
    model.save_pretrained(other)
    entry = {"model": str(other), "lora": recipe["models"][1]["lora"]}
    with pytest.raises(PlanError, match="stands on another base"):
        calibrated({**recipe, "models": [recipe["models"][0], entry]}, speech, out)


def test_values_that_are_not_finite_are_refused(made, speech, out, tmp_path):
    base, recipe = made("whisper tunes")
    model = loaded("whisper", base)
    model.model.encoder.layers[0].fc1.weight.data[0, 0] = float("nan")
    model.save_pretrained(tmp_path / "broken")
    with pytest.raises(CheckpointError, match="nan at position"):
        calibrated({**recipe, "models": [{"model": str(tmp_path / "broken")}]}, speech, out)


# ---- the command ----


def test_the_command_prints_what_it_has_written(made, speech, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, recipe = made("whisper adapters")
    write_recipe(tmp_path / "r.yml", recipe)
    line = ["calibrate", "r.yml", "--data", str(speech), "--dev", str(speech), "--window", "1", "--batch-size", "2"]
    line += ["--updates", "1", "--device", "cpu", "--granularity", "task"]
    assert run([*line, "-o", "done"]) == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-2:] == ["done/recipe.yml", "done/adapter"]
    assert "calibrated" in shown.out
    assert "update 1: dev loss" in shown.err
    assert yaml.safe_load((tmp_path / "done" / "recipe.yml").read_text())["merge_method"] == "task_arithmetic"
    assert run([*line, "-o", "other", "--json", "-q"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "calibrate"
    assert run(["calibrate", "other/recipe.yml", *line[2:], "-o", "third", "-q"]) == 0  # its own result is a recipe
    assert capsys.readouterr().out.splitlines() == ["third/recipe.yml", "third/adapter"]
    assert run([*line, "-o", "fourth", "--own", "d0"]) == 2
    assert "write TASK=MODEL" in capsys.readouterr().err
    assert run([*line, "-o", "fourth", "--start", "-0.5", "--form", "simplex"]) == 2
    assert "start all above 0" in capsys.readouterr().err
