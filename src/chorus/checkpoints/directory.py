"""A Hugging Face model directory: its config and its weights, in one file or in shards with an index."""

from __future__ import annotations

from pathlib import Path

from chorus.checkpoints.kinds import refuse_other_kinds, refuse_quantised
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.model import Model
from chorus.checkpoints.safetensors_header import Header, read_header
from chorus.checkpoints.weights import OnDisk, WeightFiles, weight_files
from chorus.checkpoints.whereabouts import remedy_in
from chorus.errors import CheckpointError
from chorus.files import MAX_INDEX, present, read_json


def open_directory(directory: Path, label: str, *, allow_pickle: bool = False) -> Model:
    """Open a model directory without reading a weight."""
    config_path = directory / "config.json"
    if not present(config_path):
        remedy = remedy_in(directory) or "name a Hugging Face model directory"
        raise CheckpointError(f"{directory}: not a model (no config.json)", remedy)
    config = read_json(config_path)
    refuse_quantised(config, label)
    chosen = weight_files(OnDisk(directory), config, str(directory))
    if chosen.pickled:
        from chorus.checkpoints.pickled import open_pickles  # torch is imported only for these

        return open_pickles(directory, chosen, config, label, allow_pickle)
    headers = {name: read_header(directory / name) for name in chosen.names}
    return Model(
        label,
        checkpoint_of(directory, headers, label),
        config,
        directory,
        files=headers,
        paths={name: directory / name for name in chosen.names},
        warnings=[*chosen.warnings, *_unkept(directory, chosen, headers)],
    )


def checkpoint_of(directory: Path, headers: dict[str, Header], label: str) -> Checkpoint:
    """The mapping over all tensors of these files; a name in two files is an error."""
    tensors: dict[str, LazyTensor] = {}
    for name, header in headers.items():
        file = MappedFile(directory / name)
        for entry in header.entries.values():
            if entry.name in tensors:
                raise CheckpointError(f"{directory}: tensor {entry.name} stands in two files", "save the model again")
            # before the tensor is taken: an int8 matrix without its scales would be merged as if it were weights
            refuse_other_kinds(entry.name, entry.dtype, entry.shape, label)
            tensors[entry.name] = FileTensor(entry, file)
    return Checkpoint(tensors, label)


def _unkept(directory: Path, chosen: WeightFiles, headers: dict[str, Header]) -> list[str]:
    """A warning where an index promises tensors that no shard holds: transformers draws such weights at random."""
    if not chosen.index:
        return []
    promised = read_json(directory / chosen.index, limit=MAX_INDEX)["weight_map"]
    absent = set(promised).difference(*(header.entries for header in headers.values()))
    if not absent:
        return []
    return [f"{directory / chosen.index}: {len(absent)} tensors are in none of its shards ({min(absent)}, ...)"]
