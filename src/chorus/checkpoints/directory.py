"""A Hugging Face model directory: its config and its weights, in one file or in shards with an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from chorus.checkpoints.kinds import refuse_quantised
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile, each_once
from chorus.checkpoints.model import Model
from chorus.checkpoints.safetensors_header import Entry, Header, read_header
from chorus.checkpoints.weights import Files, OnDisk, WeightFiles, weight_files
from chorus.checkpoints.whereabouts import remedy_in
from chorus.errors import CheckpointError
from chorus.files import present, read_json


def open_directory(directory: Path, label: str, *, allow_pickle: bool = False) -> Model:
    """Open a model directory without reading a weight; `allow_pickle`: `.bin` files too, by torch's weights_only."""
    config_path = directory / "config.json"
    if not present(config_path):
        remedy = remedy_in(directory) or "name a Hugging Face model directory"
        raise CheckpointError(f"{directory}: not a model (no config.json)", remedy)
    config = read_json(config_path)
    refuse_quantised(config, label)
    files = OnDisk(directory)
    chosen = weight_files(files, config, str(directory))
    if chosen.pickled:
        from chorus.checkpoints.pickled import open_pickles  # torch is imported only for these

        # refused without `allow_pickle`, and loaded with weights_only
        return open_pickles(directory, chosen, config, label, allow_pickle)
    paths = {name: directory / name for name in chosen.names}
    headers = {name: read_header(path) for name, path in paths.items()}
    mapped = {name: MappedFile(path) for name, path in paths.items()}
    return Model(
        label,
        tensors_of(headers, lambda entry, name: FileTensor(entry, mapped[name]), label),
        config,
        directory,
        files=headers,
        paths=paths,
        warnings=[*chosen.warnings, *unkept(files, chosen, headers, str(directory))],
    )


def tensors_of(headers: Mapping[str, Header], tensor: Callable[[Entry, str], LazyTensor], label: str) -> Checkpoint:
    """The mapping over all tensors of these files, each made of its entry and its file's name."""
    entries = ((entry, name) for name, header in headers.items() for entry in header.entries.values())
    return Checkpoint(each_once((tensor(entry, name) for entry, name in entries), label), label)


def unkept(files: Files, chosen: WeightFiles, headers: Mapping[str, Header], where: str) -> list[str]:
    """A warning where an index promises tensors that no shard holds: transformers draws such weights at random."""
    if not chosen.index:
        return []
    promised = files.json(chosen.index)["weight_map"]
    absent = set(promised).difference(*(header.entries for header in headers.values()))
    if not absent:
        return []
    return [f"{where}/{chosen.index}: {len(absent)} tensors are in none of its shards ({min(absent)}, ...)"]
