"""What a model is to everything above: weights, config, files; and the small readers that all forms share."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.safetensors_header import Header
from chorus.errors import CheckpointError
from chorus.identity import file_hash, fingerprint
from chorus.plain import JsonObject

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
SIDE_FILES = ("config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json")


@dataclass(frozen=True)
class OpenOptions:
    """What may be done to get at a model."""

    allow_pickle: bool = False
    offline: bool = False
    cache_dir: str | None = None
    weights: bool = True  # False: the headers are enough, nothing large is downloaded
    depth: int = 0  # of recipes within recipes


@dataclass
class Model:
    """A model as the planner sees it: weights, config, the directory of its other files, its identity.

    `directory` is None where there are no side files (openai-whisper's `.pt`); `tokenizer_directory` is where the
    tokenizer is if that is elsewhere, `generation` holds generation settings in the place of the directory's.
    `revision` is the hub's commit. `files` maps each weight file's name to its header, for the identity of the inputs.
    `identify` says by content what the weights are, where that is not told by `paths` and `adapter_paths`.
    """

    label: str
    checkpoint: Checkpoint
    config: JsonObject
    directory: Path | None
    revision: str | None = None
    files: dict[str, Header] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    hub_hashes: dict[str, str] = field(default_factory=dict)
    adapter_paths: dict[str, Path] = field(default_factory=dict)
    adapter_config: JsonObject = field(default_factory=dict)
    tokenizer_directory: Path | None = None
    generation: JsonObject | None = None
    method: str = ""  # of a planned merge: by which it is merged
    identify: Callable[[], str] | None = field(default=None, compare=False, repr=False)

    def fingerprint(self) -> str:
        """What the model is, by the content of its weights, adapter, config and side files."""
        side = [self.directory / name for name in SIDE_FILES] if self.directory else []
        files = [*sorted(self.paths.items()), *sorted(self.adapter_paths.items()), *((p.name, p) for p in side)]
        hashes = [f"{name} {file_hash(path)}" for name, path in files if path.exists()]
        return fingerprint(weights=self.identify() if self.identify else "", files=hashes)


def read_json(path: Path) -> JsonObject:
    """A JSON object from disk; `CheckpointError` where it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})", "save or download the model again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path}: not a JSON object", "save or download the model again")
    return value


def shard_names(index: JsonObject, where: Path | str, exists: Callable[[str], bool]) -> list[str]:
    """The files that an index names, each inside the index's own directory and there."""
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{where}: no weight_map", "save or download the model again")
    names = sorted(set(map(str, weight_map.values())))
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name:  # an index is somebody else's text
            raise CheckpointError(
                f"{where}: the shard {name} lies outside the model's directory", "do not use this model"
            )
        if not exists(name):
            raise CheckpointError(f"{where}: the shard {name} is missing", "download the model again")
    return names
