"""A search by itself: a recipe, a grid and dev rows, without an experiment."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import chorus
from chorus.data.manifest import read_manifest, write_manifest
from chorus.errors import CheckpointError, ChorusError, DataError, RecipeError
from chorus.evaluate.run import evaluate
from chorus.merge.recipes.dialects import Dialect
from chorus.registry import Registry
from chorus.search.grids import grid_of
from chorus.search.run import search
from chorus.search.trials import Trials
from chorus.transcribe.backends.protocol import Backend
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.request import Request
from chorus.transcribe.systems import open_system
from chorus.transcribe.test_sets import of_rows
from sounds import BASE, MANIFEST

DECODING = Decoding(window_s=3, max_new_tokens=6, batch_size=32)
KNOWN = ("theo", "yweweler")  # speakers whom the base hears well


@pytest.fixture(scope="module")
def wrecked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' base with noise on its weights: the less of its delta is added, the better is heard."""
    place = tmp_path_factory.mktemp("models") / "wrecked"
    shutil.copytree(BASE, place)
    numbers = torch.Generator().manual_seed(1)
    tensors = load_file(place / "model.safetensors")
    noisy = {n: t + 2 * t.std() * torch.randn(t.shape, generator=numbers) if t.dim() == 2 else t
             for n, t in tensors.items()}  # fmt: skip
    save_file(noisy, place / "model.safetensors", metadata={"format": "pt"})
    return place


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [r for r in read_manifest(MANIFEST).rows if r.speaker in KNOWN]
    chosen = [r for split in ("dev", "test") for r in [x for x in rows if x.split == split][::4][:10]]
    return write_manifest(chosen, tmp_path_factory.mktemp("rows") / "rows.csv")


def recipe(wrecked: Path) -> dict[str, object]:
    return {"merge_method": "task_arithmetic", "base_model": str(BASE), "models": [{"model": str(wrecked)}]}


def test_trials_are_ranked_and_the_best_is_chosen(wrecked: Path, dev: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    found = search(
        recipe(wrecked), {"lambda": [1.5, 0.01, 0.7]}, dev, tmp_path, decoding=DECODING, device="cpu", ended=seen.append
    )
    assert seen == [f"task_arithmetic[lambda={v}]" for v in ("1.5", "0.01", "0.7")], "heard in the grid's order"
    assert found.chosen.setting.parameters == {"lambda": 0.01}
    assert [t.dev for t in found.trials] == sorted(t.dev for t in found.trials)
    assert found.trials[0].dev < 30 < found.trials[-1].dev
    test = of_rows([r for r in read_manifest(dev).rows if r.split == "dev"])
    assert {r["name"] for r in found.trials[0].evaluation.rows} == set(test.utterances), "dev rows alone are heard"
    system = open_system(chorus.plan(found.recipe), label="again")
    again = evaluate(system, test, tmp_path / "again", decoding=DECODING, device="cpu")
    assert again.summary["all"]["error_rate"] == found.trials[0].evaluation.summary["all"]["error_rate"]


def test_a_search_given_again_hears_only_what_is_new(
    wrecked: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = search(recipe(wrecked), {"lambda": [0.01, 1.0]}, dev, tmp_path, decoding=DECODING, device="cpu")
    heard: list[str] = []
    monkeypatch.setattr(
        "chorus.transcribe.loaded.LoadedBackend.with_weights",
        lambda *given: pytest.fail("a model was loaded for what was there"),
    )
    again = search(
        recipe(wrecked), {"lambda": [0.01, 1.0]}, dev, tmp_path, decoding=DECODING, device="cpu", ended=heard.append
    )
    assert [t.dev for t in again.trials] == [t.dev for t in first.trials]
    assert len(heard) == 2


def test_a_search_whose_every_decode_fails_says_so_each_time(
    wrecked: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "chorus.transcribe.transcriber.carefully", lambda backend, sounds: ["RuntimeError: no"] * len(sounds)
    )
    for _ in range(2):
        with pytest.raises(ChorusError, match="every decode of every setting failed: RuntimeError: no"):
            search(recipe(wrecked), {"lambda": [0.01, 1.0]}, dev, tmp_path, decoding=DECODING, device="cpu")


def test_a_template_may_be_a_file_in_anothers_dialect(
    wrecked: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Backwards:
        def recognises(self, documents: Sequence[Mapping[str, object]]) -> bool:
            return "dohtem_egrem" in documents[0]

        def translate(self, documents: Sequence[Mapping[str, object]]) -> dict[str, object]:
            return {key[::-1]: value for key, value in documents[0].items()}

    dialects = Registry[Dialect]("dialect", "", lambda: None)
    dialects.add("backwards", Backwards())
    monkeypatch.setattr("chorus.merge.recipes.dialects.DIALECTS", dialects)
    path = tmp_path / "template.yml"
    path.write_text(yaml.safe_dump({key[::-1]: value for key, value in recipe(wrecked).items()}))
    found = search(path, {"lambda": 0.01}, dev, tmp_path / "out", decoding=DECODING, device="cpu")
    assert found.recipe["merge_method"] == "task_arithmetic"
    assert len(found.trials) == 1


def test_mistakes_are_found_before_anything_is_heard(wrecked: Path, dev: Path, tmp_path: Path) -> None:
    for template, grid, told in (
        (recipe(wrecked), {"lamda": [1.0]}, 'did you mean "lambda"'),
        ({**recipe(wrecked), "merge_method": "tsks"}, {}, "unknown merge method"),
        ({"models": []}, {"lambda": [1.0]}, "merge_method: missing"),
    ):
        with pytest.raises(RecipeError) as caught:
            search(template, grid, dev, tmp_path / "out", device="cpu")
        assert told in str(caught.value) + caught.value.hint
    rows = [r for r in read_manifest(dev).rows if r.split == "test"]
    tests_alone = write_manifest(rows, tmp_path / "test.csv")
    with pytest.raises(DataError, match="no dev rows"):
        search(recipe(wrecked), {"lambda": [1.0]}, tests_alone, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


def test_trials_replace_what_another_request_left(wrecked: Path, dev: Path, tmp_path: Path) -> None:
    """Of other recordings, under the same label: no refusal, and not the old numbers."""
    rows = read_manifest(dev).rows
    with Trials(of_rows(rows[:4]), tmp_path, decoding=DECODING, device="cpu") as trials:
        assert len(trials.model(str(BASE), label="base", role="base").rows) == 4
    with Trials(of_rows(rows[:6]), tmp_path, decoding=DECODING, device="cpu") as trials:
        found = trials.model(str(BASE), label="base", role="base", home={"domain": "x"})
    assert len(found.rows) == 6
    assert found.summary["system"]["role"] == "base"
    assert found.summary["system"]["home"] == {"domain": "x"}


def test_a_model_that_cannot_be_loaded_anew_is_told_as_such(
    wrecked: Path, dev: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one is closed by then: closing it again must not hide why."""
    from chorus.transcribe import loaded as module

    rows, loaded = read_manifest(dev).rows[:2], module.load_backend

    def fails(request: Request) -> Backend:
        raise CheckpointError("no room for it")

    def cannot(tensors: Mapping[str, object]) -> None:
        raise CheckpointError("not in place")

    first, second = grid_of("task_arithmetic", {"lambda": [0.1, 0.2]})
    with Trials(of_rows(rows), tmp_path, decoding=DECODING, device="cpu") as trials:
        trials.merge(recipe(wrecked), first)
        assert trials.loaded.backend is not None
        monkeypatch.setattr(trials.loaded.backend, "replace", cannot)
        monkeypatch.setattr(module, "load_backend", fails)
        with pytest.raises(CheckpointError, match="no room for it"):
            trials.merge(recipe(wrecked), second)
        monkeypatch.setattr(module, "load_backend", loaded)
        assert len(trials.merge(recipe(wrecked), second).rows) == 2, "and the next one is loaded"
