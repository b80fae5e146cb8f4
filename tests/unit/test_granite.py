"""Granite Speech: merged with the adapter that it brings, and neither trained nor evaluated, in so many words."""

from __future__ import annotations

import json
import warnings

import peft
import pytest
import torch
import transformers

import chorus
from architectures import ARCHITECTURES
from chorus.errors import ChorusError
from chorus.models.loading import Origin, kind_at
from models import load_all
from sounds import corpus


def made(place, seed):
    """A tiny one with an adapter of its own, as the published ones have it."""
    name, settings = ARCHITECTURES["granite_speech"]
    torch.manual_seed(seed)
    config = transformers.GraniteSpeechConfig(**{**settings, "has_lora_adapter": True})
    model = getattr(transformers, name)(config)
    model.save_pretrained(str(place))
    lora = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model.add_adapter(lora)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # the class's own way writes the factors a second time, into the model's file
        transformers.PreTrainedModel.save_pretrained(model, str(place))
    return place


@pytest.fixture(scope="module")
def granites(tmp_path_factory):
    folder = tmp_path_factory.mktemp("granite")
    return [made(folder / f"g{seed}", seed) for seed in range(2)]


def test_its_own_adapter_stays_with_the_merge(tmp_path, granites):
    recipe = {
        "merge_method": "linear",
        "models": [{"model": str(one), "parameters": {"weight": 0.5}} for one in granites],
    }
    told = "g1 brings another adapter of its own, which is not merged: the result has g0's"
    assert told in chorus.plan(recipe).warnings
    chorus.merge(recipe, tmp_path / "out")
    weights = "adapter_model.safetensors"
    assert (tmp_path / "out" / weights).read_bytes() == (granites[0] / weights).read_bytes()
    model = transformers.GraniteSpeechForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model._hf_peft_config_loaded
    found = model.state_dict()
    own = transformers.GraniteSpeechForConditionalGeneration.from_pretrained(granites[0]).state_dict()
    factors = [name for name in own if ".lora_" in name]
    assert len(factors) >= 4
    assert all(torch.equal(found[name], own[name]) for name in factors)
    merged, parts = load_all_models(tmp_path / "out"), [load_all_models(one) for one in granites]
    assert all(
        torch.allclose(v, (parts[0][n] + parts[1][n]) / 2)
        for n, v in merged.items()
        if v.is_floating_point() and "running" not in n
    )
    chorus.export(granites[1], tmp_path / "exported", "hf")
    assert (tmp_path / "exported" / weights).exists()


def load_all_models(place):
    return {name: value for name, value in load_all(place).items() if "lora_" not in name}


def test_an_adapter_beside_another_model_is_still_left(tmp_path, granites):
    config = json.loads((granites[0] / "config.json").read_text())
    place = made(tmp_path / "other", 3)
    (place / "config.json").write_text(json.dumps({**config, "has_lora_adapter": False}))
    chorus.export(place, tmp_path / "exported", "hf")
    assert not (tmp_path / "exported" / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("verb", ["trained", "decoded"])
def test_what_it_lacks_here_is_said(granites, verb):
    with pytest.raises(ChorusError, match=f"cannot be {verb} here") as caught:
        kind_at(Origin(granites[0]), verb)
    assert "Granite Speech is merged alone: its features need torchaudio" in caught.value.hint
    assert "Voxtral" in caught.value.hint


def test_evaluating_it_is_refused_before_it_is_loaded(tmp_path, granites):
    with pytest.raises(ChorusError, match="cannot be") as caught:
        chorus.evaluate(granites[0], corpus(tmp_path / "speech", 3)[0], tmp_path / "out")
    assert "torchaudio" in str(caught.value)
