"""openai-whisper's `.pt` files, and what transformers' pipeline makes of a merged Whisper."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch

import chorus
from chorus.checkpoints.model import OpenOptions
from chorus.checkpoints.open import open_model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import CheckpointError
from models import load_all

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
NAMES = {  # transformers' name -> openai-whisper's, from whisper/model.py
    "encoder.layers.1.self_attn.q_proj.weight": "encoder.blocks.1.attn.query.weight",
    "encoder.layers.0.self_attn.k_proj.weight": "encoder.blocks.0.attn.key.weight",
    "encoder.layers.0.self_attn_layer_norm.bias": "encoder.blocks.0.attn_ln.bias",
    "encoder.layers.0.fc1.weight": "encoder.blocks.0.mlp.0.weight",
    "encoder.layers.0.fc2.bias": "encoder.blocks.0.mlp.2.bias",
    "encoder.layers.0.final_layer_norm.weight": "encoder.blocks.0.mlp_ln.weight",
    "encoder.layer_norm.weight": "encoder.ln_post.weight",
    "encoder.embed_positions.weight": "encoder.positional_embedding",
    "encoder.conv1.weight": "encoder.conv1.weight",
    "decoder.layers.2.encoder_attn.v_proj.bias": "decoder.blocks.2.cross_attn.value.bias",
    "decoder.layers.2.encoder_attn.out_proj.weight": "decoder.blocks.2.cross_attn.out.weight",
    "decoder.layers.2.encoder_attn_layer_norm.weight": "decoder.blocks.2.cross_attn_ln.weight",
    "decoder.embed_tokens.weight": "decoder.token_embedding.weight",
    "decoder.embed_positions.weight": "decoder.positional_embedding",
    "decoder.layer_norm.bias": "decoder.ln.bias",
}
RULES = [
    ("encoder_attn_layer_norm", "cross_attn_ln"),
    ("encoder_attn.", "cross_attn."),
    ("self_attn_layer_norm", "attn_ln"),
    ("self_attn.", "attn."),
    ("layers.", "blocks."),
    ("q_proj", "query"),
    ("k_proj", "key"),
    ("v_proj", "value"),
    ("out_proj", "out"),
    ("final_layer_norm", "mlp_ln"),
    ("fc1", "mlp.0"),
    ("fc2", "mlp.2"),
    ("embed_positions.weight", "positional_embedding"),
    ("embed_tokens", "token_embedding"),
    ("encoder.layer_norm", "encoder.ln_post"),
    ("decoder.layer_norm", "decoder.ln"),
]


def openai_name(name: str) -> str:
    name = name.removeprefix("model.")
    for ours, theirs in RULES:
        name = name.replace(ours, theirs)
    return name


@pytest.fixture
def pt_file(whisper, tmp_path):
    """The base as openai-whisper would save it."""
    config = json.loads((whisper.base / "config.json").read_text())
    dims = {
        "n_mels": config["num_mel_bins"],
        "n_vocab": config["vocab_size"],
        "n_audio_ctx": config["max_source_positions"],
        "n_audio_state": config["d_model"],
        "n_audio_head": config["encoder_attention_heads"],
        "n_audio_layer": config["encoder_layers"],
        "n_text_ctx": config["max_target_positions"],
        "n_text_state": config["d_model"],
        "n_text_head": config["decoder_attention_heads"],
        "n_text_layer": config["decoder_layers"],
    }
    state = {openai_name(k): v for k, v in load_all(whisper.base).items()}
    torch.save({"dims": dims, "model_state_dict": state}, tmp_path / "small.pt")
    return tmp_path / "small.pt"


def test_the_tests_own_names_are_openais():
    assert {ours: openai_name(f"model.{ours}") for ours in NAMES} == NAMES


def test_a_pt_file_is_the_model_that_it_was(whisper, pt_file):
    with pytest.raises(CheckpointError, match="--allow-pickle"):
        open_model(parse_reference(str(pt_file)))
    model = open_model(parse_reference(str(pt_file)), OpenOptions(allow_pickle=True))
    expected = load_all(whisper.base)
    assert set(model.checkpoint) == set(expected)
    assert all(torch.equal(model.checkpoint[n].read(), v) for n, v in expected.items())


def test_a_pt_file_merges_with_a_directory(whisper, pt_file, out):
    from transformers import WhisperForConditionalGeneration

    models = [{"model": str(p), "parameters": {"weight": 1}} for p in (whisper.tuned[0], pt_file)]
    chorus.merge({"merge_method": "linear", "models": models}, out, chorus.Options(allow_pickle=True))
    found, a, b = load_all(out), load_all(whisper.tuned[0]), load_all(whisper.base)
    name = "model.decoder.layers.2.encoder_attn.out_proj.weight"
    assert torch.allclose(found[name], (a[name] + b[name]) / 2, atol=1e-8)
    WhisperForConditionalGeneration.from_pretrained(out)


def test_a_damaged_pt_file_is_told(tmp_path):
    (tmp_path / "x.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(CheckpointError, match="cut short or damaged"):
        open_model(parse_reference(str(tmp_path / "x.pt")), OpenOptions(allow_pickle=True))


@pytest.mark.parametrize("form", ["new", "old"])
def test_the_pipeline_hears_with_a_merged_model(form, tmp_path, out):
    """Nothing is added by hand, whether the inputs carry transformers 5's side files or the older ones."""
    pytest.importorskip("soundfile", reason='reading audio needs pip install "chorus-merge[audio]"')
    from transformers import pipeline

    source = tmp_path / "base"
    shutil.copytree(DIGITS / "base", source)
    if form == "new":
        settings = json.loads((source / "preprocessor_config.json").read_text())
        (source / "processor_config.json").write_text(
            json.dumps({"feature_extractor": settings, "processor_class": "WhisperProcessor"})
        )
        (source / "preprocessor_config.json").unlink()
    chorus.merge({"merge_method": "linear", "models": [{"model": str(source), "parameters": {"weight": 1}}]}, out)
    names = {p.name for p in out.iterdir()}
    assert {"vocab.json", "merges.txt", "added_tokens.json", "tokenizer.json", "special_tokens_map.json"} <= names
    assert {"preprocessor_config.json", "generation_config.json"} <= names
    assert ("processor_config.json" in names) == (form == "new")
    recogniser = pipeline("automatic-speech-recognition", model=str(out))
    sys.path.insert(0, str(DIGITS))
    import speech

    tests = speech.read_manifest(DIGITS / "data" / "manifest.csv", speakers=["theo"], split="test")[::10]
    heard = [
        recogniser(
            {"raw": u.audio.copy(), "sampling_rate": 16000}, generate_kwargs={"language": "en", "task": "transcribe"}
        )
        for u in tests
    ]
    assert sum(h["text"].strip() == u.text for h, u in zip(heard, tests, strict=True)) >= 4


def test_the_old_tokenizer_files_hold_what_the_new_one_does(out):
    chorus.merge(
        {"merge_method": "linear", "models": [{"model": str(DIGITS / "base"), "parameters": {"weight": 1}}]}, out
    )
    vocabulary = json.loads((out / "vocab.json").read_text())
    added = json.loads((out / "added_tokens.json").read_text())
    assert len(vocabulary) == 50257
    assert len({**vocabulary, **added}) == 51865
    assert added["<|startoftranscript|>"] == 50258
    assert len((out / "merges.txt").read_text().splitlines()) > 49_000
