"""Models without values: a class of transformers built from a config on the meta device, shapes only."""

from __future__ import annotations

import functools
import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from chorus.architectures.classes import (
    UnknownClassError,
    check_counts,
    classes_of,
    named_class,
    read_config,
    structure,
    unknown,
)
from chorus.plain import JsonMap

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


def build_on_meta(config: JsonMap, names: Collection[str] = ()) -> PreTrainedModel:
    """The class that a config means, on the meta device; among several the one that `names` fit best.

    `ValueError` where transformers has none, or refuses the config. Do not change what is returned: it is kept.
    """
    check_counts(config)
    # names decide only where the config does not: asking for the class imports transformers
    decides = named_class(config) is None
    return _built(
        json.dumps(structure(config), sort_keys=True, default=str), frozenset(names) if decides else frozenset()
    )


@functools.lru_cache(maxsize=8)
def _built(plain: str, names: frozenset[str]) -> PreTrainedModel:
    config = json.loads(plain)
    cls = named_class(config)
    try:
        settings = read_config(config)
    except Exception as error:  # a config that its class refuses can raise anything
        if cls is None:
            raise UnknownClassError(unknown(config)) from error
        raise ValueError(f"transformers cannot build {cls.__name__} from its config ({error})") from error
    if cls is not None:
        return _build(cls, settings)
    return _best(settings, names, config)


def _build(cls: type[PreTrainedModel], settings: PretrainedConfig) -> PreTrainedModel:
    import torch

    try:
        with torch.device("meta"):  # neither memory nor initialisation, whatever its size
            return cls(settings)
    except Exception as error:  # as above: its code divides, indexes and asserts on whatever numbers stand there
        raise ValueError(f"transformers cannot build {cls.__name__} from its config ({error})") from error


def class_with(config: JsonMap, names: Collection[str]) -> str | None:
    """The first class for a config that has all these tensors; None where there is none."""
    from chorus.architectures.conversion import inventory_on_meta

    try:
        settings = read_config(config)
    except Exception:  # whatever a config raises: no class knows these names
        return None
    for cls in classes_of(settings):
        try:
            inventory = inventory_on_meta(_build(cls, settings))
        except ValueError:
            continue
        if all(inventory.place(name) is not None for name in names):
            return cls.__name__
    return None


def _best(settings: PretrainedConfig, names: frozenset[str], config: JsonMap) -> PreTrainedModel:
    """Of all classes for a config the one whose tensors are the file's, as nearly as can be."""
    from chorus.architectures.conversion import inventory_on_meta

    best: tuple[int, PreTrainedModel] | None = None
    for cls in classes_of(settings):
        try:
            model = _build(cls, settings)
        except ValueError:  # some heads want settings that the config lacks
            continue
        inventory = inventory_on_meta(model)
        if not inventory.shapes:  # the class that all heads are made from
            continue
        placed = {inventory.place(name) for name in names}
        faults = sum(inventory.place(n) is None for n in names)
        faults += sum(n not in placed and not inventory.may_lack(n) for n in inventory.shapes)
        if best is None or faults < best[0]:
            best = (faults, model)
        if not faults:
            break
    if best is None:
        raise UnknownClassError(unknown(config))
    return best[1]
