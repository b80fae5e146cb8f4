"""Models whose directories have one name: told apart wherever they are named, and each with its own licence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

import chorus
from adapters import make_adapters
from chorus.checkpoints.reference import labelled, parse_reference
from chorus.cli.evaluate import told_apart
from chorus.cli.main import run
from chorus.errors import PlanError
from chorus.transcribe.systems import System
from models import Family, load_all, write_recipe

pytestmark = pytest.mark.reported("same-last-part")


@pytest.fixture
def three(whisper: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Three models, each in a `checkpoint-1000`; the second is not for commerce."""
    places = []
    for folder, source, licence in zip(
        "abc", (whisper.base, *whisper.tuned), ("mit", "cc-by-nc-4.0", "mit"), strict=False
    ):
        place = tmp_path / folder / "checkpoint-1000"
        shutil.copytree(source, place)
        (place / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
        places.append(f"{folder}/checkpoint-1000")
    monkeypatch.chdir(tmp_path)
    return places


def recipe_of(places: list[str]) -> dict:
    models = [{"model": place, "parameters": {"weight": 0.5}} for place in places[1:]]
    return {"merge_method": "task_arithmetic", "base_model": places[0], "models": models}


def front(card: str) -> dict:
    found: dict = yaml.safe_load(card.split("---\n")[1])
    return found


def test_the_card_counts_them_and_states_no_licence_that_one_of_them_has_not(three, capsys, tmp_path):
    path = write_recipe(tmp_path / "r.yml", recipe_of(three))
    assert run(["merge", str(path), "-o", "out"]) == 0
    assert "b/checkpoint-1000: cc-by-nc-4.0" in capsys.readouterr().err
    card = Path("out/README.md").read_text()
    assert "license" not in front(card)
    assert "base_model" not in front(card)  # none of them is on the hub
    assert "A merge of 3 models by" in card
    assert "task_arithmetic of 3 models" in card
    for place, licence in zip(three, ("mit", "cc-by-nc-4.0", "mit"), strict=True):
        assert f"| {place} | {licence} |" in card
        assert f"model: {place}" in card
    facts = json.loads(Path("out/chorus.json").read_text())
    assert {one["model"] for one in facts["inputs"]} == set(three) == set(facts["licenses"])
    assert str(tmp_path) not in card + json.dumps(facts)


def test_plans_and_messages_name_the_one_that_is_meant(three, capsys, tmp_path):
    path = write_recipe(tmp_path / "r.yml", recipe_of(three))
    assert run(["plan", str(path), "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [(m["model"], m["license"]) for m in plan["models"]] == [
        ("b/checkpoint-1000", "cc-by-nc-4.0"), ("c/checkpoint-1000", "mit"), ("a/checkpoint-1000", "mit")
    ]  # fmt: skip
    tensors = {k: v for k, v in load_all(Path(three[2])).items() if "fc1" not in k}
    from safetensors.torch import save_file

    save_file(tensors, Path(three[2]) / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PlanError, match="c/checkpoint-1000: lacks"):
        chorus.plan(recipe_of(three))


def test_absolute_paths_are_told_apart_by_their_tails_alone(three, tmp_path):
    chorus.merge(recipe_of([str(tmp_path / place) for place in three]), "out")
    card = Path("out/README.md").read_text()
    assert str(tmp_path) not in card
    assert all(f"| {place} |" in card for place in three)


def test_what_is_extracted_names_both(three):
    chorus.extract_lora(three[1], three[0], "adapter", ranks=chorus.RankRule(max_rank=1))
    card = Path("adapter/README.md").read_text()
    assert "Adapter of b/checkpoint-1000" in card
    assert "| b/checkpoint-1000 | cc-by-nc-4.0 |" in card
    assert "| a/checkpoint-1000 | mit |" in card
    assert "license" not in front(card)
    assert "base_model" not in front(card)
    # found again from the same folder
    assert json.loads(Path("adapter/adapter_config.json").read_text())["base_model_name_or_path"] == three[0]


def test_what_is_applied_is_no_merge_of_models(tmp_path, monkeypatch):
    base, adapters = make_adapters(tmp_path, "qwen2", 2)
    (adapters[1] / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    chorus.apply(base, adapters, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# base + adapter-0 + adapter-1\n" in card
    assert "base and what 2 adapters or vectors add, by" in card
    assert "license" not in front(card)
    assert "| base+adapter-1 | cc-by-nc-4.0 + mit |" in card


def test_names_are_the_shortest_that_differ():
    def names(*texts: str) -> list[str]:
        return [one.name for one in labelled([parse_reference(text) for text in texts])]

    assert names("/x/en/last", "/x/pt/last", "/x/other") == ["en/last", "pt/last", "other"]
    assert names("/x/a/run/last", "/x/b/run/last", "/y/b/sun/last") == ["a/run/last", "b/run/last", "sun/last"]
    assert names("org/m", "org/m@v2", "other/m") == ["org/m", "org/m@v2", "other/m"]
    assert names("/x/base+/x/a/lora", "/x/base+/x/b/lora") == ["base+a/lora", "base+b/lora"]
    # one place by two paths cannot be told apart by any of them
    assert names("/x/m", "/x/../x/m") == ["m", "m (2)"]


def test_systems_that_are_evaluated_together_are_told_apart(three):
    texts = [*three[:2], f"mine={three[2]}"]
    systems = [System("checkpoint-1000", "model", Path(p), p) for p in three[:2]] + [
        System("mine", "model", Path(three[2]), "c")
    ]
    assert [s.label for s in told_apart(texts, systems)] == ["a/checkpoint-1000", "b/checkpoint-1000", "mine"]
