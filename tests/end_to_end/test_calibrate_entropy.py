"""Calibration without answers: the entropy of labels, its gradient, what chooses, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import chorus
from calibrations import cases, doubled, recipe_for
from chorus.calibrate import learning
from chorus.calibrate.deltas import deltas_of
from chorus.calibrate.entropy import entropies, entropy_of
from chorus.calibrate.groups import check_plan, groups_of, starting_weights
from chorus.calibrate.rows import read_rows, training_config
from chorus.calibrate.settings import Calibration
from chorus.cli.main import run
from chorus.data.manifest import Row, read_manifest, write_manifest
from chorus.errors import ChorusError, DataError, MisfitError, RecipeError, UsageError
from chorus.settings import validated
from chorus.train.backbones.choose import load_backbone
from chorus.train.backbones.protocol import LabelBackbone
from chorus.train.live import Live
from chorus.transcribe.backends.choose import BACKENDS
from chorus.transcribe.backends.protocol import Sound
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import open_system
from models import write_recipe
from sounds import WORDS, corpus, tiny

CASES = ["whisper adapters", "whisper tunes", "qwen2_audio adapters", "qwen2_audio tunes"]
SETTINGS: dict[str, Any] = {
    "objective": "entropy", "task": "kws", "batch_size": 2, "window_s": [1], "updates": 3, "every": 1, "device": "cpu",
    "granularity": "component", "language": "en",
}  # fmt: skip
Made = Callable[[str], tuple[Path, dict[str, Any]]]
CHOICES = {"choices": "|".join(WORDS)}


def silent(rows: list[Row], place: Path, **changes: Any) -> Path:
    """The rows with choices and without answers."""
    extra = changes.pop("extra", CHOICES)
    return write_manifest(
        [replace(r, path=str(r.audio), text="", extra=dict(extra), **changes) for r in rows], place
    )  # fmt: skip


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    return corpus(tmp_path_factory.mktemp("speech"), 12)[1]


@pytest.fixture(scope="module")
def speech(heard: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return silent(heard, tmp_path_factory.mktemp("manifest") / "silent.csv")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return cases(tmp_path_factory.mktemp)


def calibrated(recipe: Any, speech: Path, out: Path, **changes: Any) -> Any:
    more = {k: changes.pop(k) for k in ("restart", "note") if k in changes}
    data, dev = (changes.pop(k, [str(speech)]) for k in ("data", "dev"))
    return chorus.calibrate(recipe, data, dev, out, Calibration(**{**SETTINGS, **changes}), **more)


# ---- what is computed ----


@pytest.mark.parametrize("count", [2, 3, 35, 500])
def test_the_entropy_is_the_formula_in_float64(count: int) -> None:
    odds = np.random.default_rng(count).normal(-40, 12, count)
    shares = np.exp(odds - odds.max()) / np.exp(odds - odds.max()).sum()
    wanted = -np.sum(shares * np.log(shares))
    assert float(entropy_of(torch.tensor(odds))) == pytest.approx(wanted, rel=1e-12)
    assert float(entropy_of(torch.tensor(odds, dtype=torch.float32))) == pytest.approx(wanted, abs=1e-5)


def test_the_entropy_of_the_sure_and_of_the_clueless() -> None:
    """Of likelihoods that no exponential could hold too: 0 and log n, with gradients that are numbers."""
    odds = torch.tensor([[-5.0, -2000.0, -9000.0], [-2000.0, -2000.0, -2000.0]], requires_grad=True)
    found = entropy_of(odds)
    assert found.tolist() == pytest.approx([0.0, np.log(3)], abs=1e-6)
    found.sum().backward()
    assert bool(torch.isfinite(odds.grad).all())


class Set:
    """A recipe's models on its loaded base, in float64, and three rows without answers."""

    def __init__(self, recipe: Any, base: Path, speech: Path) -> None:
        plan = chorus.plan(recipe, chorus.Options(copy_tokenizer=False))
        check_plan(plan)
        groups = groups_of(plan, "group", 4)
        self.config = training_config(Calibration(**SETTINGS), str(base), [str(speech)], [str(speech)], [])
        self.backbone = load_backbone(self.config, "cpu")
        self.backbone.model.double()
        shape = (len(groups.tasks), len(groups.every))
        self.live = Live(self.backbone.model, deltas_of(plan, groups), shape, stored=plan.variant().tensors)
        self.weights = torch.tensor(starting_weights(plan, groups), dtype=torch.float64)
        self.rows = read_rows(self.config, Calibration(**SETTINGS), needs_audio=True, skip_bad=False).train[:3]

    def entropy(self, weights: torch.Tensor) -> torch.Tensor:
        self.live.set(weights)
        return entropies(self.backbone, self.config, self.rows).mean()


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_of_each_weight_is_the_slope_of_the_entropy(
    made: Made, speech: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    base, recipe = made(case)
    one = Set(recipe, base, speech)
    doubled(monkeypatch)
    one.entropy(one.weights).backward()
    found, step, seen = one.live.gradient(), 1e-4, 0
    size = float(found.abs().max())
    assert size > 0
    for place in torch.nonzero(torch.ones_like(found)).tolist()[::3]:
        move = torch.zeros_like(found)
        move[tuple(place)] = step
        with torch.no_grad():
            slope = float(one.entropy(one.weights + move) - one.entropy(one.weights - move)) / (2 * step)
        assert slope == pytest.approx(float(found[tuple(place)]), abs=1e-5 * size, rel=1e-4)
        seen += abs(slope) > 1e-6 * size
    assert seen >= 5


@pytest.mark.parametrize(("kind", "language"), [("whisper", "en"), ("qwen2_audio", "en"), ("qwen2_audio", "zh")])
def test_what_is_lowered_is_of_the_scores_that_evaluation_tells(
    made: Made, speech: Path, kind: str, language: str
) -> None:
    base, _ = made(f"{kind} adapters")
    config = training_config(Calibration(**SETTINGS), str(base), [str(speech)], [str(speech)], [])
    backbone = load_backbone(config, "cpu")
    assert isinstance(backbone, LabelBackbone)
    rows = read_rows(config, Calibration(**SETTINGS), needs_audio=True, skip_bad=False).train[:3]
    rows = [replace(u, row=replace(u.row, language=language)) for u in rows]
    decoder = BACKENDS.get("transformers")(open_system(base), Decoding(task="kws", window_s=(1,)), "cpu")
    told = decoder.transcribe([Sound(u.audio(), u.row, f"{i}") for i, u in enumerate(rows)])
    with torch.no_grad():
        odds = backbone.label_odds(backbone.model, rows, [WORDS] * 3)
        found = entropies(backbone, config, rows)
    for one, hypothesis, entropy in zip(odds, told, found, strict=True):
        assert list(hypothesis.scores) == list(WORDS)
        wanted = [value for value, _ in hypothesis.scores.values()]
        assert one.tolist() == pytest.approx(wanted, abs=1e-4)
        assert float(entropy) == pytest.approx(float(entropy_of(torch.tensor(wanted).double())), abs=1e-5)


def test_labels_are_scored_as_they_were_taught_whatever_is_spoken(made: Made, speech: Path) -> None:
    """Names of languages are English words: of Japanese speech they were scored without the space that is learnt."""
    base, _ = made("whisper adapters")
    config = training_config(Calibration(**{**SETTINGS, "task": "langid"}), str(base), [str(speech)], [str(speech)], [])
    backbone: Any = load_backbone(config, "cpu")
    row = replace(read_manifest(speech, needs=()).rows[0], language="ja")
    assert backbone.tokens(row, "one") == backbone.tokens(replace(row, language="en"), "one")
    decoder: Any = BACKENDS.get("transformers")(open_system(base), Decoding(task="langid", window_s=(1,)), "cpu")
    hidden, silence = torch.zeros(1, 50, decoder.model.config.d_model), np.zeros(16000, np.float32)
    # behind the same prefix, so that nothing but the tokens could differ
    prefixes = decoder._prefixes(["en"])
    decoder._prefixes = lambda languages: prefixes
    japanese, english = (
        decoder._scores([Sound(silence, replace(row, language=code), code)], [WORDS], hidden, [code])
        for code in ("ja", "en")
    )
    assert japanese == english


# ---- a calibration ----


@pytest.mark.parametrize("case", ["whisper adapters", "qwen2_audio tunes"])
def test_rows_without_answers_lower_the_entropy_that_chooses(made: Made, speech: Path, out: Path, case: str) -> None:
    _, recipe = made(case)
    told: list[str] = []
    found = calibrated(recipe, speech, out, updates=12, every=4, learning_rate=0.05, patience=9, note=told.append)
    assert found.facts["settings"]["measure"] == "entropy"
    losses = [entry["loss"] for entry in found.facts["curve"][1:]]
    assert losses[-1] < losses[0]
    start, best = found.facts["start"], found.facts["best"]
    assert best["score"] > start["score"]
    assert best["score"] == pytest.approx(-np.mean(list(best["dev"].values())))
    assert best["recovery"] == {}, "nothing is recovered of entropies"
    assert all(0 <= value <= np.log(6) + 1e-6 for value in start["dev"].values())
    assert any("chosen by entropy on dev" in line for line in told)
    assert not any("no single model betters" in line for line in told)
    chorus.plan(found.recipe)


def test_answers_on_dev_choose_by_the_rule(made: Made, heard: list[Row], speech: Path, out: Path) -> None:
    _, recipe = made("whisper adapters")
    dev = out.with_name("dev.csv")
    rows = [replace(r, path=str(r.audio), extra=dict(CHOICES)) for r in heard if r.split == "dev"]
    write_manifest(rows, dev)
    found = calibrated(recipe, speech, out, dev=[str(dev)])
    assert found.facts["settings"]["measure"] == "loss"
    by_entropy = calibrated(recipe, speech, out.with_name("e"), dev=[str(dev)], measure="entropy")
    assert by_entropy.facts["start"]["dev"] != found.facts["start"]["dev"]
    # what was learnt is the same: no answer has a part in it
    learnt = [[entry["loss"] for entry in one.facts["curve"]] for one in (found, by_entropy)]
    assert learnt[0] == learnt[1]


def test_answers_of_the_rows_that_are_learnt_change_nothing(
    made: Made, heard: list[Row], speech: Path, tmp_path: Path
) -> None:
    _, recipe = made("whisper adapters")
    told = write_manifest([replace(r, path=str(r.audio), extra=dict(CHOICES)) for r in heard], tmp_path / "told.csv")
    one = calibrated(recipe, speech, tmp_path / "a")
    other = calibrated(recipe, speech, tmp_path / "b", data=[str(told)])
    assert one.facts["weights"] == other.facts["weights"]


def test_choices_are_the_answers_of_the_manifests_other_rows(made: Made, heard: list[Row], out: Path) -> None:
    """Dev has answers, train has none: they are asked from the same labels, with no column of them."""
    _, recipe = made("whisper adapters")
    rows = [replace(r, path=str(r.audio), text="" if r.split == "train" else r.text) for r in heard]
    mixed = write_manifest(rows, out.with_name("mixed.csv"))
    found = calibrated(recipe, mixed, out, updates=1)
    assert found.facts["settings"]["measure"] == "loss"
    assert 0 < found.facts["curve"][1]["loss"] < np.log(4)


def test_a_killed_calibration_goes_on_to_the_same_numbers(
    made: Made, speech: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe = made("whisper adapters")
    straight = calibrated(recipe, speech, tmp_path / "straight", updates=4, every=2, patience=9)
    real = learning.Learner.update

    def killed(self: Any, number: int, **more: Any) -> float:
        if number == 3:
            raise KeyboardInterrupt
        return real(self, number, **more)

    monkeypatch.setattr(learning.Learner, "update", killed)
    with pytest.raises(KeyboardInterrupt):
        calibrated(recipe, speech, tmp_path / "again", updates=4, every=2, patience=9)
    monkeypatch.setattr(learning.Learner, "update", real)
    told: list[str] = []
    found = calibrated(recipe, speech, tmp_path / "again", updates=4, every=2, patience=9, note=told.append)
    assert "going on from update 2" in told
    assert found.facts == straight.facts


def test_the_command_takes_it(
    made: Made, speech: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, recipe = made("whisper adapters")
    write_recipe(tmp_path / "r.yml", recipe)
    line = ["calibrate", "r.yml", "--data", str(speech), "--dev", str(speech), "--task", "kws", "--window", "1",
            "--objective", "entropy", "--updates", "1", "--device", "cpu", "--granularity", "task"]  # fmt: skip
    assert run([*line, "-o", "found"]) == 0
    told = capsys.readouterr()
    assert "dev entropy d0" in told.out
    assert "chosen by entropy on dev" in told.err
    assert json.loads((tmp_path / "found" / "chorus.json").read_text())["settings"]["objective"] == "entropy"
    assert run(["calibrate", "--help"]) == 0
    told = capsys.readouterr()
    assert "--objective" in told.out
    assert "asr, st, lm." not in told.out


# ---- what is refused ----


@pytest.mark.parametrize("task", ["asr", "st"])
@pytest.mark.parametrize("key", ["objective", "measure"])
def test_fails_with_a_task_of_texts(made: Made, speech: Path, out: Path, task: str, key: str) -> None:
    settings = {"objective": "cross-entropy", "task": task, key: "entropy"}
    with pytest.raises(MisfitError, match=rf"silent\.csv: answered with texts \(task {task}\)") as told:
        calibrated(made("whisper adapters")[1], speech, out, **settings)
    assert "--task" in str(told.value.hint)


@pytest.mark.parametrize("key", ["objective", "measure"])
def test_fails_with_texts_that_nobody_hears(key: str) -> None:
    with pytest.raises(RecipeError, match=f"{key}: entropy is of"):
        validated(Calibration, {"task": "lm", key: "entropy"}, source="calibrate")


def test_rows_may_name_their_tasks_themselves(made: Made, heard: list[Row], out: Path) -> None:
    """As in an experiment over several tasks, whose own may be one of texts; a task is then what is weighed alike."""
    _, recipe = made("qwen2_audio adapters")
    rows = [
        replace(r, path=str(r.audio), text="", extra={"task": task, "choices": choices}, domain=task)
        for r in heard for task, choices in (("kws", "one|two|three"), ("emotion", "joy|anger"))
    ]  # fmt: skip
    told = write_manifest(rows, out.with_name("m.csv"))
    found = calibrated(recipe, told, out, task="asr", updates=1)
    assert set(found.facts["rows"]) == {"kws", "emotion"}
    assert found.facts["start"]["dev"]["emotion"] <= np.log(2) + 1e-6 < np.log(3)


def test_fails_with_a_row_that_is_answered_with_a_text(made: Made, heard: list[Row], tmp_path: Path) -> None:
    _, recipe = made("qwen2_audio adapters")
    asked = {"instruction": "What is said?"}
    mute = silent(heard, tmp_path / "mute.csv", extra=asked)
    with pytest.raises(DataError, match=r"000\.flac: task custom: no choices, and no row's answer"):
        calibrated(recipe, mute, tmp_path / "a", task="custom")
    rows = [replace(r, path=str(r.audio), extra=dict(asked)) for r in heard]
    with pytest.raises(MisfitError, match=r"answered with a text \(task custom\), and entropy is of labels"):
        calibrated(recipe, write_manifest(rows, tmp_path / "told.csv"), tmp_path / "b", task="custom")
    rows = [replace(r, path=str(r.audio), extra={"task": "asr"}) for r in heard]
    with pytest.raises(MisfitError, match=r"answered with a text \(task asr\)"):
        calibrated(recipe, write_manifest(rows, tmp_path / "asr.csv"), tmp_path / "c")


def test_fails_without_any_choices_and_names_the_column(made: Made, heard: list[Row], tmp_path: Path) -> None:
    _, recipe = made("whisper adapters")
    with pytest.raises(DataError, match="task kws: no choices") as told:
        calibrated(recipe, silent(heard, tmp_path / "m.csv", extra={}), tmp_path / "a")
    assert "column choices" in str(told.value.hint)
    with pytest.raises(DataError, match="one choice alone"):
        calibrated(recipe, silent(heard, tmp_path / "n.csv", extra={"choices": "one"}), tmp_path / "b")
    # a known answer must be among them all the same
    rows = [replace(r, path=str(r.audio), extra={"choices": "yes|no"}) for r in heard]
    with pytest.raises(DataError, match='its answer "one" is none of its choices'):
        calibrated(recipe, write_manifest(rows, tmp_path / "o.csv"), tmp_path / "c")


def test_fails_where_some_rows_of_dev_have_answers(made: Made, heard: list[Row], tmp_path: Path) -> None:
    _, recipe = made("whisper adapters")
    rows = [
        replace(r, path=str(r.audio), text=r.text if i % 2 else "", extra=dict(CHOICES)) for i, r in enumerate(heard)
    ]
    mixed = write_manifest(rows, tmp_path / "m.csv")
    with pytest.raises(MisfitError, match=r"2 of 4 dev rows have no answer: .*008\.flac") as told:
        calibrated(recipe, mixed, tmp_path / "a")
    assert "--measure entropy" in str(told.value.hint)
    assert calibrated(recipe, mixed, tmp_path / "b", updates=1, measure="entropy").recipe.exists()


def test_fails_with_a_measure_or_a_recovery_that_needs_answers(made: Made, speech: Path, tmp_path: Path) -> None:
    _, recipe = made("whisper adapters")
    with pytest.raises(MisfitError, match="no dev row has an answer that a wer could be of"):
        calibrated(recipe, speech, tmp_path / "a", measure="wer")
    with pytest.raises(UsageError, match="--own names what recovery is counted to"):
        calibrated(recipe, speech, tmp_path / "b", own={"d0": "base+adapter-0"})


def test_fails_without_answers_where_they_are_learnt(made: Made, speech: Path, out: Path) -> None:
    _, recipe = made("whisper adapters")
    with pytest.raises(DataError, match="task kws: no answer"):
        calibrated(recipe, speech, out, objective="cross-entropy")


def test_fails_with_a_model_that_tells_no_likelihoods(speech: Path, tmp_path: Path) -> None:
    base = tiny(tmp_path / "ctc", "wav2vec2")
    tuned = tmp_path / "tuned"
    shutil.copytree(base, tuned)
    values = load_file(tuned / "model.safetensors")
    save_file({name: value + 0.01 for name, value in values.items()}, tuned / "model.safetensors", {"format": "pt"})
    recipe = recipe_for(base, [tuned], adapters=False)
    with pytest.raises(MisfitError, match="do not tell how likely a label is"):
        calibrated(recipe, speech, tmp_path / "out")


def test_a_weight_that_diverges_is_told_with_its_update(made: Made, speech: Path, out: Path) -> None:
    _, recipe = made("whisper adapters")
    with pytest.raises(ChorusError, match=r"update \d: the weight of .* beyond the bound of 0.8"):
        calibrated(recipe, speech, out, learning_rate=0.9, bound=0.8)
    with pytest.raises(ChorusError, match=r"update 2: what d0 is answered is no finite number"):
        calibrated(recipe, speech, out, learning_rate=1e30, bound=1e300, restart=True, patience=9, every=3)
