"""What the result's config says: types, layer counts and lists that follow the layers, vocabulary."""

from __future__ import annotations

from chorus.architectures.roles import Stack
from chorus.checkpoints.dtypes import parse_dtype
from chorus.checkpoints.shards import stored_config
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.options import Options
from chorus.merge.planning.inputs import Inputs, vocabulary_sizes
from chorus.merge.planning.layouts import OutputSlice
from chorus.merge.planning.stacked_config import Layer, follow_layers, section, settings_of
from chorus.merge.recipes.schema import Output, Recipe
from chorus.plain import JsonObject


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
) -> JsonObject:
    """The donor's config, made true: dtype as stored, layers as stacked, vocabulary as cut."""
    donor, layout = inputs.models[inputs.donor], inputs.layouts[inputs.donor]
    config = stored_config(donor.config, [(t.name, t.dtype, t.shape) for t in tensors.values()])
    for stack in layout.stacks:
        _follow_stack(config, inputs, stack, slices.get(stack.module, []))
    if options.truncate_vocabulary:
        # mergekit's flag cuts the rows and leaves the donor's number
        text = config if config.get("vocab_size") else section(config, "text_config")
        if text.get("vocab_size"):
            text["vocab_size"] = min(vocabulary_sizes(m) for m in inputs.models)
    return config


def output_generation(
    generation: dict[str, object] | None, inputs: Inputs, slices: dict[str, list[OutputSlice]]
) -> dict[str, object] | None:
    """Generation settings with the alignment heads where their layers have come to stand."""
    heads = (generation or {}).get("alignment_heads")
    decoder = inputs.layouts[inputs.donor].stack("decoder")
    origin = _origin(slices.get("decoder", []))
    if generation is None or not isinstance(heads, list) or decoder is None or _in_place(origin, decoder):
        return generation
    numbers = [number for _, number in origin]
    pairs = [pair for pair in heads if isinstance(pair, list) and len(pair) == 2]
    moved = [[i, head] for i, number in enumerate(numbers) for layer, head in pairs if layer == number]
    others = {key: value for key, value in generation.items() if key != "alignment_heads"}
    return {**others, "alignment_heads": moved} if moved else others


def _origin(parts: list[OutputSlice]) -> list[tuple[int, int]]:
    """(model, number there) of each layer of the result, by the first model of its slice."""
    return [(p.sources[0].model, p.sources[0].first + j) for p in parts for j in range(p.count)]


def _in_place(origin: list[tuple[int, int]], stack: Stack) -> bool:
    return [number for _, number in origin] == list(range(stack.count))


def _follow_stack(config: JsonObject, inputs: Inputs, stack: Stack, parts: list[OutputSlice]) -> None:
    """Tell the config of layers that are not where its model had them; what it cannot be told is a problem."""
    origin = _origin(parts)
    if _in_place(origin, stack):
        return
    settings, stacks = {}, {}
    for model in {inputs.donor, *(model for model, _ in origin)}:
        stacks[model] = inputs.layouts[model].stack(stack.module) or stack
        settings[model] = settings_of(inputs.models[model].config, stacks[model])
    layers = [Layer(number, settings[model], stacks[model].count) for model, number in origin]
    try:
        follow_layers(config, stack, settings[inputs.donor], layers)
    except ValueError as error:
        inputs.problems.append(f"slices: {inputs.models[inputs.donor].label}: {error}")
