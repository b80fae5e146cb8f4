"""What is merged or stacked, of whatever architecture, loads as its models do: no name missing, none too much."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import chorus
from architectures import ARCHITECTURES, loading_faults, make_pair
from chorus.architectures.layouts import inventory_of, layout_of
from chorus.errors import PlanError
from models import load_all, write_model

# stages of a pyramid have their own widths: no further one fits behind the last
NO_STACK = {"swin": "would not call for", "convnext": "no key that counts the layers",
            "inkling2_text": "no layer can move"}  # fmt: skip
PERIODS = {"jamba": 2, "granite_speech": 2}  # kinds of layers take turns, by their numbers
# fused, interleaved or permuted for rotations: the file's values are not the module tree's as they lie
OTHER_FORM = ("step3p7", "mistral_large4", "inkling2_text")


@pytest.fixture
def pair(kind: str, tmp_path: Path) -> tuple[Path, Path]:
    return make_pair(kind, tmp_path)


def halves(*places: Path) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(p), "parameters": {"weight": 0.5}} for p in places]}


def config_of(place: Path) -> dict[str, Any]:
    return dict(json.loads((place / "config.json").read_text()))


def test_there_are_fifty_and_more():
    assert len(ARCHITECTURES) >= 80
    assert len({name for name, _ in ARCHITECTURES.values()}) == len(ARCHITECTURES)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_merge_loads_as_its_models_do(kind, pair, tmp_path):
    a, b = pair
    assert loading_faults(kind, a) == {}
    chorus.merge(halves(a, b), tmp_path / "out")
    assert loading_faults(kind, tmp_path / "out") == {}
    assert set(load_all(tmp_path / "out")) == set(load_all(a))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_module_trees_names_are_the_files(kind, pair, tmp_path):
    a, b = pair
    if kind in OTHER_FORM:
        assert set(chorus.plan(halves(tmp_path / "tree"))) == set(load_all(tmp_path / "tree"))
        with pytest.raises(PlanError, match="the same weights in two forms"):
            chorus.plan(halves(a, tmp_path / "tree"))
        return
    expected = chorus.plan(halves(a, b)).model().checkpoint
    found = chorus.plan(halves(a, tmp_path / "tree")).model().checkpoint
    assert set(found) == set(expected)
    assert all(torch.equal(found[name].read(), expected[name].read()) for name in expected)
    turned = chorus.plan(halves(tmp_path / "tree", a))  # the first model's spelling is the one that is written
    assert set(turned) == set(load_all(tmp_path / "tree"))


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_each_stack_takes_a_further_layer(kind, pair, tmp_path):
    a, b = pair
    layout = layout_of(config_of(a), list(load_all(a)))
    assert layout.stacks
    for number, stack in enumerate(layout.stacks):
        more = PERIODS.get(kind, 1)
        slices = [(a, [0, stack.count]), (b, [max(0, stack.count - more), stack.count])]
        stacked = {"slices": [{"sources": [{"model": str(m), "layer_range": r}]} for m, r in slices]}
        whole = {s.module: {"models": [{"model": str(a)}]} for s in layout.stacks}
        recipe = stacked if len(layout.stacks) == 1 else {"modules": {**whole, stack.module: stacked}}
        if kind in NO_STACK:
            with pytest.raises(PlanError, match=NO_STACK[kind]):
                chorus.plan({"merge_method": "passthrough", **recipe})
            continue
        out = tmp_path / f"out-{number}"
        chorus.merge({"merge_method": "passthrough", **recipe}, out)
        assert loading_faults(kind, out) == {}
        tensors, theirs = load_all(out), load_all(b)
        last = f"{stack.prefix}{stack.count - 1}."
        added = f"{stack.prefix}{stack.count + min(more, stack.count) - 1}."
        copied = [name for name in theirs if name.startswith(last)]
        assert copied
        assert all(torch.equal(tensors[name.replace(last, added)], theirs[name]) for name in copied)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_a_tensor_that_is_dropped_prefixed_or_renamed(kind, pair, tmp_path):
    a, b = pair
    tensors, config = load_all(b), config_of(b)
    inventory = inventory_of(config, tensors)
    assert set(tensors) <= set(inventory.shapes)
    assert {n: tuple(t.shape) for n, t in tensors.items()} == {n: inventory.shapes[n] for n in tensors}
    name = next(n for n in sorted(tensors) if not inventory.may_lack(n))
    wrapped = write_model(tmp_path / "wrapped", {f"_orig_mod.{n}": t for n, t in tensors.items()}, config)
    assert set(chorus.plan(halves(a, wrapped))) == set(load_all(a))
    without = {n: t for n, t in tensors.items() if n != name}
    bad = write_model(tmp_path / "dropped", without, config)
    with pytest.raises(PlanError, match=f"dropped: lacks {name}"):
        chorus.plan(halves(bad))
    bad = write_model(tmp_path / "renamed", {**without, "nobody.weight": tensors[name]}, config)
    with pytest.raises(PlanError, match=r"renamed: nobody\.weight"):
        chorus.plan(halves(bad))


def test_running_statistics_of_one_model_beside_merged_weights_are_told(tmp_path):
    a, b = make_pair("parakeet_ctc", tmp_path)
    merged = chorus.plan(halves(a, b))
    (told,) = (warning for warning in merged.warnings if "running statistics" in warning)
    assert "running_mean" in told
    assert "those of a;" in told
    stack = layout_of(config_of(a), list(load_all(a))).stacks[0].count
    slices = [{"sources": [{"model": str(m), "layer_range": [0, stack]}]} for m in (a, b)]
    for alone in (
        {"merge_method": "passthrough", "slices": slices},
        {"merge_method": "passthrough", "models": [{"model": str(b)}]},
    ):
        assert not any("running statistics" in warning for warning in chorus.plan(alone).warnings)
    attends = chorus.plan(halves(*make_pair("llama", tmp_path / "llama")))
    assert not any("running statistics" in warning for warning in attends.warnings)


def changed(place: Path, target: Path, part: str) -> tuple[Path, list[str]]:
    """A copy of a model that differs in every tensor with this in its name, by as much."""
    tensors = load_all(place)
    names = [name for name in tensors if part in name]
    assert names
    other = {name: tensor + 0.5 if name in names else tensor for name, tensor in tensors.items()}
    return write_model(target, other, config_of(place)), names


FROZEN = {
    "deepseek_v3": "e_score_correction_bias",  # a buffer, which another rule than gradients changes
    "ernie4_5_moe": "e_score_correction_bias",  # a parameter that its class freezes
    "bart": "final_logits_bias",
    "gemma4_text": "layer_scalar",
}


@pytest.mark.parametrize("kind", FROZEN)
def test_what_a_class_freezes_is_merged_and_extracted_where_it_differs(kind, tmp_path):
    a, _ = make_pair(kind, tmp_path)
    b, names = changed(a, tmp_path / "other", FROZEN[kind])
    plan = chorus.plan(halves(a, b))
    before = load_all(a)
    assert all(torch.allclose(plan[name].read(), before[name] + 0.25) for name in names)
    assert all(torch.equal(plan[name].read(), tensor) for name, tensor in before.items() if name not in names)
    chorus.extract_task_vector(b, a, tmp_path / "vector")
    chorus.apply(a, tmp_path / "vector", tmp_path / "out")
    found = load_all(tmp_path / "out")
    assert all(torch.allclose(found[name], before[name] + 0.5) for name in names)


def test_a_backbone_that_is_frozen_is_merged_and_its_statistics_are_told(tmp_path):
    import transformers

    backbone = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1] * 4)
    config = transformers.DetrConfig(
        use_timm_backbone=False, use_pretrained_backbone=False, backbone=None, backbone_config=backbone, d_model=16,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=4,
    )  # fmt: skip
    model = transformers.DetrForObjectDetection(config)
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen
    for name, step in (("a", 0.0), ("b", 1.0)):
        with torch.no_grad():
            for tensor in model.state_dict().values():
                tensor.add_(step) if tensor.is_floating_point() else None
        model.save_pretrained(tmp_path / name)
    plan = chorus.plan(halves(tmp_path / "a", tmp_path / "b"))
    tensors = load_all(tmp_path / "a")
    kept = [name for name in plan if torch.equal(plan[name].read(), tensors[name])]
    assert all("running" in name for name in kept)
    assert len(kept) >= 8
    assert sum("running statistics" in warning for warning in plan.warnings) == 1
    merged = [name for name in plan if torch.allclose(plan[name].read(), tensors[name] + 0.5)]
    assert sorted(kept + merged) == sorted(plan)


def test_positions_that_are_computed_stay_one_models_and_others_are_told(tmp_path):
    a, b = make_pair("whisper", tmp_path)
    name = "model.encoder.embed_positions.weight"
    other, _ = changed(a, tmp_path / "other", name)
    plan = chorus.plan(halves(a, other))
    assert torch.equal(plan[name].read(), load_all(a)[name])
    (told,) = (warning for warning in plan.warnings if "positions" in warning)
    assert told.startswith(f"{name}: computed positions are not merged, they are those of a;")
    result = chorus.extract_task_vector(other, a, tmp_path / "vector")
    assert any(f"other: {name} are other than in a" in warning for warning in result.warnings)
    whole = write_model(tmp_path / "whole", {**load_all(b), name: load_all(a)[name]}, config_of(b))
    half = {n: t.half() for n, t in load_all(whole).items()}
    for alike in (whole, write_model(tmp_path / "half", half, config_of(b))):
        assert not any("positions" in warning for warning in chorus.plan(halves(a, alike)).warnings)
        alone = chorus.extract_task_vector(alike, a, tmp_path / f"vector-{alike.name}")
        assert not any("learned" in warning for warning in alone.warnings)


def test_statistics_that_an_extraction_leaves_are_told(tmp_path):
    a, _ = make_pair("parakeet_ctc", tmp_path)
    b, _ = changed(a, tmp_path / "other", "running_mean")
    result = chorus.extract_task_vector(b, a, tmp_path / "vector")
    assert any("running_mean" in warning and "computed or measured" in warning for warning in result.warnings)


def test_layers_that_a_file_keeps_in_several_places_merge(tmp_path):
    import transformers

    one = [1] * 4
    config = transformers.SegformerConfig(
        hidden_sizes=[8] * 4, depths=one, num_attention_heads=one, decoder_hidden_size=8
    )
    for name in ("a", "b"):
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / name)
    chorus.merge(halves(tmp_path / "a", tmp_path / "b"), tmp_path / "out")
    a, b, out = (load_all(tmp_path / name) for name in ("a", "b", "out"))
    blocks = [name for name in out if ".block." in name]
    assert len(blocks) > 60
    assert set(out) == set(a)
    assert all(torch.allclose(out[name], (a[name] + b[name]) / 2, atol=1e-6) for name in blocks)
    layer = {
        "merge_method": "passthrough",
        "slices": [{"sources": [{"model": str(tmp_path / "a"), "layer_range": [0, 3]}]}],
    }
    with pytest.raises(PlanError):
        chorus.plan(layer)


@pytest.mark.parametrize("kind", ["inkling2_text"])
def test_layers_do_not_change_places_without_what_lies_elsewhere(kind, pair):
    """As many layers as before, so that every name is there: the values would be another layer's."""
    swapped = [{"sources": [{"model": str(pair[0]), "layer_range": r}]} for r in ([1, 2], [0, 1], [2, 3])]
    with pytest.raises(PlanError, match="no layer can move"):
        chorus.plan({"merge_method": "passthrough", "slices": swapped})
