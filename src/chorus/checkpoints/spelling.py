"""A model in the spelling of another: one name is one tensor in both, also where the one keeps together what the other
keeps apart, or lacks what a file may lack.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import Model
from chorus.checkpoints.regrouped import regroup
from chorus.errors import some

NUMBER = re.compile(r"\.(\d+)(?=\.)")


def respelled(model: Model, like: Model) -> Model:
    """The model with its tensors under the names that another's file has for them."""
    # where one is empty its architecture is nobody's; alike is what nearly all are
    if not model.spelling or not like.spelling or model.spelling == like.spelling:
        return model
    tensors = dict(model.checkpoint.items())
    names = dict(model.spelling)
    other_form = {own for own in names if own not in like.spelling}
    if other_form:
        inventory = inventory_of(model.config, model.checkpoint)
        for group in inventory.groups:
            regroup(group, names, tensors, set(like.spelling), inventory)
    theirs = like.spelling if names.keys() <= like.spelling.keys() else like.spelling | _further(names, like.spelling)
    spelling = {own: theirs.get(own, own) for own in names}
    if spelling == model.spelling:
        return model
    renamed = {spelling[own]: tensors.pop(name) for own, name in names.items()}
    # what is left was put there by an adapter, under the name that it has in its base
    return replace(model, checkpoint=Checkpoint(renamed | tensors, model.label), spelling=spelling)


def completed(model: Model, like: Model) -> Model:
    """The model with the tensors of another, as far as a file may do without them and only one of the two has them.

    Such are the mask that only training uses, and positions that are computed: what one file has more is left out, what
    it lacks is the other's. `model` is spelled like the other.
    """
    if not model.spelling or not like.spelling or model.spelling == like.spelling:
        return model
    inventory = inventory_of(model.config, model.checkpoint)
    tied = {*inventory.tied, *inventory_of(like.config, like.checkpoint).tied}
    spare = {own for own in model.spelling.keys() ^ like.spelling.keys() if own not in tied and inventory.may_lack(own)}
    more, less = spare & model.spelling.keys(), spare & like.spelling.keys()
    if not spare:
        return model
    left_out = {model.spelling[own] for own in more}
    tensors = {name: tensor for name, tensor in model.checkpoint.items() if name not in left_out}
    tensors |= {like.spelling[own]: like.checkpoint[like.spelling[own]] for own in less}
    told = [f"{model.label}: {some(sorted(left_out))} left out, which {like.label} does without"] if more else []
    told += [f"{model.label}: {some(sorted(less))} taken from {like.label}, as the file lacks it"] if less else []
    spelling = {own: name for own, name in model.spelling.items() if own not in more}
    return replace(
        model,
        checkpoint=Checkpoint(tensors, model.label),
        spelling=spelling | {own: like.spelling[own] for own in less},
        warnings=[*model.warnings, *told],
    )


def spelled(own: str, spelling: Mapping[str, str]) -> str:
    """How a file spells a tensor, or would if it had it (a further layer, a head): as the nearest that it has."""
    if own in spelling or not NUMBER.search(own):
        return spelling.get(own, own)
    return _further([own], spelling)[own]


def _further(names: Iterable[str], spelling: Mapping[str, str]) -> dict[str, str]:
    """How a file would spell tensors of layers that it has not: as it spells those of another layer."""
    alike = {_numberless(known): name for known, name in spelling.items()}
    return {own: spelling.get(own) or _numbered(alike.get(_numberless(own), own), own) for own in names}


def _numbered(name: str, own: str) -> str:
    """A name with the layers' and experts' numbers of another; that other where they are not as many."""
    parts, numbers = NUMBER.split(name), NUMBER.findall(own)
    if len(parts) != 2 * len(numbers) + 1:
        return own
    for i, number in enumerate(numbers):
        parts[2 * i + 1] = f".{number}"
    return "".join(parts)


def _numberless(name: str) -> str:
    return NUMBER.sub(".#", name)
