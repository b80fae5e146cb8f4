"""From a reference to a model: a directory, a file, a hub id; an adapter on its base."""

from __future__ import annotations

from pathlib import Path

from chorus.checkpoints.adapter import CONFIG, WEIGHTS, apply_adapter, open_adapter
from chorus.checkpoints.directory import open_directory
from chorus.checkpoints.model import Model, OpenOptions, read_json
from chorus.checkpoints.reference import Reference, looks_local
from chorus.checkpoints.task_vector import TASK_VECTOR, apply_task_vector
from chorus.errors import CheckpointError


def open_model(reference: Reference, options: OpenOptions | None = None) -> Model:
    """Open a model without reading a weight. `CheckpointError` says what is missing or damaged."""
    options = options or OpenOptions()
    if reference.adapter is not None:
        base = open_model(reference.without_adapter, options)
        directory, _ = locate(reference.adapter, options, "adapter")
        if (directory / TASK_VECTOR).exists() and not (directory / CONFIG).exists():
            return apply_task_vector(base, directory, reference.name)
        adapter = open_adapter(directory, reference.adapter.name)
        model = apply_adapter(base, adapter, reference.name)
        model.adapter_config = adapter.config
        model.adapter_paths = {name: directory / name for name in (CONFIG, WEIGHTS)}
        return model
    if not looks_local(reference.path):
        from chorus.checkpoints.hub import open_hub_model  # huggingface_hub is imported only for these

        model = open_hub_model(reference, options)
    else:
        path = Path(reference.path).expanduser()
        model = _open_file(path, reference.name, options) if path.is_file() else _open_local(path, reference, options)
    if reference.override_architecture:
        model.config = {**model.config, "architectures": [reference.override_architecture]}
    return model


def locate(reference: Reference, options: OpenOptions, kind: str) -> tuple[Path, str | None]:
    """The local directory of a reference, downloaded if need be, and the hub's commit."""
    if looks_local(reference.path):
        path = Path(reference.path).expanduser()
        if not path.is_dir():
            raise CheckpointError(f"{path}: no such directory", f"check the path of the {kind}")
        return path, None
    from chorus.checkpoints.hub import download

    return download(reference, options, patterns=["adapter_*"] if kind == "adapter" else None)


def _open_local(path: Path, reference: Reference, options: OpenOptions) -> Model:
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or directory", "check the path of the model")
    if reference.revision:
        raise CheckpointError(f"{reference}: a local directory has no revisions", 'drop the "@..."')
    if (path / CONFIG).exists() and not (path / "config.json").exists():
        base = read_json(path / CONFIG).get("base_model_name_or_path") or "its base"
        raise CheckpointError(
            f"{path}: an adapter, not a model",
            f'name it on its base: "{base}+{path}", or model: {base} with lora: {path}',
        )
    return open_directory(path, reference.name, allow_pickle=options.allow_pickle)


def _open_file(path: Path, label: str, options: OpenOptions) -> Model:
    if path.suffix in (".pt", ".pth", ".bin"):
        from chorus.checkpoints.pickled import open_openai_whisper

        return open_openai_whisper(path, label, options.allow_pickle)
    raise CheckpointError(f"{path}: not a model", "name a model directory, a hub id, or an openai-whisper .pt file")
