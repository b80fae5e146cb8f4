"""From a config and tensor names to roles: a family's own rule, or the general one."""

from __future__ import annotations

from collections.abc import Iterable

from chorus.architectures.families import FAMILIES
from chorus.architectures.roles import Layout
from chorus.plain import JsonMap


def layout_of(config: JsonMap, names: Iterable[str]) -> Layout:
    """The layout of a model, by its family's own rule, else by transformers' module tree.

    Raises `ValueError` where neither knows the architecture.
    """
    names = list(names)  # asked for more than once below
    for matches, rule in FAMILIES:
        if matches(config):
            return rule(config, names)
    from chorus.architectures.general import general_layout  # imports torch and transformers

    return general_layout(config, names)
