"""From a config and tensor names to roles: a family's own rule, or the general one."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable

from chorus.architectures.by_names import layout_by_names
from chorus.architectures.classes import UnknownClassError, structure
from chorus.architectures.families import FAMILIES
from chorus.architectures.family_inventories import family_inventory
from chorus.architectures.inventory import Inventory
from chorus.architectures.roles import Layout
from chorus.plain import JsonMap


def layout_of(config: JsonMap, names: Iterable[str]) -> Layout:
    """The layout of a model, by its family's own rule, else by transformers' module tree.

    Raises `ValueError` where neither knows the architecture.
    """
    plain = json.dumps(structure(config), default=str)
    return _layout(plain, tuple(names))


@functools.lru_cache(maxsize=32)  # ten fine-tunes of one model have one layout
def _layout(plain: str, names: tuple[str, ...]) -> Layout:
    config = json.loads(plain)
    for matches, rule in FAMILIES:
        if matches(config):
            return rule(config, list(names))
    from chorus.architectures.general import general_layout  # imports torch and transformers

    return general_layout(config, list(names))


def layout_and_doubt(config: JsonMap, names: Iterable[str]) -> tuple[Layout, str]:
    """The layout of a model, by its names alone where nobody knows its class; and then what that means, else ""."""
    names = list(names)
    try:
        return layout_of(config, names), ""
    except UnknownClassError as error:
        return layout_by_names(names), (
            f"{error}. Its tensors' names are compared with the other models' alone, and not with what it must have; "
            "settings by component or kind hold for none of them"
        )


def has_rule(config: JsonMap) -> bool:
    """Whether the family has a rule of its own, so that transformers need not be asked."""
    return any(matches(config) for matches, _ in FAMILIES)


def inventory_of(config: JsonMap, names: Iterable[str]) -> Inventory:
    """What a file of this config must hold, by its family's rule, else by transformers' module tree.

    `names` decide among several classes where the config names none. Raises `ValueError` where nobody knows it.
    """
    found = family_inventory(config)
    if found is not None:
        return found
    from chorus.architectures.conversion import inventory_on_meta
    from chorus.architectures.on_meta import build_on_meta

    return inventory_on_meta(build_on_meta(config, list(names)))


def other_class(config: JsonMap, names: Iterable[str]) -> str | None:
    """A class of the same model type that has all these tensors: another head than the one that the config names."""
    from chorus.architectures.on_meta import class_with

    return class_with(config, list(names))
