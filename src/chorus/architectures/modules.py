"""The modules that an adapter names: as the model's class calls them, and which of them PEFT can put factors on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chorus.architectures.family_inventories import family_inventory
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from torch import nn

# to them PEFT gives no factors here: the kernels take the weights past the module (peft.tuners.tuners_utils)
MAMBA = ("mamba", "mamba2", "falcon_mamba", "falcon_h1", "nemotron_h")
PAST_MODULE = ("out_proj", "conv1d")


@dataclass(frozen=True)
class Modules:
    """`names` are the class's of the modules that a file calls otherwise, `every` all that an ending could mean, and
    `unfit` those of a file that PEFT leaves alone: routers, experts in one tensor, convolutions in groups.
    """

    every: tuple[str, ...]
    names: Mapping[str, str] = field(default_factory=dict)
    unfit: frozenset[str] = frozenset()


def modules_of(config: JsonMap, shapes: Mapping[str, tuple[int, ...]]) -> Modules:
    """The modules of a model by its file's tensors. Of a class that nobody knows they are called as in the file."""
    matrices = [n.removesuffix(".weight") for n, shape in shapes.items() if n.endswith(".weight") and len(shape) > 1]
    try:
        inventory = family_inventory(config)
        if inventory is None:
            return _by_tree(config, list(shapes))
    except ValueError:
        return Modules(tuple(matrices))
    names = {n: inventory.place(n) or n for n in shapes}
    return Modules(tuple(matrices), _renamed(names))


def _by_tree(config: JsonMap, names: list[str]) -> Modules:
    from chorus.architectures.conversion import Names
    from chorus.architectures.on_meta import build_on_meta

    model = build_on_meta(config, names)
    tree, modules = Names(model), dict(model.named_modules())
    found = {name: tree.key(name) for name in names}
    own = {name: key[1] for name, key in found.items() if key}
    past = PAST_MODULE if config.get("model_type") in MAMBA else ()
    unfit = {
        _module(name)
        for name, target in own.items()
        if not target.endswith((".weight", ".bias"))
        or not _fit(modules.get(_module(target)))
        or target.split(".")[-2] in past
    }
    # with the layers themselves: an ending that is a number would name them too
    return Modules(tuple(name for name in modules if name), _renamed(own), frozenset(unfit))


def _renamed(names: Mapping[str, str]) -> dict[str, str]:
    return {_module(name): _module(own) for name, own in names.items() if _module(name) != _module(own)}


def _module(name: str) -> str:
    return name.rpartition(".")[0] if name.endswith((".weight", ".bias")) else name


def _fit(module: nn.Module | None) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return module.groups == 1
    return isinstance(module, (torch.nn.Linear, torch.nn.Embedding, Conv1D))
