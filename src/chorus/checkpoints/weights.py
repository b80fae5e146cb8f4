"""Which files hold a model's weights: transformers' own order, on disk and on the hub.

transformers looks for `model.safetensors`, then for its index, then for `pytorch_model.bin` and the index of that; what
the config calls `transformers_weights` goes before all. Where two of them lie side by side it reads the first and says
nothing, so that one which was left behind is noticed by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from chorus.checkpoints.model import INDEX, SINGLE, shard_names
from chorus.checkpoints.whereabouts import remedy_in
from chorus.errors import CheckpointError
from chorus.files import MAX_INDEX, present, read_json, regular
from chorus.plain import JsonMap, JsonObject

PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SHARD = re.compile(r".*-\d{5}-of-\d{5}\.safetensors")
MISTRAL = "consolidated"  # Mistral's own files: other names for the tensors, another config beside them
CONVERTED = "model.bin"  # what CTranslate2's converters write, beside a config.json of their own


class Files(Protocol):
    """The files of a model, wherever they lie."""

    def names(self) -> Collection[str]:
        """Of the top level."""

    def has(self, name: str) -> bool:
        """Whether something of that name is there, perhaps in a folder: what is no file is told when it is opened."""

    def json(self, name: str) -> JsonObject:
        """The content of one of them; `CheckpointError` where it is no JSON object."""

    def odd(self, name: str) -> str:
        """Why one of them is not to be passed on, whatever it is called; empty where it is."""

    def size(self, name: str) -> int:
        """Its bytes."""

    def remedy(self) -> str:
        """Where the weights are that are not among them; empty where that is not known."""


@dataclass(frozen=True)
class OnDisk:
    """A directory. The hub's cache holds links to files, which count as what they lead to."""

    directory: Path

    def names(self) -> Collection[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def has(self, name: str) -> bool:
        return present(self.directory / name)

    def json(self, name: str) -> JsonObject:
        return read_json(self.directory / name, limit=MAX_INDEX)

    def odd(self, name: str) -> str:
        path, home = self.directory / name, self.directory.resolve()
        try:
            regular(path)
        except CheckpointError:
            return "no files"
        target = path.resolve()
        # the hub's cache keeps a snapshot's files as links to blobs beside it
        inside = target.is_relative_to(home) or target.parent == home.parent.parent / "blobs"
        return "" if inside else "links that lead out of the directory"

    def size(self, name: str) -> int:
        return (self.directory / name).stat().st_size

    def remedy(self) -> str:
        return remedy_in(self.directory)


def is_converted(directory: Path) -> bool:
    """Whether a directory holds CTranslate2's weights and none of transformers'."""
    names = (SINGLE, INDEX, PICKLE, PICKLE_INDEX)
    return present(directory / CONVERTED) and not any(present(directory / name) for name in names)


@dataclass(frozen=True)
class WeightFiles:
    """The files that are read, in order, the index that names them, and what a user should know of the choice."""

    names: tuple[str, ...]
    index: str = ""
    pickled: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def all_names(self) -> list[str]:
        return [*self.names, *([self.index] if self.index else [])]


def weight_files(files: Files, config: JsonMap, where: str) -> WeightFiles:
    """The files that transformers would read; `CheckpointError` where there are none, or an index names others.

    `where` is what messages call the model.
    """
    stated = config.get("transformers_weights")
    if isinstance(stated, str) and stated:
        return _stated(files, stated, where)
    for single, index, pickled in ((SINGLE, INDEX, False), (PICKLE, PICKLE_INDEX, True)):
        if files.has(single):
            return WeightFiles((single,), "", pickled, _left_behind(files, single, index, where))
        if files.has(index):
            return WeightFiles(_shards(files, index, where), index, pickled)
        if not pickled and (lone := _lone(files)):
            return WeightFiles((lone,))
    if files.has("model.pt"):
        return WeightFiles(("model.pt",), pickled=True)
    raise _none(files, where)


def refuse_pickle(where: Path | str, allowed: bool) -> None:
    """Pickles are opened, and downloaded, on request alone."""
    if not allowed:
        raise CheckpointError(
            f"{where}: a pickled checkpoint, which is not opened by default",
            "convert it to safetensors, or pass --allow-pickle (it is then loaded with weights_only=True)",
        )


def _stated(files: Files, name: str, where: str) -> WeightFiles:
    """What the config itself names: a file, or an index."""
    key = f"{where}/config.json: transformers_weights"
    if not name.endswith((".safetensors", ".safetensors.index.json")):
        raise CheckpointError(f"{key} is {name}: neither a safetensors file nor an index", "name a safetensors file")
    # the rules for an index's names are these too: inside the directory, and there
    (found,) = shard_names({"weight_map": {"": name}}, key, files.has)
    if name.endswith(".json"):
        return WeightFiles(_shards(files, found, where), found)
    return WeightFiles((found,))


def _shards(files: Files, index: str, where: str) -> tuple[str, ...]:
    return tuple(shard_names(files.json(index), f"{where}/{index}", files.has))


def _left_behind(files: Files, single: str, index: str, where: str) -> tuple[str, ...]:
    """A warning where an index lies beside the whole file and means others."""
    if not files.has(index):
        return ()
    try:
        named = set(shard_names(files.json(index), index, lambda name: True))
    except CheckpointError:
        named = set()  # an index that nobody reads may be as broken as it likes
    if named == {single}:
        return ()
    return (f"{where}: {single} is read, as transformers does, and not the shards of the {index} beside it",)


def _lone(files: Files) -> str:
    """A model under a name of its own, where it is the only one and no pickle goes before it."""
    if files.has(PICKLE) or files.has(PICKLE_INDEX):  # transformers would read those
        return ""
    found = [name for name in files.names() if name.endswith(".safetensors") and not name.startswith("adapter")]
    return found[0] if len(found) == 1 and not (found[0].startswith(MISTRAL) or SHARD.fullmatch(found[0])) else ""


def _none(files: Files, where: str) -> CheckpointError:
    found = [name for name in files.names() if name.endswith(".safetensors")]
    if any(name.startswith(MISTRAL) for name in found):
        return CheckpointError(
            f"{where}: the weights are in Mistral's own format ({', '.join(found)})",
            "name the model in transformers' format (model.safetensors), or convert it",
        )
    remedy = files.remedy() if not found else ""
    besides = f"; there are {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}" if found else ""
    if any(SHARD.fullmatch(name) for name in found):
        remedy = f"of a model in shards {INDEX} is missing: get it from where they are from"
        return CheckpointError(f"{where}: not a model (no {SINGLE} and no {INDEX}{besides})", remedy)
    return CheckpointError(
        f"{where}: not a model (no {SINGLE} and no {INDEX}{besides})",
        f"rename the one that is meant to {SINGLE}" if found else remedy or "save the model with save_pretrained",
    )
