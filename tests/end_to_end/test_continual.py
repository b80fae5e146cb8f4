"""One more model into a merge made earlier: against means and formulas in float64, after kills, on recordings."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import chorus
from adapters import loaded_by_peft, make_adapters, worst_error
from calibrations import adapters_on
from chorus.checkpoints.adapted import AdaptedTensor
from chorus.checkpoints.lazy_tensor import ChangedTensor
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.writer import PartialDirectory
from chorus.continual import figures
from chorus.continual.facts import ContinualFacts, read_facts
from chorus.continual.sets import Measuring, read_sets
from chorus.continual.settings import Continuing
from chorus.continual.tables import dev_table
from chorus.data.manifest import write_manifest
from chorus.errors import CheckpointError, ChorusError, DataError, MisfitError, OutputError, PlanError, UsageError
from chorus.evaluate.results import read_evaluation
from chorus.linalg.low_rank import LowRank
from chorus.tasks.registry import TASKS
from models import build, load_all, make_family, write_recipe
from sounds import BASE, corpus, tiny

Deltas = dict[str, np.ndarray]
MEASURING = Measuring({"max_new_tokens": 8, "window_s": [1], "language": "en"}, device="cpu")


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    return make_adapters(tmp_path_factory.mktemp("adapters"), "qwen2", 4)


@pytest.fixture(scope="module")
def tunes(tmp_path_factory):
    family = make_family(tmp_path_factory.mktemp("tunes"), "qwen2", 4)
    return family.base, list(family.tuned)


def reference(base: Path, place: Path) -> Reference:
    own = Reference(str(place))
    return Reference(str(base), adapter=own) if (place / "adapter_config.json").exists() else own


def deltas(base: Path, place: Path) -> Deltas:
    """What a model or an adapter adds to the base, in float64; of adapters exactly."""
    model, origin = chorus.open_model(reference(base, place)), chorus.open_model(base)
    found = {}
    for name, tensor in model.checkpoint.items():
        known = tensor.difference(0, tensor.read().numel()) if isinstance(tensor, ChangedTensor) else None
        delta = tensor.read().double() - origin.checkpoint[name].read().double() if known is None else known
        found[name] = delta.double().reshape(tensor.shape).numpy()
    assert len(found) > 20
    return found


def norm(every: Deltas) -> float:
    return float(np.sqrt(sum((d**2).sum() for d in every.values())))


def close(found: Deltas, wanted: Deltas, tolerance: float = 1e-5) -> None:
    assert found.keys() == wanted.keys()
    assert norm(wanted) > 0
    assert norm({name: found[name] - wanted[name] for name in wanted}) <= tolerance * norm(wanted)


def combined(every: list[Deltas], weights: list[float]) -> Deltas:
    return {name: sum(w * d[name] for w, d in zip(weights, every, strict=True)) for name in every[0]}


def added_up(base: Path, models: list[Path], place: Path, **asked: object) -> Path:
    """One model after the other, from the base on; the last stage."""
    state = base
    for number, model in enumerate(models, 1):
        stage = place / f"stage-{number}"
        chorus.continual(state, model, stage, Continuing(**asked), base=base)
        state = stage
    return state


def facts_of(place: Path) -> dict:
    return json.loads((place / "chorus.json").read_text())["continual"]


def told(place: Path) -> ContinualFacts:
    return read_facts(facts_of(place), place)


# ---- what is computed ----


@pytest.mark.parametrize("kind", ["adapters", "tunes"])
def test_the_running_average_is_the_mean_of_all_models(kind, request, tmp_path):
    base, models = request.getfixturevalue(kind)
    mean = combined([deltas(base, m) for m in models], [0.25] * 4)
    found = added_up(base, models, tmp_path, energy=1)
    # weights in float32 hold a delta of 3e-4 on weights of 0.02 to six digits
    close(deltas(base, found), mean, 1e-5 if kind == "adapters" else 1e-4)
    assert (found / "adapter_config.json").exists() == (kind == "adapters")


@settings(max_examples=4, deadline=None)
@given(order=st.permutations(range(4)))
def test_in_whatever_order_they_come(adapters, tmp_path_factory, order):
    base, models = adapters
    found = added_up(base, [models[i] for i in order], tmp_path_factory.mktemp("order"), energy=1)
    close(deltas(base, found), combined([deltas(base, m) for m in models], [0.25] * 4))
    assert list(told(found).shares().values()) == pytest.approx([0.25] * 4)


def test_an_adapter_is_what_a_model_is(adapters, tmp_path):
    base, models = adapters
    thin = added_up(base, models[:3], tmp_path / "thin", energy=1)
    dense = added_up(base, models[:3], tmp_path / "dense", form="model")
    close(deltas(base, dense), deltas(base, thin), 1e-5)
    # of a state that is an adapter a full fine-tune makes a model, and so does an adapter of one that is a model
    mixed = tmp_path / "mixed"
    chorus.continual(thin, dense, mixed, base=base, name="whole")
    close(deltas(base, mixed), deltas(base, thin), 1e-5)


@pytest.mark.parametrize(
    "settings_", [{"use_dora": True}, {"use_rslora": True}, {"modules_to_save": ["norm"]}], ids=str
)
def test_other_kinds_of_adapters_have_the_same_mean(tmp_path, settings_):
    base, models = make_adapters(tmp_path, "qwen2", 3, **settings_)
    found = added_up(base, models, tmp_path / "stages", energy=1)
    mean = combined([deltas(base, m) for m in models], [1 / 3] * 3)
    close(deltas(base, found), mean, 1e-5)


def test_peft_loads_a_state_as_it_is(adapters, tmp_path):
    base, models = adapters
    found = added_up(base, models[:3], tmp_path)
    ours = {n: t.read() for n, t in chorus.open_model(reference(base, found)).checkpoint.items()}
    wanted = {n: t for n, t in loaded_by_peft("qwen2", base, found).items() if n in ours}
    assert worst_error(ours, wanted, load_all(base)) < 1e-4


def test_full_fine_tunes_as_an_adapter(tunes, tmp_path):
    base, models = tunes
    found = added_up(base, models[:2], tmp_path, form="adapter", energy=1)
    mean, got = combined([deltas(base, m) for m in models[:2]], [0.5, 0.5]), deltas(base, found)
    # an embedding of a full fine-tune is in no adapter
    mean = {k: v if "embed" not in k and "lm_head" not in k else 0 * v for k, v in mean.items()}
    close({k: got[k] for k in mean}, mean, 1e-3)


def test_a_cut_loses_no_more_than_it_says(adapters, tmp_path):
    base, models = adapters
    whole = combined([deltas(base, m) for m in models[:2]], [0.5, 0.5])
    chorus.continual(base, models[0], tmp_path / "one", Continuing(energy=1))
    chorus.continual(tmp_path / "one", models[1], tmp_path / "two", Continuing(energy=0.9), base=base)
    cut, smaller = deltas(base, tmp_path / "two"), 0
    ranks = {m["tensor"]: m["rank"] for m in facts_and(tmp_path / "two")["adapter"]["modules"]}
    for name, rank in ranks.items():
        lost, every = ((whole[name] - cut[name]) ** 2).sum(), (whole[name] ** 2).sum()
        assert lost <= 0.1 * every * (1 + 1e-5)
        s = np.linalg.svd(whole[name], compute_uv=False)
        # one direction less would hold too little
        assert (s[: rank - 1] ** 2).sum() < 0.9 * every
        smaller += rank < 9
    assert smaller == len(ranks) == 12


def facts_and(place: Path) -> dict:
    return json.loads((place / "chorus.json").read_text())


@pytest.mark.parametrize("kind", ["adapters", "tunes"])
def test_weighted_is_its_formula(kind, request, tmp_path):
    base, models = request.getfixturevalue(kind)
    found = added_up(base, models[:3], tmp_path, method="weighted", weight=[0.7], alpha=1.5, energy=1)
    state = deltas(base, models[0])
    for model in models[1:3]:
        state = combined([state, deltas(base, model)], [1.5 * 0.7, 1.5 * 0.3])
    close(deltas(base, found), state, 1e-5 if kind == "adapters" else 1e-4)
    weights = [(s.state_weight, s.weight) for s in told(found).stages]
    assert weights == [(0, 1), *[(pytest.approx(1.05), pytest.approx(0.45))] * 2]


def opcm(every: list[Deltas], decomposed: set[str], protect: float) -> tuple[Deltas, list[float]]:
    """The paper's recursion with full bases, and what the sum is divided by at each step."""
    total, scales = every[0], [1.0]
    for number, new in enumerate(every[1:], 2):
        merged = {name: d / scales[-1] for name, d in total.items()}
        for name in decomposed:
            u, s, vh = np.linalg.svd(merged[name])
            known = int((s > 1e-6 * s[0]).sum())  # a basis of what the merge lacks is anybody's
            own = u.T @ new[name] @ vh.T
            q = int(np.argmax(np.cumsum(s) / s.sum() > protect))
            own[:q, :q] = 0
            own[range(known), range(known)] = 0
            new = {**new, name: u @ own @ vh}
        total = {name: scales[-1] * merged[name] + new[name] for name in total}
        scales.append(norm(total) / (sum(map(norm, every[:number])) / number))
    return {name: d / scales[-1] for name, d in total.items()}, scales


@pytest.mark.parametrize("kind", ["adapters", "tunes"])
def test_opcm_is_its_formula(kind, request, tmp_path):
    base, models = request.getfixturevalue(kind)
    every = [deltas(base, m) for m in models[:3]]
    found = added_up(base, models[:3], tmp_path, method="opcm", energy=1, protect=0.6)
    decomposed = {name for name, d in every[0].items() if "_proj" in name and d.ndim == 2 and d.any()}
    assert len(decomposed) == (12 if kind == "adapters" else 28)
    wanted, scales = opcm(every, decomposed, 0.6)
    # vectors of values that lie close turn with the rounding of the stored state
    close(deltas(base, found), wanted, 1e-4 if kind == "adapters" else 1e-3)
    stages = facts_of(found)["stages"]
    assert [s["scale"] for s in stages] == pytest.approx(scales, rel=1e-4)
    assert [s["norm"] for s in stages] == pytest.approx([norm(d) for d in every], rel=1e-4)
    # as far from the base as the models are
    assert norm(deltas(base, found)) == pytest.approx(sum(map(norm, every)) / 3, rel=1e-4)
    assert told(found).shares() is None


@pytest.mark.parametrize("method", ["fta", "opcm"])
def test_adapters_stay_factors(adapters, tmp_path, monkeypatch, method):
    """No product of the size of a matrix is ever formed: not for norms, not for projections, not for the cut."""
    base, models = adapters

    def formed(self: LowRank) -> None:
        raise AssertionError(f"{self.shape} is formed")

    monkeypatch.setattr(LowRank, "dense", formed)
    monkeypatch.setattr(AdaptedTensor, "read", formed)
    monkeypatch.setattr(AdaptedTensor, "flat", formed)
    found = added_up(base, models[:3], tmp_path, method=method)
    assert told(found).count == 3


# ---- what it says of itself ----


def test_the_result_says_what_went_in_and_in_which_order(adapters, tmp_path):
    base, models = adapters
    found = added_up(base, models[:3], tmp_path)
    whole = facts_and(found)
    ours = whole["continual"]
    assert [s["model"] for s in ours["stages"]] == ["adapter-0", "adapter-1", "adapter-2"]
    assert [s["weight"] for s in ours["stages"]] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [s["energy"] for s in ours["stages"]] == [0.99] * 3
    assert ours["base"]["name"] == "base"
    assert len({s["identity"] for s in ours["stages"]}) == 3
    assert [m["parameters"]["weight"] for m in whole["recipe"]["models"]] == pytest.approx([2 / 3, 1 / 3])
    # no path of this machine, and what peft and chorus read
    assert str(tmp_path) not in (found / "chorus.json").read_text()
    assert json.loads((found / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/base"
    assert {"adapter_model.safetensors", "README.md"} <= {p.name for p in found.iterdir()}


def test_a_merge_of_chorus_merge_is_gone_on_with(adapters, tmp_path):
    base, models = adapters
    recipe = {
        "merge_method": "task_arithmetic", "base_model": str(base), "out_dtype": "float32",
        "models": [{"model": str(base), "lora": str(m), "parameters": {"weight": 1 / 3}} for m in models[:3]],
    }  # fmt: skip
    chorus.merge(recipe, tmp_path / "model")
    chorus.merge_into_adapter(recipe, tmp_path / "adapter")
    mean = combined([deltas(base, m) for m in models], [0.25] * 4)
    for form in ("model", "adapter"):
        found = chorus.continual(tmp_path / form, models[3], tmp_path / f"four-{form}", Continuing(energy=1), base=base)
        assert (found.facts.count, found.facts.earlier) == (4, 3)
        assert found.facts.of == ["adapter-0", "adapter-1", "adapter-2"]
        close(deltas(base, tmp_path / f"four-{form}"), mean, 1e-5)
        assert found.facts.shares() == pytest.approx({"": 0.75, "adapter-3": 0.25})


def test_a_recipe_is_gone_on_with_as_its_merge(tunes, tmp_path):
    base, models = tunes
    each = [{"model": str(m), "parameters": {"weight": 0.5}} for m in models[:2]]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(base), "models": each, "out_dtype": "float32"}
    file = write_recipe(tmp_path / "two.yml", recipe)
    found = chorus.continual(file, models[2], tmp_path / "three", base=base)
    assert (found.facts.count, found.facts.of) == (3, ["tuned-0", "tuned-1"])
    close(deltas(base, tmp_path / "three"), combined([deltas(base, m) for m in models[:3]], [1 / 3] * 3), 1e-4)


def test_a_single_adapter_is_a_state_when_it_is_counted(adapters, tmp_path):
    base, models = adapters
    found = chorus.continual(models[0], models[1], tmp_path / "two", Continuing(energy=1), base=base, count=1)
    close(deltas(base, tmp_path / "two"), combined([deltas(base, m) for m in models[:2]], [0.5, 0.5]))
    assert found.facts.earlier == 1


# ---- refusals ----


@pytest.fixture
def one(adapters, tmp_path):
    """A first stage, its base, and the adapters."""
    base, models = adapters
    chorus.continual(base, models[0], tmp_path / "one")
    return base, tmp_path / "one", models


def refused(words: list[str], error: type[ChorusError], *given: object, **asked: object) -> None:
    with pytest.raises(error) as found:
        chorus.continual(*given, **asked)
    assert all(word in str(found.value) for word in words), str(found.value)
    assert not Path(str(given[2])).exists()


def test_a_wrong_base_is_refused(one, tmp_path):
    _, state, models = one
    other = make_family(tmp_path / "other", "qwen2", 1)
    refused(["was made on base", "other weights", "--base"], MisfitError, state, models[1], tmp_path / "two",
            base=other.tuned[0])  # fmt: skip


def test_an_adapter_that_changes_nothing_leaves_nothing_behind(adapters, tmp_path):
    base, models = adapters
    empty = tmp_path / "empty"
    shutil.copytree(models[0], empty)
    weights = load_file(empty / "adapter_model.safetensors")
    save_file({n: v * (0 if "lora_B" in n else 1) for n, v in weights.items()}, empty / "adapter_model.safetensors")
    for _ in range(2):  # a second time as the first
        refused(["the merge is its base"], MisfitError, base, empty, tmp_path / "one")
    chorus.continual(base, models[0], tmp_path / "one")
    chorus.continual(tmp_path / "one", empty, tmp_path / "two", base=base)
    close(deltas(base, tmp_path / "two"), combined([deltas(base, models[0])], [0.5]))


def test_another_backbone_is_refused(one, tmp_path):
    base, state, _ = one
    whisper = make_family(tmp_path / "whisper", "whisper", 1)
    refused(["tuned-0"], PlanError, state, whisper.tuned[0], tmp_path / "two", base=base)
    _, (adapter,) = make_adapters(tmp_path / "more", "whisper", 1)
    with pytest.raises(CheckpointError):
        chorus.continual(state, adapter, tmp_path / "two", base=base)


def test_a_model_of_another_training_is_refused(tunes, tmp_path):
    base, _ = tunes
    build("qwen2", seed=5).save_pretrained(tmp_path / "stranger")
    refused(["stranger was not tuned from base", "cosine", "begin with the base"], MisfitError, base,
            tmp_path / "stranger", tmp_path / "one")  # fmt: skip


def test_an_adapter_of_another_base_is_refused_where_nobody_said_the_base(one, tmp_path, monkeypatch):
    base, state, models = one
    moved = tmp_path / "elsewhere"
    shutil.copytree(models[1], moved)
    shutil.copytree(base, tmp_path / "org" / "base")
    config = json.loads((moved / "adapter_config.json").read_text())
    (moved / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/larger"}))
    monkeypatch.chdir(tmp_path)
    refused(["on org/larger", "stands on org/base", "--base org/base"], MisfitError, state, moved, tmp_path / "two")
    chorus.continual(state, models[1], tmp_path / "two")
    assert facts_of(tmp_path / "two")["stages"][1]["weight"] == 0.5


def test_a_state_that_does_not_say_what_is_in_it_is_refused(adapters, tunes, tmp_path):
    base, models = adapters
    refused(["how many models", "--count N"], MisfitError, models[0], models[1], tmp_path / "two", base=base)
    base, models = tunes
    refused(["how many models", "--count N"], MisfitError, models[0], models[1], tmp_path / "two", base=base)
    refused(["is taken for the base", "--base"], UsageError, models[0], models[1], tmp_path / "two", count=2)
    recipe = {"merge_method": "linear", "models": [{"model": str(m), "parameters": {"weight": 1}} for m in models[:2]]}
    chorus.merge(recipe, tmp_path / "merged")
    merged = tmp_path / "merged"
    refused(["is a merge", "go on with it", "begin with it"], UsageError, merged, models[2], tmp_path / "two")
    begun = chorus.continual(merged, models[2], tmp_path / "two", base=merged)
    assert begun.facts.count == 1


def test_a_model_state_needs_its_base(tunes, tmp_path):
    base, models = tunes
    chorus.continual(base, models[0], tmp_path / "one")
    refused(["was made on base", "--base DIR"], UsageError, tmp_path / "one", models[1], tmp_path / "two")


def test_a_model_goes_in_once(one, tmp_path):
    base, state, models = one
    refused(["in the merge already", "adapter-0"], UsageError, state, models[0], tmp_path / "two", base=base, name="x")
    refused(["in the merge already", "NAME=NEW"], UsageError, state, models[1], tmp_path / "two", base=base,
            name="adapter-0")  # fmt: skip
    refused(["the base itself"], UsageError, state, base, tmp_path / "two", base=base)


def test_opcm_goes_on_with_opcm_alone(one, tmp_path):
    base, state, models = one
    refused(["norm of each", "--method fta"], MisfitError, state, models[1], tmp_path / "two",
            Continuing(method="opcm"), base=base)  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"stages": "none"}, {"earlier": -1}, {"format": 2}, {"more": 1}, {"stages": [{"model": "x"}]}, {"base": None}],
    ids=str,
)
def test_a_state_that_somebody_changed_is_refused(one, tmp_path, change):
    base, state, models = one
    whole = facts_and(state)
    (state / "chorus.json").write_text(json.dumps({**whole, "continual": {**whole["continual"], **change}}))
    refused(["chorus.json", "continual.", next(iter(change))], CheckpointError, state, models[1], tmp_path / "two",
            base=base)  # fmt: skip


def test_what_is_there_is_not_written_over(one, tmp_path):
    base, state, models = one
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        chorus.continual(state, models[1], tmp_path / "two", base=base)
    with pytest.raises(UsageError, match="input"):
        chorus.continual(state, models[1], state, base=base)
    assert [p.name for p in (tmp_path / "two").iterdir()] == ["mine.txt"]


# ---- kills ----


def test_a_killed_merge_goes_on(tunes, tmp_path):
    base, models = tunes
    chorus.continual(base, models[0], tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    options = chorus.Options(jobs=1)
    with pytest.raises(KeyboardInterrupt):
        chorus.continual(base, models[0], tmp_path / "killed", options=options, progress=stop)
    journal = tmp_path / "killed.partial" / ".chorus-journal.jsonl"
    before = len(journal.read_text().splitlines())
    assert before > 5
    chorus.continual(base, models[0], tmp_path / "killed", options=options)
    for name in ("model.safetensors", "chorus.json"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_killed_adapter_is_begun_again(one, tmp_path, monkeypatch):
    base, state, models = one

    def stop(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        # as a SIGKILL leaves it: nothing is cleared away
        patch.setattr(PartialDirectory, "discard", PartialDirectory.release)
        with pytest.raises(KeyboardInterrupt):
            chorus.continual(state, models[1], tmp_path / "two", base=base, progress=stop)
    left = tmp_path / "two.partial"
    assert any(left.iterdir())
    # what somebody else's merge has left there is not taken away
    with pytest.raises(OutputError, match="unfinished"):
        chorus.continual(state, models[2], tmp_path / "two", base=base)
    chorus.continual(state, models[1], tmp_path / "two", base=base)
    assert not left.exists()
    assert {p.name for p in (tmp_path / "two").iterdir()} == {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "chorus.json"
    }  # fmt: skip


def test_the_same_again_merges_nothing(one, tmp_path, monkeypatch):
    base, state, models = one
    first = chorus.continual(state, models[1], tmp_path / "two", base=base)
    monkeypatch.setattr(chorus.continual.stage, "merge_stage", None)
    notes = []
    again = chorus.continual(state, models[1], tmp_path / "two", base=base, note=notes.append)
    assert (again.facts, again.written) == (first.facts, "")
    assert "merged already" in notes[0]
    # another merge is none of it
    with pytest.raises(OutputError, match="something else"):
        chorus.continual(state, models[2], tmp_path / "two", base=base)


# ---- on recordings ----


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    """The digits' base, two adapters on it, and a set for each."""
    place = tmp_path_factory.mktemp("heard")
    models = adapters_on(BASE, "whisper", place, 2)
    return models, [divided(place / name) for name in ("a", "b")]


def divided(folder: Path) -> Path:
    """Four rows of test, two of dev."""
    _, rows = corpus(folder, 6)
    return write_manifest([replace(r, split="dev" if r.split == "dev" else "test") for r in rows], folder / "rows.csv")


def test_stages_are_measured_and_earlier_figures_read(heard, tmp_path):
    (first, second), (a, b) = heard
    named = {"measuring": MEASURING, "base": BASE}
    chorus.continual(BASE, first, tmp_path / "one", tests=[f"adapter-0={a}"], **named)
    found = chorus.continual(
        tmp_path / "one", second, tmp_path / "two", tests=[f"adapter-0={a}", f"adapter-1={b}", f"other={b}"], **named
    )
    stages, marks = found.facts.stages, found.facts.marks
    place = tmp_path / "two.evaluations"
    for name in ("adapter-0", "adapter-1", "other"):
        result = read_evaluation(place / name / "stage_2")
        assert stages[1].figures[name].value == pytest.approx(result.summary["all"]["error_rate"])
    # the first model is not there any more, and what it reached is known from its own stage
    assert not (place / "adapter-0" / "own").exists()
    own = read_evaluation(tmp_path / "one.evaluations" / "adapter-0" / "own")
    assert marks["adapter-0"].own.value == pytest.approx(own.summary["all"]["error_rate"])
    assert marks["other"].own is None
    by_name = {s.name: s for s in figures.standings(found.facts)}
    before, now = stages[0].figures["adapter-0"].value, stages[1].figures["adapter-0"].value
    assert by_name["adapter-0"].forgetting == pytest.approx(before - now)
    assert [s.since for s in figures.standings(found.facts)] == [1, 2, None]
    assert facts_of(tmp_path / "two")["stages"][1]["figures"]["other"]["metric"] == "error_rate"


def test_a_kill_while_measuring_loses_nothing(heard, tmp_path, monkeypatch):
    (first, _), (a, b) = heard

    def killed(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    asked = {"measuring": MEASURING, "tests": [f"adapter-0={a}"]}
    with monkeypatch.context() as patch:
        patch.setattr(figures, "evaluate", killed)
        with pytest.raises(KeyboardInterrupt):
            chorus.continual(BASE, first, tmp_path / "one", **asked)
    written = (tmp_path / "one" / "adapter_model.safetensors").stat().st_mtime_ns
    found = chorus.continual(BASE, first, tmp_path / "one", **asked)
    assert (tmp_path / "one" / "adapter_model.safetensors").stat().st_mtime_ns == written
    assert set(found.facts.stages[0].figures) == {"adapter-0"}
    # further sets are added, and what was measured is not heard again
    with monkeypatch.context() as patch:
        calls = []
        known = figures.evaluate
        patch.setattr(figures, "evaluate", lambda s, *a, **k: calls.append(s.label) or known(s, *a, **k))
        more = chorus.continual(BASE, first, tmp_path / "one", **{**asked, "tests": [*asked["tests"], f"b={b}"]})
    assert calls == ["base", "stage 1"]
    assert set(more.facts.stages[0].figures) == {"adapter-0", "b"}


def test_the_weight_is_chosen_on_dev(heard, tmp_path):
    (first, second), (a, b) = heard
    chorus.continual(BASE, first, tmp_path / "one")
    asked = Continuing(method="weighted", weight=[0.0, 0.5, 1.0], rule="minimum")
    found = chorus.continual(
        tmp_path / "one", second, tmp_path / "two", asked, base=BASE, dev=[f"a={a}", f"b={b}"], measuring=MEASURING
    )
    stage = found.facts.stages[1]
    assert set(stage.dev) == {"0", "0.5", "1"}
    worst = {share: max(each.values()) for share, each in stage.dev.items()}
    assert worst[f"{stage.state_weight:g}"] == min(worst.values())
    assert stage.chosen == f"{stage.state_weight:g}"
    shown = dev_table(found.facts)
    assert shown is not None
    assert [row[0] for row in shown.rows] == ["0", "0.5", "1"]
    assert stage.weight == pytest.approx(1 - stage.state_weight)
    # the share 1 is the state alone, and 0 the new model
    sets = read_sets([f"a={a}"], "dev", MEASURING)
    for share, place in (("1", tmp_path / "one"), ("0", second)):
        system = reference(BASE, place)
        alone = chorus.evaluate(system, sets["a"].test, tmp_path / share, decoding=sets["a"].decoding, device="cpu")
        assert stage.dev[share]["a"] == pytest.approx(alone.summary["all"]["error_rate"])


def test_dev_rows_may_not_be_test_rows(heard, tmp_path):
    (first, _), _ = heard
    path, rows = corpus(tmp_path / "c", 6)
    both = write_manifest([replace(r, split="") for r in rows], tmp_path / "c" / "both.csv")
    refused(["6 rows of the test set x", "dev rows too"], DataError, BASE, first, tmp_path / "one",
            Continuing(method="weighted"), dev=[f"d={both}"], tests=[f"x={both}"], measuring=MEASURING)  # fmt: skip
    refused(["none of its rows is of split test"], MisfitError, BASE, first, tmp_path / "one", tests=[f"x={path}"],
            measuring=MEASURING)  # fmt: skip
    refused(['two test sets are called "x"'], UsageError, BASE, first, tmp_path / "one", tests=[f"x={both}"] * 2,
            measuring=MEASURING)  # fmt: skip


def test_each_set_is_of_its_own_task(tmp_path):
    base = tiny(tmp_path / "base", "qwen2_audio")
    (model,) = adapters_on(base, "qwen2_audio", tmp_path, 1)
    _, rows = corpus(tmp_path / "speech", 6)
    for task in ("kws", "asr"):
        mine = [replace(r, split="test", extra={"task": task}) for r in rows]
        write_manifest(mine, tmp_path / "speech" / f"{task}.csv")
    sets = [tmp_path / "speech" / f"{task}.csv" for task in ("kws", "asr")]
    asked = Measuring({"max_new_tokens": 4}, device="cpu", limit=4)
    found = chorus.continual(base, model, tmp_path / "one", name="kws", tests=sets, measuring=asked)
    figures_ = found.facts.stages[0].figures
    assert {name: (one.metric, one.best) for name, one in figures_.items()} == {
        "kws": (TASKS.get("kws").metrics[0].name, 100.0), "asr": ("error_rate", 0.0)
    }  # fmt: skip
    assert figures_["kws"].utterances == 4
    own = found.facts.marks["kws"].own
    # a first stage is the model itself
    assert own is not None
    assert figures_["kws"].value == pytest.approx(own.value, abs=1e-6)
    both = write_manifest(
        [replace(r, split="test", extra={"task": t}) for r, t in zip(rows, ["kws", "asr"] * 3, strict=True)],
        tmp_path / "speech" / "both.csv",
    )
    refused(["rows of several tasks (asr, kws)", "--task"], MisfitError, base, model, tmp_path / "two", tests=[both])
