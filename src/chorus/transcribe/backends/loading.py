"""A system's weights, tokenizer and feature extractor through transformers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.sidecar import VOCABULARIES, write_json
from chorus.errors import CheckpointError, UsageError
from chorus.lazy import lazy
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.systems import System

if TYPE_CHECKING:
    from chorus.checkpoints.lazy_tensor import LazyTensor

torch = lazy("torch")
transformers = lazy("transformers")


def load_config(system: System) -> Any:
    """The model's config, without its weights."""
    try:
        if system.config is None:
            return transformers.AutoConfig.from_pretrained(system.directory)
        with tempfile.TemporaryDirectory() as folder:  # AutoConfig chooses the class by the file
            write_json(Path(folder) / "config.json", system.config)
            return transformers.AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{system.label}: no usable config.json ({str(error).splitlines()[0]})", "copy the base's"
        ) from None


def load_model(cls: Any, system: System, decoding: Decoding, device: str) -> Any:
    """The model in evaluation, on the device; from the system's tensors where it has some."""
    if decoding.dtype == "int8":
        raise UsageError("int8 is faster-whisper's", "use --backend faster-whisper, or float32, float16, bfloat16")
    dtype = getattr(torch, decoding.dtype)
    try:
        if system.tensors is None:
            model = cls.from_pretrained(system.directory, dtype=dtype, use_safetensors=True)
        else:
            state = {name: tensor.read().clone() for name, tensor in system.tensors.items()}  # the engine infers
            model = cls.from_pretrained(None, config=load_config(system), state_dict=state, dtype=dtype)
            _take_generation(model, system)
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{system.label}: cannot be loaded ({error})", "check the model's directory") from None
    return model.eval().requires_grad_(False).to(device)


def _take_generation(model: Any, system: System) -> None:
    """The generation settings that a merge decides on, else the directory's."""
    if system.generation is not None:
        model.generation_config = transformers.GenerationConfig.from_dict(system.generation)
    elif (system.directory / "generation_config.json").exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(system.directory)


def load_side(cls: Any, system: System, what: str) -> Any:
    """The tokenizer or the feature extractor."""
    directory = (system.tokenizer or system.directory) if what == "tokenizer" else system.directory
    if what == "tokenizer" and not any((directory / name).exists() for name in VOCABULARIES):
        raise CheckpointError(f"{directory}: no tokenizer (none of {', '.join(VOCABULARIES)})", "copy the base's")
    try:
        return cls.from_pretrained(directory)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"{directory}: no {what} ({reason})", f"copy the {what}'s files there") from None


def put_weights(model: Any, tensors: Mapping[str, LazyTensor]) -> None:
    """Replace the weights of a loaded model by others of the same names and shapes, in place.

    `CheckpointError`, and nothing is changed, where the model calls its weights otherwise than its file does (speech
    language models do): such a model is loaded anew.
    """
    own = dict(model.named_parameters()) | dict(model.named_buffers())
    unknown = next((name for name in tensors if name not in own), None)
    if unknown is not None:
        raise CheckpointError(f"{unknown}: not in the loaded model", "load it anew")
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor.read())
    if set(own) - set(tensors):
        model.tie_weights()
