"""A task vector on disk: a fine-tune's differences to its base, and a model with them added.

DIR/task_vector.safetensors   one float tensor a parameter, theta - theta_0; of products of LoRA's two, left and right
DIR/chorus.json               what it was taken from; `tied`: the copies that have another tensor's difference
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.adapter_names import canonical
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.model import Model, stacked_paths
from chorus.checkpoints.safetensors_header import read_header
from chorus.checkpoints.salmonn import ShiftedProduct, low_rank_of
from chorus.checkpoints.ties import untied_for
from chorus.errors import CheckpointError
from chorus.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

TASK_VECTOR = "task_vector.safetensors"
LEFT, RIGHT = ".left", ".right"  # behind the name of a difference that is their product


def open_task_vector(directory: Path) -> dict[str, LazyTensor]:
    """The differences by tensor name, unread."""
    header = read_header(directory / TASK_VECTOR)
    file = MappedFile(directory / TASK_VECTOR)
    return {entry.name: FileTensor(entry, file) for entry in header.entries.values()}


def apply_task_vector(base: Model, directory: Path, label: str) -> Model:
    """The base with a task vector added. Every difference must find its tensor, of the same shape."""
    differences = open_task_vector(directory)
    # before ties are looked at, which know no such names
    thin = {name: _thin(base, name, differences, label) for name in _products(base, differences)}
    base = _tied_as(base, directory, differences)
    places = {canonical(name): name for name in base.checkpoint}  # another version of transformers may have named them
    tensors: dict[str, LazyTensor] = {**base.checkpoint, **thin}
    for name, difference in differences.items():
        target = name if name in base.checkpoint else places.get(canonical(name))
        if target is None:
            raise CheckpointError(f"{label}: {base.label} has no tensor {name}", "apply it to a model like its base")
        if base.checkpoint[target].shape != difference.shape:
            raise CheckpointError(
                f"{label}: {name} is of shape {list(difference.shape)}, {base.label} has "
                f"{list(base.checkpoint[target].shape)}",
                "apply it to a model like its base",
            )
        tensors[target] = ShiftedByFile(tensors[target], difference)
    model = replace(base, label=label, checkpoint=Checkpoint(tensors, label))
    model.adapter_paths = stacked_paths(base, directory, (TASK_VECTOR,))
    return model


def _products(base: Model, differences: dict[str, LazyTensor]) -> list[str]:
    """The base's products of LoRA's to which the differences hold factors."""
    found = (name.removesuffix(LEFT) for name in differences if name.endswith(LEFT))
    return [name for name in found if name in base.checkpoint and low_rank_of(base.checkpoint[name]) is not None]


def _thin(base: Model, name: str, differences: dict[str, LazyTensor], label: str) -> ShiftedProduct:
    tensor, left, right = (
        base.checkpoint[name],
        differences.pop(f"{name}{LEFT}"),
        differences.pop(f"{name}{RIGHT}", None),
    )
    if right is None or (left.shape[:1], right.shape[1:]) != (tensor.shape[:1], tensor.shape[1:]):
        told = "no second factor" if right is None else f"factors of {list(left.shape)} and {list(right.shape)}"
        raise CheckpointError(f"{label}: {name}: {told}, {base.label} has {list(tensor.shape)}", "extract it again")
    return ShiftedProduct(tensor, left, right)


def _tied_as(base: Model, directory: Path, differences: dict[str, LazyTensor]) -> Model:
    """The base with tied copies of its own where the differences are; copies that it has get their sources' ones."""
    facts = directory / "chorus.json"
    tied = read_json(facts).get("tied") if facts.exists() else None
    for name, source in tied.items() if isinstance(tied, dict) else ():
        if name in base.checkpoint and source in differences:
            differences.setdefault(name, differences[source])
    # a source unties its copies as well, unless the vector says that they go with it, or says nothing
    alone = {name for name in differences if isinstance(tied, dict) and name not in tied.values()}
    changed = {canonical(name) for name in {*alone, *(set(differences) - set(base.checkpoint))}}
    return untied_for(base, lambda name: canonical(name) in changed)[0] if changed else base


class ShiftedByFile:
    """A tensor plus a difference from a file, in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, shift: LazyTensor) -> None:
        self.name, self.shape, self.base, self.shift = base.name, base.shape, base, shift
        self.stored_dtype = base.dtype

    def difference(self, start: int, stop: int) -> Tensor:
        """The difference itself, values `start` to `stop`, in float32."""
        return self.shift.flat(start, stop).float()

    def flat(self, start: int, stop: int) -> Tensor:
        return self.base.flat(start, stop).float() + self.difference(start, stop)

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)
