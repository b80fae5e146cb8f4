"""A model in the spelling of another: one name is one tensor in both, also where the one keeps together what the other
keeps apart, or lacks what a file may lack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import Model
from chorus.checkpoints.names import some
from chorus.checkpoints.regrouped import regroup

NUMBER = re.compile(r"\.(\d+)(?=\.)")


def respelled(model: Model, like: Model) -> Model:
    """The model with its tensors under the names that another's file has for them."""
    if not model.spelling or not like.spelling:  # of an architecture that nobody knows
        return model
    tensors = dict(model.checkpoint.items())
    names = dict(model.spelling)
    other_form = {own for own in names if own not in like.spelling}
    if other_form:
        inventory = inventory_of(model.config, model.checkpoint)
        for group in inventory.groups:
            regroup(group, names, tensors, set(like.spelling), inventory)
    spelling = {own: spelled(own, like.spelling) for own in names}
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
    if not model.spelling or not like.spelling or set(model.checkpoint) == set(like.checkpoint):
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
    if own in spelling:
        return spelling[own]
    pattern = _numberless(own)
    for known, name in spelling.items():
        if _numberless(known) == pattern:
            numbers = NUMBER.findall(own)
            if len(NUMBER.findall(name)) == len(numbers):
                left = iter(numbers)
                return NUMBER.sub(lambda _: f".{next(left)}", name)
    return own


def _numberless(name: str) -> str:
    return NUMBER.sub(".#", name)
