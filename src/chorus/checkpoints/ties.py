"""Tied tensors of models as they are: files that store a copy, and models whose copies become tensors of their own.

A copy (`lm_head.weight`) is tied to its source (`model.embed_tokens.weight`) where the config says so, and a file then
stores the source alone. Where the two differ, in one model of several or under an adapter, the copy is a tensor like
any other, and the config says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from chorus.architectures.layouts import inventory_of
from chorus.architectures.ties import untied_config
from chorus.checkpoints.adapted import AdaptedTensor, same_tensor
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, HeaderTensor, LazyTensor, MemoryTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.spelling import spelled
from chorus.lazy import lazy
from chorus.plain import JsonObject

if TYPE_CHECKING:
    import numpy as np
    import torch
else:
    np, torch = lazy("numpy"), lazy("torch")

PIECE = 1 << 22  # values compared at a time: an embedding under both its names need not be in memory twice


class _Tie(NamedTuple):
    """A copy and its source, by the file's names and by their own (see chorus.architectures.inventory)."""

    name: str
    source: str
    own: str
    own_source: str


def _declared(model: Model, config: JsonObject, like: Model | None = None) -> list[_Tie]:
    """What a config ties, whatever the file stores, as the model (or another, of the same spelling) spells it."""
    spelling = (like or model).spelling
    try:
        tied = inventory_of(config, model.checkpoint).tied
    except ValueError:  # nobody knows the architecture, which is told where its layout is asked for
        return []
    return [_Tie(spelled(copy, spelling), spelled(source, spelling), copy, source) for copy, source in tied.items()]


def declared(model: Model) -> dict[str, str]:
    """What a model's config ties, whether its file stores the copies or not: copy -> source."""
    return {tie.name: tie.source for tie in _declared(model, model.config)}


def tied_in(model: Model, like: Model | None = None) -> dict[str, str]:
    """The copies that a model has by their sources alone: copy -> source, under its file's names (or another's)."""
    known = model.checkpoint
    ties = _declared(model, model.config, like)
    return {tie.name: tie.source for tie in ties if tie.name not in known and tie.source in known}


def settled(model: Model) -> Model:
    """The model with a checkpoint and a config that agree on what is tied.

    A stored copy that equals its source is left out; one that differs unties the model, as transformers reads such a
    file; a copy that is stored alone stands under its source's name.
    """
    tensors, spelling, differ = dict(model.checkpoint.items()), dict(model.spelling), []
    for tie in _declared(model, model.config):
        if tie.name not in tensors:
            continue
        if tie.source in tensors and not equal_values(tensors[tie.name], tensors[tie.source]):
            differ.append(tie.own)
            continue
        copy = tensors.pop(tie.name)
        tensors.setdefault(tie.source, copy)
        if spelling:
            del spelling[tie.own]
            spelling[tie.own_source] = tie.source
    if list(tensors) != list(model.checkpoint):
        model = replace(model, checkpoint=Checkpoint(tensors, model.label), spelling=spelling)
    return _under(model, untied_config(model.config, list(tensors), differ)) if differ else model


def with_own(model: Model, copies: Collection[str]) -> Model:
    """A model in which these tied copies are tensors of their own, with the values that they have: their sources'.

    With them goes all that the same setting of the config unties.
    """
    ties = [tie for tie in _declared(model, model.config) if tie.name in copies]
    config = untied_config(model.config, list(model.checkpoint), [tie.own for tie in ties])
    return _storing(_under(model, config), ties)


def _under(model: Model, config: JsonObject) -> Model:
    """A model under another config, with what that does not tie any more."""
    left = {tie.own for tie in _declared(model, config)} if config is not model.config else set()
    loose = [t for t in _declared(model, model.config) if t.own not in left] if config is not model.config else []
    return replace(_storing(model, loose), config=config)


def _storing(model: Model, ties: Iterable[_Tie]) -> Model:
    """The model with these copies in its checkpoint."""
    tensors, spelling = dict(model.checkpoint.items()), dict(model.spelling)
    for tie in ties:
        if tie.name not in tensors and tie.source in tensors:
            tensors[tie.name] = tensors[tie.source]
            if spelling:
                spelling[tie.own] = tie.name
    return replace(model, checkpoint=Checkpoint(tensors, model.label), spelling=spelling)


def untied_alike(models: Sequence[Model], donor: int) -> list[Model]:
    """Models of one architecture, each with all the copies that are tensors of their own in one of them.

    The donor's config says so too; the others keep theirs.
    """
    ties = [tied_in(model, models[donor]) for model in models]
    pairs = {name for tied in ties for name in tied}
    own = {name for name in pairs if any(name not in tied for tied in ties)}
    found = list(models)
    if own & set(ties[donor]):
        found[donor] = with_own(models[donor], own)
    own = pairs - set(tied_in(found[donor]))  # with what the donor's setting unties besides
    for i, model in enumerate(found):
        if i != donor and own & set(ties[i]):
            stored = _declared(model, model.config, models[donor])
            found[i] = _storing(model, [tie for tie in stored if tie.name in own])
    return found


def untied_for(model: Model, touches: Callable[[str], bool]) -> tuple[Model, dict[str, str]]:
    """A model whose copies that something is to change, or whose sources it is to change, stand by themselves.

    Returns it settled, and those copies with their sources. PEFT wraps a module, and what was tied to it keeps the old
    values.
    """
    before = settled(model)
    tied = tied_in(before)
    copies = [name for name, source in tied.items() if touches(name) or touches(source)]
    if not copies:
        return before, {}
    untied = with_own(before, copies)
    return untied, {name: source for name, source in tied.items() if name in untied.checkpoint}


def tied_again(model: Model, base: Model, copies: Mapping[str, str]) -> Model:
    """A model on a base that is tied as the base is, where all copies have come to equal their sources."""
    known = model.checkpoint
    if not copies or not all(equal_values(known[name], known[source]) for name, source in copies.items()):
        return model
    tensors = {name: tensor for name, tensor in known.items() if name not in copies}
    spelling = {own: name for own, name in model.spelling.items() if name not in copies}
    return replace(model, checkpoint=Checkpoint(tensors, model.label), config=base.config, spelling=spelling)


def equal_values(one: LazyTensor, other: LazyTensor) -> bool:
    """Whether two tensors hold the same values; of headers alone it is taken for granted."""
    if one is other or one.shape != other.shape:
        return one is other
    if isinstance(one, HeaderTensor) and isinstance(other, HeaderTensor):
        return True
    if isinstance(one, AdaptedTensor) and isinstance(other, AdaptedTensor):
        return equal_values(one.base, other.base) and _equal_factors(one, other)
    stored = (FileTensor, MemoryTensor)  # looking at others would compute them
    if not isinstance(one, stored) or not isinstance(other, stored):
        return same_tensor(one, other)
    numel = math.prod(one.shape)
    return all(_equal(one, other, start, min(start + PIECE, numel)) for start in range(0, numel, PIECE))


def _equal(one: LazyTensor, other: LazyTensor, start: int, stop: int) -> bool:
    if isinstance(one, FileTensor) and isinstance(other, FileTensor) and one.dtype == other.dtype:
        # the bytes, without torch: a plan that compares them needs neither
        return bool(np.array_equal(one.bytes(start, stop), other.bytes(start, stop)))
    return bool(torch.equal(one.flat(start, stop).float(), other.flat(start, stop).float()))


def _equal_factors(one: AdaptedTensor, other: AdaptedTensor) -> bool:
    """Whether two adapters' factors add the same to one tensor, as they do where PEFT ties them."""
    if one.factors.scale != other.factors.scale:
        return False
    pairs = list(zip(one.factors_as_stored(), other.factors_as_stored(), strict=True))
    one.release()
    other.release()
    return all(a is b if a is None or b is None else a.shape == b.shape and bool(torch.equal(a, b)) for a, b in pairs)
