"""What a model is to everything above: weights, config, files; and the small readers that all forms share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from chorus.architectures.classes import architecture
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MemoryTensor
from chorus.checkpoints.safetensors_header import Header
from chorus.errors import CheckpointError
from chorus.identity import file_hash, fingerprint
from chorus.plain import JsonObject

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "normalizer.json",
    "chat_template.jinja",
    "chat_template.json",
    "sentencepiece.bpe.model",
    "spiece.model",
    "source.spm",
    "target.spm",
    "target_vocab.json",
    "tekken.json",
)
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
SIDE_FILES = ("config.json", "generation_config.json", *TOKENIZER_FILES, *PROCESSOR_FILES)


@dataclass(frozen=True)
class OpenOptions:
    """What may be done to get at a model."""

    allow_pickle: bool = False
    offline: bool = False
    cache_dir: str | None = None
    weights: bool = True  # False: the headers are enough, nothing large is downloaded
    within: tuple[Path, ...] = ()  # the recipes that name what is opened
    known: dict[object, Model] = field(default_factory=dict, compare=False, repr=False)  # opened under these options


@dataclass
class Model:
    """A model as the planner sees it: weights, config, the directory of its other files, its identity.

    `directory` is None where there are no side files (openai-whisper's `.pt`); `tokenizer_directory` is where the
    tokenizer is if that is elsewhere, `generation` holds generation settings in the place of the directory's.
    `revision` is the hub's commit. `files` maps each weight file's name to its header, for the identity of the inputs.
    `identify` says by content what the weights are, where that is not told by `paths` and `adapter_paths`. `beside`
    holds the files that go with the model by name, where they are not simply those of `directory`.
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
    beside: dict[str, Path] | None = None
    generation: JsonObject | None = None
    method: str = ""  # of a planned merge: by which it is merged
    recipe: JsonObject = field(default_factory=dict)  # of a merge, or a part that is one: without paths
    known_as: str = ""  # the class that its tensors were found to be of; empty where nobody knows it
    spelling: dict[str, str] = field(default_factory=dict, repr=False)  # the architecture's name -> the name here
    made_of: dict[str, str | None] = field(default_factory=dict)  # of a planned merge: the models' licences by name
    hub_ids: tuple[str, ...] = ()  # the hub's models that go into it, as far as they are told
    reads: tuple[Path, ...] = ()  # of a planned merge: the files and directories of what goes into it
    warnings: list[str] = field(default_factory=list)  # what its files give to think about
    trained_on: dict[str, list[str]] = field(default_factory=dict)  # of what is made of several: see lineage.py
    identify: Callable[[], str] | None = field(default=None, compare=False, repr=False)

    @property
    def as_stored(self) -> bool:
        """Whether every tensor is what its own files hold: no adapter, no merge, none changed, none renamed."""
        own = set(self.paths.values())
        return all(
            isinstance(t, FileTensor) and t.file.path in own and t.name == name for name, t in self.checkpoint.items()
        )

    @property
    def architecture(self) -> str:
        """The class that it is of, whatever its config calls it."""
        return self.known_as or architecture(self.config)

    @property
    def places(self) -> list[Path]:
        """Every file and directory that it is read from."""
        directories = [d for d in (self.directory, self.tokenizer_directory) if d is not None]
        return [*directories, *self.paths.values(), *self.adapter_paths.values(), *self.reads]

    def is_of_adapter(self, tensor: LazyTensor) -> bool:
        """Whether a tensor is one that an adapter's file holds whole."""
        file = tensor.file.path if isinstance(tensor, FileTensor) else getattr(tensor, "path", None)
        return file in self.adapter_paths.values()

    def fingerprint(self) -> str:
        """What the model is, by the content of its weights, adapters, config and side files."""
        places = {*self.paths.values(), *self.adapter_paths.values()}
        own: dict[str, str] = {}
        for name, tensor in self.checkpoint.items():  # somebody may have put in another file's, or one of their own
            while hasattr(tensor, "base"):  # below what an adapter adds
                tensor = tensor.base
            if isinstance(tensor, FileTensor):
                places.add(tensor.file.path)
            elif isinstance(tensor, MemoryTensor):
                own[name] = tensor.value_hash()
        side = {d / name for d in (self.directory, self.tokenizer_directory) if d is not None for name in SIDE_FILES}
        hashes = sorted(f"{path.name} {file_hash(path)}" for path in places | side if path.exists())
        order = [str(path.name) + file_hash(path) for path in self.adapter_paths.values()]
        return fingerprint(
            weights=self.identify() if self.identify else "", files=hashes, adapters=order, own=own,
            config=self.config, generation=self.generation,
        )  # fmt: skip


def relabelled(model: Model, label: str) -> Model:
    """The same model under another name."""
    return replace(model, label=label, checkpoint=Checkpoint(model.checkpoint, label))


def stacked_paths(base: Model, directory: Path, names: Sequence[str]) -> dict[str, Path]:
    """The files of an adapter in `directory` after those of the adapters that are on the base already."""
    found = dict(base.adapter_paths)
    for name in names:
        place = directory / name
        known, count = name, 1
        while known in found:
            count += 1
            known = f"{name} ({count})"
        found[known] = place
    return found


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
