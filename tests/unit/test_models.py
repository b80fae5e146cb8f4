"""Kinds of models: which config is of which, what each is known to do, and how all are loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module

import pytest
import torch
from safetensors.torch import load_file, save_file

from chorus.checkpoints.lazy_tensor import MemoryTensor
from chorus.errors import CheckpointError
from chorus.models.batches import as_taken, pad
from chorus.models.dialects import before_question
from chorus.models.kind import Kind
from chorus.models.limits import Limits
from chorus.models.loading import (
    Origin,
    directory_of,
    kind_at,
    limits_of,
    load_model,
    load_parts,
    put_weights,
    read_config,
)
from chorus.models.registry import KINDS, covered, kind_of, peft_task
from chorus.models.whisper import task_token
from chorus.tasks.registry import TASKS
from chorus.train.resume import identity
from sounds import BASE, tiny

CONFIGS = {  # as their config.json begins
    "whisper": [{"model_type": "whisper", "architectures": ["WhisperForConditionalGeneration"]}],
    "ctc": [
        {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"]},
        {"model_type": "hubert", "architectures": ["HubertModel"], "ctc_loss_reduction": "sum"},
        {"model_type": "parakeet_ctc", "architectures": ["ParakeetForCTC"]},
    ],
    "speech_llm": [
        {"model_type": "qwen2_audio", "architectures": ["Qwen2AudioForConditionalGeneration"]},
        {"model_type": "qwen2_5_omni", "architectures": ["Qwen2_5OmniModel"]},
        {"model_type": "qwen2_5_omni_thinker", "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]},
    ],
    "qwen3_asr": [{"model_type": "qwen3_asr", "audio_config": {}, "text_config": {}}],
    "voxtral": [{"model_type": "voxtral", "architectures": ["VoxtralForConditionalGeneration"]}],
    "causal": [
        {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
        {"model_type": "gemma3", "architectures": ["Gemma3ForCausalLM"]},
    ],
    "other_speech": [{"model_type": "moonshine", "architectures": ["MoonshineForConditionalGeneration"]}],
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_is_of_its_kind(name):
    for config in CONFIGS[name]:
        found = kind_of(config)
        assert found is not None
        assert found.name == name


def test_no_config_is_of_two_kinds():
    asked = [config for configs in CONFIGS.values() for config in configs]
    assert [sum(kind.recognises(config) for kind in KINDS) for config in asked] == [1] * 12


def test_every_kind_is_asked_about_and_no_other():
    assert set(CONFIGS) == set(KINDS.names())
    assert kind_of({"model_type": "bert", "architectures": ["BertForMaskedLM"]}) is None
    assert kind_of({}) is None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_what_a_kind_names_is_there(kind):
    import transformers

    for config in CONFIGS[kind.name]:
        assert hasattr(transformers, kind.model_class(config))
    for path in (kind.backbone, kind.decoder if kind.takes_audio else ""):
        module, _, name = path.partition(":")
        assert not path or hasattr(import_module(module), name)
    assert all(hasattr(transformers, name) for name in (kind.tokenizer_class, kind.extractor_class) if name)
    assert kind.takes_audio == (kind.name != "causal")
    assert kind.decoder == "" or kind.recogniser is not None or kind.name == "whisper"


def test_kinds_are_told_for_cards_and_adapters():
    tags = {kind.name: kind.pipeline_tag for kind in KINDS}
    speech = "automatic-speech-recognition"
    assert tags == {
        "whisper": speech, "ctc": speech, "other_speech": speech, "causal": "text-generation",
        "speech_llm": "audio-text-to-text", "voxtral": "audio-text-to-text", "qwen3_asr": speech,
    }  # fmt: skip
    assert peft_task(CONFIGS["causal"][0]) == "CAUSAL_LM"
    assert peft_task(CONFIGS["whisper"][0]) is None
    assert covered(lambda kind: bool(kind.decoder)) == (
        "wav2vec2-like CTC models, Qwen3-ASR, Qwen2-Audio, Qwen2.5-Omni, Voxtral, Whisper"
    )


def test_another_packages_kind_goes_before_ours(monkeypatch):
    KINDS.names()
    monkeypatch.setattr(KINDS, "_items", dict(KINDS._items))
    mine = Kind(
        name="mine", covers="mine", recognises=lambda config: config.get("model_type") == "moonshine",
        model_class=lambda config: "", limits=lambda config, tokenizer: Limits(tokenizer), pipeline_tag="",
    )  # fmt: skip
    KINDS.add("mine", mine)
    assert kind_of(CONFIGS["other_speech"][0]) is mine


def test_deciding_imports_neither_torch_nor_transformers():
    code = (
        "import sys; from chorus.models.registry import kind_of; assert kind_of({'model_type': 'whisper'});"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_whisper_has_words_of_its_own_for_tasks():
    assert {task.name for task in TASKS if task_token(task.name) == "translate"} == {"st"}
    assert {task_token(task.name) for task in TASKS} == {"transcribe", "translate"}
    assert task_token("slu") == "transcribe"  # what it was never taught is learnt or counted on transcripts


def test_openai_whispers_names_are_the_kinds_to_tell():
    told = KINDS.get("whisper").elsewhere["openai-whisper"]
    assert told("decoder.blocks.0.cross_attn.out.bias") == "model.decoder.layers.0.encoder_attn.out_proj.bias"
    assert told("encoder.ln_post.weight") == "model.encoder.layer_norm.weight"


def test_the_place_of_the_audio_is_as_long_as_what_the_tower_makes():
    for columns in (4, 5, 99, 100, 3000):
        conv = (columns - 1) // 2 + 1  # kernel 3, stride 2, padding 1
        assert before_question(columns).count("<|AUDIO|>") == (conv - 2) // 2 + 1  # pooled by two


# ---- loading ----


def test_a_config_is_read_without_its_weights(tmp_path):
    assert read_config(Origin(BASE))["model_type"] == "whisper"
    assert read_config(Origin(BASE, config={"model_type": "mine"})) == {"model_type": "mine"}
    with pytest.raises(CheckpointError, match="base: not a model"):
        read_config(Origin(tmp_path, label="base"))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="not a JSON object"):
        read_config(Origin(tmp_path))


def test_a_hub_model_is_known_by_its_commit(tmp_path, monkeypatch):
    """As the hub's cache holds it: what the fingerprint of a training names the base by."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--org--small"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(commit)
    tiny(place / "snapshots" / commit, "qwen2")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    origin = Origin("org/small")
    assert read_config(origin)["model_type"] == "qwen2"
    assert directory_of(origin)[1] == commit
    assert identity("org/small") == {"commit": commit}
    assert load_parts(kind_at(origin, "trained"), origin, "float32").model.config.hidden_size == 32
    with pytest.raises(CheckpointError, match="org/none: not a model") as error:
        read_config(Origin("org/none"))
    assert error.value.hint == "name a model directory or a hub id"


def test_what_a_kind_cannot_do_is_told():
    lm = Origin("lm", config=CONFIGS["causal"][0])
    assert kind_at(lm, "trained").name == "causal"
    with pytest.raises(CheckpointError, match="lm: Qwen2ForCausalLM cannot be decoded here") as error:
        kind_at(lm, "decoded")
    assert error.value.hint.startswith("what can: wav2vec2-like CTC models")
    with pytest.raises(CheckpointError, match="x: bert cannot be trained here"):
        kind_at(Origin("x", config={"model_type": "bert"}), "trained")
    new = Origin("new", config={"architectures": ["NewerForCausalLM"]})
    with pytest.raises(CheckpointError, match='"NewerForCausalLM" is unknown to this transformers'):
        load_model(kind_at(new, "trained"), new, "float32", {})


@pytest.mark.parametrize("name", ["whisper", "wav2vec2", "qwen2_audio", "qwen2"])
@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module."])
def test_a_model_is_not_loaded_where_a_part_of_it_would_be_random(tmp_path, name, wrapper):
    place = tiny(tmp_path / name, name)
    origin = Origin(place)
    kind = kind_at(origin, "trained")
    load_model(kind, origin, "float32", {})
    stored = load_file(place / "model.safetensors")
    save_file({wrapper + n: t for n, t in stored.items()}, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensors of the model are not in its file, such as .* of other names"):
        load_model(kind, origin, "float32", {})
    lost = sorted(n for n in stored if "norm" in n)[-1]
    whole = {n: t for n, t in stored.items() if n != lost}
    save_file(whole, place / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match="1 tensors of the model are not in its file"):
        load_model(kind, origin, "float32", {})
    load_model(kind, origin, "float32", {}, fresh=[lost.rpartition(".")[0].rpartition(".")[2]])


@pytest.mark.parametrize("name", ["wav2vec2", "qwen2_audio", "qwen2"])
def test_tensors_stand_for_the_weights_of_a_directory(tmp_path, name):
    place = tiny(tmp_path / name, name)
    kind = kind_at(Origin(place), "trained")
    stored = load_file(place / "model.safetensors")
    tensors = {key: MemoryTensor(key, value + 1) for key, value in stored.items()}
    own = load_parts(kind, Origin(place), "float32").model.state_dict()
    given = load_parts(kind, Origin(place, tensors=tensors), "float32").model.state_dict()
    learned = [key for key, value in own.items() if value.is_floating_point() and "rotary" not in key]
    assert len(learned) > 10
    assert all(torch.allclose(given[key], own[key] + 1, atol=1e-6) for key in learned)


def test_a_merge_decides_on_config_and_generation_settings(tmp_path):
    stored = load_file(BASE / "model.safetensors")
    config = {**json.loads((BASE / "config.json").read_text()), "dropout": 0.25}
    tensors = {key: MemoryTensor(key, value) for key, value in stored.items()}
    origin = Origin(BASE, tensors=tensors, config=config, generation={"eos_token_id": 7, "max_length": 9})
    parts = load_parts(kind_at(origin, "decoded"), origin, "bfloat16")
    assert parts.model.config.dropout == 0.25
    assert parts.model.dtype == torch.bfloat16
    assert (parts.model.generation_config.eos_token_id, parts.model.generation_config.max_length) == (7, 9)
    plain = load_parts(kind_at(origin, "decoded"), Origin(BASE, tensors=tensors), "float32")
    assert plain.model.generation_config.eos_token_id == 50257  # the directory's
    parts.save(tmp_path / "saved")
    names = {path.name for path in (tmp_path / "saved").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= names


def test_weights_are_replaced_in_place_or_not_at_all(tmp_path):
    place = tiny(tmp_path / "w", "wav2vec2")
    model = load_parts(kind_at(Origin(place), "decoded"), Origin(place), "float32").model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    stored = load_file(place / "model.safetensors")
    put_weights(model, {key: MemoryTensor(key, value + 1) for key, value in stored.items()})
    assert all(torch.allclose(model.state_dict()[key], before[key] + 1) for key in stored)
    with pytest.raises(CheckpointError, match="elsewhere: not in the loaded model"):
        put_weights(model, {"lm_head.bias": MemoryTensor("x", before["lm_head.bias"]), "elsewhere": None})
    assert torch.allclose(model.state_dict()["lm_head.bias"], before["lm_head.bias"] + 1)


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        (("tokenizer.json", "vocab.json"), "no tokenizer"),
        (("preprocessor_config.json",), "no feature extractor"),
        (("model.safetensors",), "cannot be loaded"),
    ],
)
def test_what_is_missing_is_named(tmp_path, missing, told):
    place = tiny(tmp_path / "w", "wav2vec2")
    for name in (*missing, "processor_config.json"):
        (place / name).unlink(missing_ok=True)
    with pytest.raises(CheckpointError, match=told):
        load_parts(KINDS.get("ctc"), Origin(place), "float32")


@pytest.mark.parametrize(
    ("name", "seconds", "tokens"),
    [
        ("wav2vec2", 60.0, None),
        ("qwen2_audio", 30.0, 512),
        ("omni", 30.0, 512),
        ("voxtral", 30.0, 512),
        ("qwen3_asr", 30.0, 512),
        ("qwen2", None, 512),
    ],
)
def test_limits_come_from_the_config(tmp_path, name, seconds, tokens):
    found = limits_of(str(tiny(tmp_path / name, name)))
    assert (found.max_audio_s, found.max_tokens) == (seconds, tokens)


def test_whispers_limits():
    found = limits_of(str(BASE))
    assert (found.max_audio_s, found.max_tokens) == (30.0, 443)
    assert {"pt", "en", "haw"} <= found.languages
    assert found.bare("one") == " one"
    with pytest.raises(CheckpointError, match="not a model"):
        limits_of(str(BASE / "nothing"))


# ---- batches ----


def test_padding_on_either_side():
    assert pad([[1], [2, 3]], 0).tolist() == [[1, 0], [2, 3]]
    assert pad([[1], [2, 3]], 9, left=True).tolist() == [[9, 1], [2, 3]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_inputs_take_the_type_of_the_weights(dtype):
    model = torch.nn.Linear(2, 2).to(dtype)
    taken = as_taken({"sounds": torch.zeros(1, 2, dtype=torch.float64), "ids": torch.tensor([[1]])}, model)
    assert (taken["sounds"].dtype, taken["ids"].dtype) == (dtype, torch.int64)
