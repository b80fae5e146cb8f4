"""What the result's config says: types, layer counts and lists that follow the layers, vocabulary."""

from __future__ import annotations

import copy
from typing import Any

from chorus.checkpoints.dtypes import parse_dtype
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.options import Options
from chorus.merge.planning.inputs import Inputs, vocabulary_sizes
from chorus.merge.planning.layouts import OutputSlice
from chorus.merge.recipes.schema import Output, Recipe

# Lists that may by chance be as long as there are layers.
NOT_LAYERED = ("architectures", "suppress_tokens", "begin_suppress_tokens", "eos_token_id", "id2label", "auto_map")


def check_dtypes(recipe: Recipe, outputs: list[Output]) -> list[str]:
    """Every type that a recipe names and that is none, or that no weights can have."""
    problems = []
    named = [("dtype", recipe.dtype), ("out_dtype", recipe.out_dtype)]
    named += [(f"outputs.{o.name}.out_dtype", o.out_dtype) for o in outputs]
    for where, text in named:
        if text is None:
            continue
        try:
            # a type that mergekit takes
            if parse_dtype(text) == "int64":
                problems.append(f"{where}: int64 would round every weight to a whole number")
        except ValueError as error:
            problems.append(f"{where}: {error}")
    return problems


def output_config(
    recipe: Recipe,
    inputs: Inputs,
    output: Output,
    slices: dict[str, list[OutputSlice]],
    tensors: dict[str, TensorPlan],
    options: Options,
) -> dict[str, Any]:
    """The donor's config, made true: dtype as stored, layers as stacked, vocabulary as cut."""
    donor, layout = inputs.models[inputs.donor], inputs.layouts[inputs.donor]
    config = copy.deepcopy(donor.config)
    config.pop("_name_or_path", None)  # a path on the machine that saved the donor
    if tensors:
        # one word for a file that may hold several types: that of most of its bytes
        largest = max(tensors.values(), key=lambda t: (t.nbytes, t.name))
        config.pop("torch_dtype", None)  # what transformers 4 calls it
        config["dtype"] = largest.dtype
    for stack in layout.stacks:
        parts = slices.get(stack.module, [])
        origin = [(p.sources[0].model, p.sources[0].first + j) for p in parts for j in range(p.count)]
        if [layer for _, layer in origin] != list(range(stack.count)):
            _follow_layers(config, inputs, stack.config_key, stack.count, origin)
    if options.truncate_vocabulary and config.get("vocab_size"):
        # mergekit's flag cuts the rows and leaves the donor's number
        config["vocab_size"] = min(vocabulary_sizes(m) for m in inputs.models)
    return config


def _follow_layers(
    config: dict[str, Any], inputs: Inputs, key: str | None, count: int, origin: list[tuple[int, int]]
) -> None:
    """Set the layer count, and rebuild every list of the config that has one element a layer."""
    if key:
        config[key] = len(origin)
        # Whisper's config says the encoder's count under this name as well
        if key == "encoder_layers" and "num_hidden_layers" in config:
            config["num_hidden_layers"] = len(origin)
    for name, value in config.items():
        # such as layer_types: with one of the old length transformers 5 refuses a stacked Qwen2 (mergekit leaves it so)
        if isinstance(value, list) and len(value) == count and name not in NOT_LAYERED:
            # each layer brings its own model's entry along
            lists = [inputs.models[model].config.get(name, value) for model, _ in origin]
            config[name] = [lists[i][layer] for i, (_, layer) in enumerate(origin)]
    if "max_window_layers" in config and isinstance(config["max_window_layers"], int):
        config["max_window_layers"] = min(config["max_window_layers"], len(origin)) if origin else 0
