"""The same recipe on the same inputs gives the same bytes in every file, however the work is cut and carried out."""

from __future__ import annotations

import json
import os

import pytest
import torch

import chorus
from chorus.architectures.layouts import inventory_of
from chorus.ledger import Ledger
from chorus.merge.runs.engine import _TensorWriter
from chorus.merge.runs.journal import NAME as JOURNAL
from chorus.merge.runs.journal import Journal
from models import files_of, write_model

METHODS = {
    "linear": {"weight": 0.4},
    "ties": {"weight": 0.4, "density": 0.3},
    "dare_ties": {"weight": 0.4, "density": 0.3},
    "model_stock": {},
    "breadcrumbs": {"weight": 0.4, "density": 0.7, "gamma": 0.05},
}


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Models whose tensors span several chunks, in bfloat16: [base, three fine-tunes]."""
    place = tmp_path_factory.mktemp("wide")
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "num_hidden_layers": 2,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_attention_heads": 4,
        "num_key_value_heads": 1,
        "vocab_size": 1500,
        "tie_word_embeddings": True,
    }
    inventory = inventory_of(config, [])
    shapes = {n: s for n, s in inventory.shapes.items() if n not in inventory.tied}
    paths = []
    numbers = torch.Generator().manual_seed(0)
    base = {n: torch.randn(s, generator=numbers) * 0.02 for n, s in shapes.items()}
    for i in range(4):
        tensors = {
            n: (t + torch.randn(t.shape, generator=numbers) * 3e-4 * (i > 0)).bfloat16() for n, t in base.items()
        }
        paths.append(write_model(place / f"m{i}", tensors, config))
    return paths


def recipe_of(method, wide):
    models = [{"model": str(p), "parameters": METHODS[method]} for p in wide[1:]]
    made = {"merge_method": method, "models": models, "seed": 5}
    return made if method == "linear" else {**made, "base_model": str(wide[0])}


@pytest.mark.parametrize("method", METHODS)
def test_threads_and_blocks_change_no_byte(method, wide, out):
    recipe = recipe_of(method, wide)
    results = []
    for jobs, block in ((1, 65_536), (2, 4 * 65_536), (4, 131_072), (3, 1)):
        target = out / f"{jobs}-{block}"
        chorus.merge(recipe, target, chorus.Options(jobs=jobs, block_values=block))
        results.append(files_of(target))
    assert len(results[0]) >= 4
    for other in results[1:]:
        assert other.keys() == results[0].keys()
        assert [n for n in other if other[n] != results[0][n]] == []


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_resume_after_any_write_gives_the_same_bytes(method, wide, out, monkeypatch):
    """The process ends at each write in turn; the next goes on, reading only what is not finished."""
    recipe = recipe_of(method, wide)
    options = chorus.Options(jobs=1, block_values=65_536)
    straight = chorus.merge(recipe, out.parent / "straight", options)
    original, count = _TensorWriter.write, 0

    def counting(self, start, stop):
        nonlocal count
        count += 1
        original(self, start, stop)

    monkeypatch.setattr(_TensorWriter, "write", counting)
    chorus.merge(recipe, out.parent / "counted", options)
    writes, checked = count, 0
    assert writes > 12
    for point in range(1, writes, 2):
        left = point

        def dying(self, start, stop):
            nonlocal left
            if left == 0:
                raise Killed
            left -= 1
            original(self, start, stop)

        target = out / str(point)
        monkeypatch.setattr(_TensorWriter, "write", dying)
        with pytest.raises(Killed):
            chorus.merge(recipe, target, options)
        assert not target.exists()
        monkeypatch.setattr(_TensorWriter, "write", original)
        result = chorus.merge(recipe, target, chorus.Options(jobs=1, block_values=65_536, resume=True))
        assert files_of(target) == files_of(out.parent / "straight")
        assert result.tensors == straight.tensors
        if result.resumed:
            assert result.bytes_read < straight.bytes_read
        checked += 1
    assert checked >= 6


def test_a_finished_tensor_that_was_damaged_is_made_again(wide, out, monkeypatch):
    recipe = recipe_of("linear", wide)
    chorus.merge(recipe, out.parent / "straight")
    original = _TensorWriter.write
    calls = []

    def dying(self, start, stop):
        calls.append(self.tensor.name)
        if len(calls) == 6:
            raise Killed
        original(self, start, stop)

    monkeypatch.setattr(_TensorWriter, "write", dying)
    with pytest.raises(Killed):
        chorus.merge(recipe, out, chorus.Options(jobs=1))
    monkeypatch.setattr(_TensorWriter, "write", original)
    weights = out.with_name("merged.partial") / "model.safetensors"
    blank = bytes(os.path.getsize(weights) - 4096)
    with weights.open("r+b") as file:  # a power failure: the journal was written, the data was not
        file.seek(4096)
        file.write(blank)
    chorus.merge(recipe, out, chorus.Options(resume=True))
    assert files_of(out) == files_of(out.parent / "straight")


@pytest.fixture
def half_made(wide, out, monkeypatch):
    """A merge that was killed after some of its tensors, the same merge straight, and its recipe."""
    recipe = recipe_of("linear", wide)
    chorus.merge(recipe, out.parent / "straight")
    calls = []

    def dying(self, entry):
        calls.append(entry)
        if len(calls) == 6:
            raise Killed
        original(self, entry)

    original = Journal.record
    monkeypatch.setattr(Journal, "record", dying)
    with pytest.raises(Killed):
        chorus.merge(recipe, out, chorus.Options(jobs=1))
    monkeypatch.undo()
    return recipe, out.with_name("merged.partial"), files_of(out.parent / "straight")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"loss":[', '"loss":[9'), ('"inputs":{', '"inputs":{"9:x":"f",'), ('"digest":"', '"digest":"0'),
     ('"tensor":"', '"tensor":"no.'), ('"variant":""', '"variant":"other"'), ("{", ""), ("}", "}}"), ("\n", "")],
)  # fmt: skip
def test_a_journal_that_was_changed_is_not_believed(half_made, out, old, new):
    recipe, partial, straight = half_made
    journal = partial / JOURNAL
    first, *lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 5
    assert old in lines[0]
    journal.write_text("".join([first, *(line.replace(old, new, 1) for line in lines)]))
    result = chorus.merge(recipe, out, chorus.Options(resume=True))
    assert result.resumed == 0
    assert files_of(out) == straight


REMADE = [
    {"tensor": "no.such"}, {"variant": "other"}, {"tensor": 3}, {"loss": [1.0]}, {"loss": ["x", 0, 0]}, {"inputs": 3},
    {"inputs": {"0": 1}}, {"digest": None}, {"digest": "0"},
]  # fmt: skip


def remake(journal, change):
    """Write other entries than a journal's, each with the digest that it should have."""
    of = json.loads(journal.read_text().splitlines()[0])["of"]
    entries = Ledger(journal, of, dict).entries
    assert len(entries) == 5
    remade = Ledger(journal, of, dict, resume=False)
    for entry in change(entries):
        remade.append(entry)
    remade.close()


@pytest.mark.parametrize("change", REMADE, ids=str)
def test_a_journal_whose_digests_were_remade_is_not_believed_either(half_made, out, change):
    recipe, partial, straight = half_made
    remake(partial / JOURNAL, lambda entries: [{**entry, **change} for entry in entries])
    assert chorus.merge(recipe, out, chorus.Options(resume=True)).resumed == 0
    assert files_of(out) == straight


def test_no_journal_takes_away_what_lies_elsewhere(half_made, out, tmp_path):
    recipe, partial, straight = half_made
    outside = tmp_path / "outside" / "mine"
    outside.parent.mkdir()
    outside.write_text("mine")
    names = [str(outside), "../outside/mine", "x/../../outside/mine", "nul\0", "", "."]
    remake(partial / JOURNAL, lambda entries: [*entries, *({"side_files": [n]} for n in [*names, "link/mine"])])
    (partial / "link").symlink_to(outside.parent)
    with pytest.raises(chorus.ChorusError, match="link: no file of this merge"):
        chorus.merge(recipe, out, chorus.Options(resume=True))
    (partial / "link").unlink()
    assert chorus.merge(recipe, out, chorus.Options(resume=True)).resumed == 5
    assert files_of(out) == straight
    assert outside.read_text() == "mine"


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "tokenizer.json", "notes.txt", "sub/config.json"])
def test_what_the_plan_did_not_write_is_never_in_the_result(half_made, out, name):
    recipe, partial, straight = half_made
    (partial / name).parent.mkdir(exist_ok=True)
    (partial / name).write_text("{}")
    with pytest.raises(chorus.ChorusError, match=f"{name}: no file of this merge"):
        chorus.merge(recipe, out, chorus.Options(resume=True))
    assert (partial / name).read_text() == "{}"
    (partial / name).unlink()
    chorus.merge(recipe, out, chorus.Options(resume=True))
    assert files_of(out) == straight


def test_weights_that_are_a_link_to_an_input_are_not_written_to(half_made, out, wide):
    recipe, partial, _ = half_made
    weights = wide[1] / "model.safetensors"
    before = weights.read_bytes()
    for link in (os.symlink, os.link):
        (partial / weights.name).unlink()
        link(weights, partial / weights.name)
        with pytest.raises(chorus.ChorusError, match="not as the merge wrote it"):
            chorus.merge(recipe, out, chorus.Options(resume=True))
    assert weights.read_bytes() == before


@pytest.mark.parametrize("moved", [0, 1])
def test_side_files_of_a_killed_run_are_its_own(half_made, out, monkeypatch, moved):
    recipe, partial, straight = half_made
    original, calls = os.replace, []

    def dying(source, target):
        if ".chorus-side-files" in str(source):
            calls.append(target)
            if len(calls) > moved:
                raise Killed
        original(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(Killed):
        chorus.merge(recipe, out, chorus.Options(resume=True))
    monkeypatch.undo()
    assert (partial / ".chorus-side-files").exists()
    chorus.merge(recipe, out, chorus.Options(resume=True))
    assert files_of(out) == straight


def test_resume_refuses_another_recipes_work(wide, out, monkeypatch):
    recipe = recipe_of("linear", wide)

    def dying(self, start, stop):
        raise Killed

    monkeypatch.setattr(_TensorWriter, "write", dying)
    with pytest.raises(Killed):
        chorus.merge(recipe, out)
    monkeypatch.undo()
    other = recipe_of("model_stock", wide)
    with pytest.raises(chorus.ChorusError, match="another merge's unfinished result"):
        chorus.merge(other, out, chorus.Options(resume=True))
    with pytest.raises(chorus.ChorusError, match="an unfinished result is there"):
        chorus.merge(other, out)
    chorus.merge(other, out, chorus.Options(overwrite=True))
    assert (out / "config.json").exists()


def test_overwrite_leaves_the_old_result_until_the_new_one_is_whole(wide, out, monkeypatch):
    recipe = recipe_of("linear", wide)
    chorus.merge(recipe, out)
    before = files_of(out)

    def dying(self, start, stop):
        raise Killed

    monkeypatch.setattr(_TensorWriter, "write", dying)
    with pytest.raises(Killed):
        chorus.merge(recipe_of("ties", wide), out, chorus.Options(overwrite=True))
    assert files_of(out) == before


def test_another_seed_changes_random_methods_only(wide, out):
    for method, differs in (("dare_ties", True), ("ties", False)):
        made = []
        for seed in (1, 2):
            chorus.merge(recipe_of(method, wide), out / method / str(seed), chorus.Options(seed=seed))
            made.append((out / method / str(seed) / "model.safetensors").read_bytes())
        assert (made[0] != made[1]) == differs
