"""Pickled checkpoints: `pytorch_model*.bin` and openai-whisper's `.pt`. Only on request, and weights only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.lazy_tensor import Checkpoint, MemoryTensor
from chorus.checkpoints.model import Model, OpenOptions, read_json, shard_names
from chorus.errors import CheckpointError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

# openai-whisper's module names -> transformers', in this order
OPENAI_NAMES = (
    (r"\.blocks\.", ".layers."),
    (r"\.cross_attn_ln\.", ".encoder_attn_layer_norm."),
    (r"\.cross_attn\.", ".encoder_attn."),
    (r"\.attn_ln\.", ".self_attn_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.query\.", ".q_proj."),
    (r"\.key\.", ".k_proj."),
    (r"\.value\.", ".v_proj."),
    (r"_attn\.out\.", "_attn.out_proj."),
    (r"\.mlp_ln\.", ".final_layer_norm."),
    (r"\.mlp\.0\.", ".fc1."),
    (r"\.mlp\.2\.", ".fc2."),
    (r"\.ln_post\.", ".layer_norm."),
    (r"^decoder\.ln\.", "decoder.layer_norm."),
    (r"\.positional_embedding$", ".embed_positions.weight"),
    (r"\.token_embedding\.", ".embed_tokens."),
)


def load_pickle(path: Path, allow_pickle: bool) -> Any:
    """Unpickle tensors and plain containers, nothing that could run code; only with `--allow-pickle`."""
    if not allow_pickle:
        raise CheckpointError(
            f"{path}: a pickled checkpoint, which is not opened by default",
            "convert it to safetensors, or pass --allow-pickle (it is then loaded with weights_only=True)",
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises many kinds for a damaged or a dangerous file
        raise CheckpointError(
            f"{path}: cannot be loaded as plain tensors ({type(error).__name__})",
            "the file is damaged, or holds more than tensors; convert it to safetensors where you trust it",
        ) from error


def open_pickles(directory: Path, pickles: list[Path], config: dict[str, Any], label: str, allow_pickle: bool) -> Model:
    """A model directory whose weights are `pytorch_model.bin`, whole or in shards."""
    first = pickles[0]
    files = [first]
    if first.name.endswith(".index.json"):
        files = [directory / n for n in shard_names(read_json(first), first, lambda n: (directory / n).exists())]
    tensors = {}
    for file in files:
        state = load_pickle(file, allow_pickle)
        state = state.get("state_dict", state) if isinstance(state, dict) else state
        tensors.update(_tensors_of(state, file))
    _drop_shared(tensors, config)
    return Model(label, Checkpoint(tensors, label), config, directory, paths={f.name: f for f in files})


def open_openai_whisper(path: Path, label: str, allow_pickle: bool) -> Model:
    """openai-whisper's `.pt`: ten dimensions and a state dict under its own names."""
    state = load_pickle(path, allow_pickle)
    if not isinstance(state, dict) or not {"dims", "model_state_dict"} <= set(state):
        raise CheckpointError(
            f"{path}: not an openai-whisper checkpoint", "expected the keys dims and model_state_dict"
        )
    tensors = _tensors_of({whisper_name(k): v for k, v in state["model_state_dict"].items()}, path)
    return Model(label, Checkpoint(tensors, label), whisper_config(state["dims"]), None, paths={path.name: path})


def whisper_name(name: str) -> str:
    """The name that transformers gives to a tensor of openai-whisper.

    >>> whisper_name("decoder.blocks.0.cross_attn.out.bias")
    'model.decoder.layers.0.encoder_attn.out_proj.bias'
    """
    for pattern, replacement in OPENAI_NAMES:
        name = re.sub(pattern, replacement, name)
    return f"model.{name}"


def whisper_config(dims: dict[str, int]) -> dict[str, Any]:
    """The transformers config of these dimensions."""
    multilingual = dims["n_vocab"] >= 51865
    start = 50258 if multilingual else 50257
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "vocab_size": dims["n_vocab"],
        "num_mel_bins": dims["n_mels"],
        "d_model": dims["n_audio_state"],
        "encoder_layers": dims["n_audio_layer"],
        "encoder_attention_heads": dims["n_audio_head"],
        "encoder_ffn_dim": 4 * dims["n_audio_state"],
        "decoder_layers": dims["n_text_layer"],
        "decoder_attention_heads": dims["n_text_head"],
        "decoder_ffn_dim": 4 * dims["n_text_state"],
        "max_source_positions": dims["n_audio_ctx"],
        "max_target_positions": dims["n_text_ctx"],
        "num_hidden_layers": dims["n_audio_layer"],
        "is_encoder_decoder": True,
        "decoder_start_token_id": start,
        "bos_token_id": start - 1,
        "eos_token_id": start - 1,
        "pad_token_id": start - 1,
        "torch_dtype": "float16",
    }


def _tensors_of(state: Any, path: Path) -> dict[str, MemoryTensor]:
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise CheckpointError(f"{path}: not a flat map of names to tensors", "save the model's state_dict alone")
    return {name: MemoryTensor(name, value) for name, value in state.items()}


def _drop_shared(tensors: dict[str, MemoryTensor], config: dict[str, Any]) -> None:
    """Pickles hold tied heads twice, safetensors once: keep the embedding only, where both share storage."""
    if not config.get("tie_word_embeddings", config.get("model_type") == "whisper"):
        return
    storages = {t.value.data_ptr(): name for name, t in tensors.items() if "embed_tokens" in name}
    for name in [n for n in tensors if n.endswith(("lm_head.weight", "proj_out.weight"))]:
        if tensors[name].value.data_ptr() in storages:
            del tensors[name]


class OpenaiWhisper:
    """openai-whisper's `.pt` as a form of model (see chorus.checkpoints.formats)."""

    def takes(self, path: Path) -> bool:
        return path.suffix in (".pt", ".pth", ".bin")

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        return open_openai_whisper(path, label, options.allow_pickle)
