"""Tensors kept together in one file and apart in another (the experts of a mixture): the one form read as the other.

    whole [experts, rows, columns]   part of expert e: rows [a, b) of whole[e], which lie side by side

Only ranges are looked up: nothing is copied, and nothing is read before it is asked for.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Collection, MutableMapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from chorus.architectures.inventory import Group, Inventory
from chorus.checkpoints.lazy_tensor import LazyTensor
from chorus.errors import CheckpointError
from chorus.lazy import lazy

if TYPE_CHECKING:
    import torch
    from torch import Tensor
else:
    torch = lazy("torch")


class PartOfTensor:
    """The values of a tensor from `first` on, as a tensor of its own."""

    def __init__(self, name: str, base: LazyTensor, first: int, shape: tuple[int, ...]) -> None:
        self.name, self.base, self.first, self.shape = name, base, first, shape
        self.dtype, self.stored_dtype = base.dtype, base.stored_dtype

    def flat(self, start: int, stop: int) -> Tensor:
        return self.base.flat(self.first + start, self.first + stop)

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


class JoinedTensor:
    """Tensors one behind the other as one."""

    def __init__(self, name: str, parts: Sequence[LazyTensor], shape: tuple[int, ...]) -> None:
        self.name, self.parts, self.shape = name, list(parts), shape
        self.dtype, self.stored_dtype = parts[0].dtype, parts[0].stored_dtype
        self._ends = list(accumulate(math.prod(part.shape) for part in parts))

    def flat(self, start: int, stop: int) -> Tensor:
        found, index = [], bisect_right(self._ends, start)
        while start < stop:
            first = self._ends[index - 1] if index else 0
            last = min(stop, self._ends[index])
            found.append(self.parts[index].flat(start - first, last - first))
            start, index = last, index + 1
        return torch.cat(found) if len(found) != 1 else found[0]

    def read(self) -> Tensor:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def regroup(
    group: Group,
    names: MutableMapping[str, str],
    tensors: MutableMapping[str, LazyTensor],
    wanted: Collection[str],
    inventory: Inventory,
) -> None:
    """Turn a group of a model into the form that is wanted, in place: own names to names, and names to tensors.

    `CheckpointError` where the two forms differ by more than where one ends and the next begins.
    """
    for here, there in ((group.wholes, group.parts), (group.parts, group.wholes)):
        if not (names.keys() >= set(here) and set(there) <= set(wanted)) or set(here) <= set(wanted):
            continue
        if not group.in_order:
            raise CheckpointError(
                f"{here[0]} and {there[0]}: the same weights in two forms, which are not read as one another",
                "load one of the models with transformers and save it again: both are then of one form",
            )
        old = [tensors.pop(names.pop(own)) for own in here]
        shapes = [inventory.others.get(own, inventory.shapes.get(own, ())) for own in there]
        if here is group.wholes:
            firsts = [0, *accumulate(math.prod(shape) for shape in shapes)]
            found: list[LazyTensor] = [
                PartOfTensor(own, old[0], first, shape)
                for own, first, shape in zip(there, firsts, shapes, strict=False)
            ]
        else:
            found = [JoinedTensor(there[0], old, shapes[0])]
        for own, tensor in zip(there, found, strict=True):
            names[own] = own
            tensors[own] = tensor
