"""Tied tensors: the config under which copies have values of their own, wherever an architecture keeps that setting."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator

from chorus.architectures.layouts import inventory_of
from chorus.plain import JsonMap, JsonObject

KEY = "tie_word_embeddings"


def untied_config(config: JsonObject, names: Collection[str], copies: Collection[str]) -> JsonObject:
    """The config that ties none of these copies (by their own names), and as few other tensors less as can be.

    `names` are the file's tensors. The config itself where it ties none of them, or where no setting unties them: T5
    ties whatever its config says. transformers leaves stored copies that differ from what they are tied to as they
    are, so that such a model loads all the same.
    """
    wanted = set(copies)
    if not wanted & set(inventory_of(config, names).tied):
        return config
    found, most = config, -1
    for places in _choices(config):
        changed = copy.deepcopy(config)
        for place in places:
            _part(changed, place)[KEY] = False
        try:
            left = inventory_of(changed, names).tied
        except ValueError:  # a part whose class knows no such setting
            continue
        # more in one place untie what nobody asked for: Omni's talker stays tied where its thinker is not
        if not wanted & set(left) and len(left) > most:
            found, most = changed, len(left)
    return found


def _choices(config: JsonObject) -> list[list[tuple[str, ...]]]:
    """Where the setting may stand: in each part of a config alone, then in all of them."""
    places = list(_parts(config, ()))
    return [*([place] for place in places), *([places] if len(places) > 1 else [])]


def _parts(config: JsonMap, place: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The places of a config and of the configs within it: of those that are a model's, or say the setting."""
    yield place
    for name, value in config.items():
        if isinstance(value, dict) and (KEY in value or "model_type" in value):
            yield from _parts(value, (*place, name))


def _part(config: JsonObject, place: tuple[str, ...]) -> JsonObject:
    for name in place:
        config = config[name]
    return config
