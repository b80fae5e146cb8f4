"""The config of a result whose layers are stacked: the count where the model reads it, and all that goes by layers.

    one value a layer         layer_types, no_rope_layers: each layer brings its own model's along
    what is a layer's own     per_layer_config: a map from its number
    numbers of layers         mlp_only_layers, fullatt_block_indexes: those where such a layer has come to stand
    a number of first layers  first_k_dense_replace: as far as such layers come first
    the last layer's number   moe_layer_end_index

What these do not carry over (a period in layers) shows when the result's tensors are compared with its config.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from chorus.architectures.layouts import has_rule
from chorus.architectures.roles import Stack
from chorus.plain import JsonMap, JsonObject

A_LAYER = re.compile(r"layer|block|kv_sharing_modes|indexer_types|attention_window|sliding_windows|swiglu_limits")
NUMBERS = re.compile(r"(layers|layer_ids|block_ids|indexes|indices|blocks)$")
FIRST = ("first_k_dense_replace", "num_dense_layers", "max_window_layers")
LAST = ("moe_layer_end_index",)
SWITCHES = ("no_rope_layers",)  # 0 or 1 for each layer, which with two layers look like numbers
# front ends and feature pyramids have stages, which are no layers of the stack
OTHER = re.compile(r"conv|kernel|stride|dilation|resblock|out_|feature")


@dataclass(frozen=True)
class Layer:
    """A layer of the result: its number in its model, that model's settings, and how many layers it has there."""

    number: int
    settings: JsonMap
    count: int


def settings_of(config: JsonMap, stack: Stack) -> JsonObject:
    """The part of a config that counts a stack's layers; with what transformers makes of what it leaves unsaid."""
    where = (stack.config_key or "").rpartition(".")[0]
    written = section(config, where)
    if has_rule(config) and not written.get("use_sliding_window"):
        return written
    from chorus.architectures.classes import read_config

    try:
        return {**section(read_config(config).to_dict(), where), **written}
    except Exception:  # somebody's config: what is wrong with it is told where the layout is made
        return written


def section(config: JsonMap, where: str) -> JsonObject:
    """The map at a dotted path of a config; empty where there is none."""
    found: object = config
    for part in filter(None, where.split(".")):
        found = found.get(part) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def follow_layers(config: JsonObject, stack: Stack, donor: JsonMap, layers: Sequence[Layer]) -> None:
    """Make a config say how many layers there are, and what each is; `donor` is `settings_of` its own model.

    `ValueError` where the config has no key for it, so that no reader would know of the layers.
    """
    counted = any(isinstance(value, list) and _is_each(name, value, stack.count) for name, value in donor.items())
    if stack.config_key is None and not counted:
        raise ValueError(
            f"the config has no key that counts the layers {stack.prefix}*: no reader would know which are there"
        )
    where, _, key = (stack.config_key or "").rpartition(".")
    settings: JsonObject = config
    for part in filter(None, where.split(".")):
        settings = settings.setdefault(part, {})
    if key:  # else a list alone counts them
        settings[key] = len(layers)
    # Whisper's and BART's configs say the encoder's count under this name as well, xLSTM's its blocks' under the other
    for alias in ("num_hidden_layers", "num_blocks"):
        if settings.get(alias) == stack.count and stack.module in ("default", "encoder", "vision"):
            settings[alias] = len(layers)
    for name, value in donor.items():
        if isinstance(value, list) and _is_numbers(name, value, stack.count):
            settings[name] = [i for i, layer in enumerate(layers) if layer.number in layer.settings.get(name, value)]
        elif isinstance(value, list) and _is_each(name, value, stack.count):
            settings[name] = [_own(layer, name, value) for layer in layers]
        elif isinstance(value, dict) and name == "per_layer_config":
            own = [layer.settings.get(name, value).get(str(layer.number)) for layer in layers]
            settings[name] = {str(i): one for i, one in enumerate(own) if one is not None}
        elif name in LAST and value == stack.count - 1:
            settings[name] = len(layers) - 1
        elif name in FIRST and isinstance(value, int):
            # one behind another kind of layer is no longer among the first; the comparison of tensors tells
            first = [layer.number < int(layer.settings.get(name, value)) for layer in layers]
            settings[name] = [*first, False].index(False)


def _own(layer: Layer, name: str, otherwise: list[object]) -> object:
    """A layer's value in its own model's list."""
    values = layer.settings.get(name)
    fits = isinstance(values, list) and len(values) == layer.count
    return (values if fits and isinstance(values, list) else otherwise)[layer.number]


def _is_each(name: str, value: list[object], count: int) -> bool:
    """Whether a list says something of each layer."""
    return len(value) == count and A_LAYER.search(name) is not None and OTHER.search(name) is None


def _is_numbers(name: str, value: list[object], count: int) -> bool:
    """Whether a list names layers by their numbers."""
    numbers = [v for v in value if isinstance(v, int) and not isinstance(v, bool)]
    within = len(numbers) == len(value) == len(set(numbers)) and all(0 <= v < count for v in numbers)
    return within and name not in SWITCHES and NUMBERS.search(name) is not None and OTHER.search(name) is None
