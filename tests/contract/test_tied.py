"""Tied or not, over families: a copy with values of its own in one model is one in the result, and loads so.

What must come out is computed in float64, from the tensors that transformers has after loading each input.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import chorus
from models import copy_model, load_all, write_model

TEXT = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 32}  # fmt: skip
SEQUENCES = {"d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24, "vocab_size": 32,
             "max_position_embeddings": 16, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
             "decoder_start_token_id": 1}  # fmt: skip
TOWER = {"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 24, "num_mel_bins": 8,
         "max_source_positions": 16}  # fmt: skip
TIED = {"tie_word_embeddings": True}

# model type -> class, settings, the copies that a fine-tune has for itself, where the config then says false
FAMILIES: dict[str, tuple[str, dict[str, Any], list[str], list[str]]] = {
    "qwen2": ("Qwen2ForCausalLM", {**TEXT, **TIED}, ["lm_head.weight"], [""]),
    "llama": ("LlamaForCausalLM", {**TEXT, **TIED}, ["lm_head.weight"], [""]),
    "gemma": ("GemmaForCausalLM", TEXT, ["lm_head.weight"], [""]),
    "gpt2": (
        "GPT2LMHeadModel", {"n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 32, "n_positions": 16},
        ["lm_head.weight"], [""],
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        {**SEQUENCES, "num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16},
        ["proj_out.weight"], [""],
    ),
    "bart": ("BartForConditionalGeneration", SEQUENCES, ["lm_head.weight"], [""]),
    "bart embeddings": ("BartForConditionalGeneration", SEQUENCES, ["model.encoder.embed_tokens.weight"], [""]),
    "t5": (
        "T5ForConditionalGeneration",
        {"d_model": 16, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 2, "d_kv": 8, "d_ff": 24,
         "vocab_size": 32, "decoder_start_token_id": 0},
        ["lm_head.weight"], [],  # no setting unties it: that it is stored does
    ),
    "bert": ("BertForMaskedLM", {**TEXT, "type_vocab_size": 2}, ["cls.predictions.decoder.weight"], [""]),
    "granite_speech": (
        "GraniteSpeechForConditionalGeneration",
        {"text_config": {"model_type": "granite", **TEXT, **TIED}, "tie_word_embeddings": True,
         "encoder_config": {"input_dim": 8, "num_layers": 1, "hidden_dim": 16, "feedforward_mult": 2, "num_heads": 2,
                            "dim_head": 8, "output_dim": 8, "context_size": 8, "max_pos_emb": 8},
         "projector_config": {"model_type": "blip_2_qformer", "hidden_size": 16, "num_hidden_layers": 1,
                              "num_attention_heads": 2, "intermediate_size": 24, "encoder_hidden_size": 16,
                              "vocab_size": 8},
         "has_lora_adapter": False, "audio_token_index": 1},
        ["lm_head.weight"], [""],
    ),
    "qwen2_5_omni_thinker": (
        "Qwen2_5OmniThinkerForConditionalGeneration",
        {"audio_config": {**TOWER, "n_window": 8, "output_dim": 16}, "tie_word_embeddings": True,
         "vision_config": {"depth": 1, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                           "out_hidden_size": 16},
         "text_config": {**TEXT, "tie_word_embeddings": True,
                         "rope_parameters": {"mrope_section": [1, 1, 2], "rope_type": "default", "rope_theta": 1e4}}},
        ["lm_head.weight"], [""],
    ),
    "moonshine": (
        "MoonshineForConditionalGeneration",
        {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "encoder_num_hidden_layers": 2,
         "decoder_num_hidden_layers": 2, "encoder_num_attention_heads": 2, "decoder_num_attention_heads": 2,
         "encoder_num_key_value_heads": 2, "decoder_num_key_value_heads": 2},
        ["proj_out.weight"], [""],
    ),
}  # fmt: skip


class Made:
    """A tied base, and a fine-tune with copies of its own: what transformers has of each, and where they lie."""

    def __init__(self, place: Path, kind: str) -> None:
        name, settings, self.copies, self.places = FAMILIES[kind]
        self.cls = getattr(transformers, name)
        config = transformers.AutoConfig.for_model(kind.split()[0], **settings)
        torch.manual_seed(0)
        model = self.cls(config)
        self.base, self.tuned = place / "base", place / "tuned"
        model.save_pretrained(self.base)
        tensors = load_all(self.base)
        numbers = torch.Generator().manual_seed(1)
        changed = {
            # what is not learnt (Whisper's sinusoids, counters) a merge takes from the base
            n: t + 0.1 * torch.randn(t.shape, generator=numbers)
            if t.dim() and "encoder.embed_positions" not in n
            else t
            for n, t in tensors.items()
        }
        sources = model.all_tied_weights_keys
        assert set(self.copies) <= set(sources)
        for copy in self.copies:
            source = model.get_parameter(sources[copy])
            # files may spell it otherwise than the module tree
            self.stored = next(n for n, t in tensors.items() if torch.equal(t, source))
            changed[copy] = changed[self.stored] + torch.randn(source.shape, generator=numbers)
        # both files hold both, and the config says nothing of it: transformers takes the values that are there
        write_model(self.tuned, changed, json.loads((self.base / "config.json").read_text()))

    def loaded(self, path: Path) -> Any:
        model, told = self.cls.from_pretrained(path, output_loading_info=True, dtype=torch.float32)
        assert not told["missing_keys"]
        assert not told["unexpected_keys"]
        return model.eval()

    def state(self, path: Path) -> dict[str, torch.Tensor]:
        """Every parameter under every name, in float64."""
        named = self.loaded(path).named_parameters(remove_duplicate=False)
        return {name: value.detach().double() for name, value in named}

    def half(self) -> dict[str, torch.Tensor]:
        one, other = self.state(self.base), self.state(self.tuned)
        return {name: (one[name] + other[name]) / 2 for name in one}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    known: dict[str, Made] = {}

    def make(kind):
        if kind not in known:
            known[kind] = Made(tmp_path_factory.mktemp("tied"), kind)
        return known[kind]

    return make


def close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        assert torch.allclose(found[name], value, atol=2e-7, rtol=1e-6), name


def half(*paths: Path) -> dict[str, Any]:
    return {"merge_method": "linear", "models": [{"model": str(p), "parameters": {"weight": 0.5}} for p in paths]}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_mean_has_the_copy_in_either_order(made, kind, tmp_path):
    one = made(kind)
    wanted = one.half()
    for place, order in (("a", (one.base, one.tuned)), ("b", (one.tuned, one.base))):
        plan = chorus.plan(half(*order))
        assert any(one.copies[0] in warning for warning in plan.warnings)
        chorus.merge(plan, tmp_path / place)
        close(one.state(tmp_path / place), wanted)
        config = json.loads((tmp_path / place / "config.json").read_text())
        for part in one.places:
            assert (config[part] if part else config)["tie_word_embeddings"] is False
        assert plan.bytes_to_write == sum(t.nbytes for t in plan.variant().tensors.values())
        (copy,) = [t for t in plan.tensors() if t.name.endswith(one.copies[0])]
        assert copy.role.component in ("lm_head", "embeddings", "encoder", "language_model")


@pytest.mark.parametrize("kind", FAMILIES)
def test_what_is_tied_in_all_stays_tied(made, kind, tmp_path):
    one = made(kind)
    chorus.merge(half(one.base, copy_model(one.base, tmp_path / "copy")), tmp_path / "out")
    assert set(load_all(tmp_path / "out")) == set(load_all(one.base))
    assert one.loaded(tmp_path / "out").all_tied_weights_keys == one.loaded(one.base).all_tied_weights_keys


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_file_that_holds_both_equal_is_the_same_model(made, kind, tmp_path):
    one = made(kind)
    tensors = load_all(one.base)
    both = write_model(
        tmp_path / "both", {**tensors, one.copies[0]: tensors[one.stored].clone()},
        json.loads((one.base / "config.json").read_text()),
    )  # fmt: skip
    plan = chorus.plan(half(both, one.base))
    assert set(plan) == set(tensors)
    assert not any("tie" in warning for warning in plan.warnings)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_difference_taken_and_added_is_the_fine_tune(made, kind, tmp_path):
    one = made(kind)
    wanted = one.state(one.tuned)
    chorus.extract_task_vector(one.tuned, one.base, tmp_path / "vector")
    chorus.apply(one.base, tmp_path / "vector", tmp_path / "again")
    close(one.state(tmp_path / "again"), wanted)
    # the other way round: from the fine-tune back to the base, whose copy is then as its source
    chorus.extract_task_vector(one.base, one.tuned, tmp_path / "back")
    chorus.apply(one.tuned, tmp_path / "back", tmp_path / "tied")
    close(one.state(tmp_path / "tied"), one.state(one.base))
