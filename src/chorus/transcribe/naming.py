"""Whether a name on the line is a model or a recording; and openai-whisper's names of its models."""

from __future__ import annotations

from pathlib import Path

from chorus.export.onnx.reader import find
from chorus.files import expanded
from chorus.transcribe.recordings import STDIN, is_audio

# what makes a folder a model: a transformers model, an adapter, one that is converted for CTranslate2; and graphs do
IN_MODELS = ("config.json", "adapter_config.json", "model.bin")
MODEL_FILES = (".yml", ".yaml", ".pt", ".pth", ".bin", ".safetensors", ".gguf", ".onnx", ".json")
SIZES = ("tiny", "base", "small", "medium", "large-v1", "large-v2", "large-v3", "large-v3-turbo")
OPENAI = {
    **{name: f"openai/whisper-{name}" for name in SIZES},
    **{f"{name}.en": f"openai/whisper-{name}.en" for name in ("tiny", "base", "small", "medium")},
    "large-v1": "openai/whisper-large", "large": "openai/whisper-large-v3", "turbo": "openai/whisper-large-v3-turbo",
}  # fmt: skip


def is_recording(name: str) -> bool:
    """Whether a name is a recording's: what is there decides, and of what is not there how it is called.

    >>> is_recording("-"), is_recording("missing.mp3"), is_recording("openai/whisper-tiny")
    (True, True, False)
    """
    path = expanded(name)
    if name == STDIN:
        return True
    if path.is_dir():
        return not any((path / mark).exists() for mark in IN_MODELS) and find(path) is None
    if is_audio(path):
        # base+adapter may end as it likes
        return "+" not in name or path.exists()
    return path.exists() and path.suffix.lower() not in MODEL_FILES


def hub_name(name: str) -> str:
    """openai-whisper's name of a model as the hub has it, where nothing here is called so; any other as it is.

    >>> hub_name("turbo"), hub_name("my/model")
    ('openai/whisper-large-v3-turbo', 'my/model')
    """
    return name if Path(name).exists() else OPENAI.get(name, name)
