"""From recipe and headers to the plan. All problems surface together; no weight is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from chorus.checkpoints.beside import Beside
from chorus.errors import PlanError, RecipeError, UsageError
from chorus.merge.method import METHODS, Method
from chorus.merge.options import Options
from chorus.merge.plan import Plan, Variant
from chorus.merge.planning.beside import look_beside, side_files
from chorus.merge.planning.generation import settings as generation_settings
from chorus.merge.planning.inputs import (
    Inputs,
    check_inputs,
    open_auxiliary,
    open_inputs,
    sources_of,
    vocabulary_sizes,
    warn_of_base,
)
from chorus.merge.planning.layouts import Builder, output_slices
from chorus.merge.planning.memory import footprint
from chorus.merge.planning.outputs import check_dtypes, output_config, output_generation
from chorus.merge.planning.result import check_result, left_alone
from chorus.merge.planning.ties import tie_inputs
from chorus.merge.planning.vocabularies import check_vocabularies
from chorus.merge.recipes.inner import inner_names
from chorus.merge.recipes.loading import LoadedRecipe, load_recipe
from chorus.merge.recipes.parameters import check_parameters, check_selector, is_gradient
from chorus.merge.recipes.published import NOT_HERE, unknown_method
from chorus.merge.recipes.schema import Output
from chorus.runtime import pick_device

UNION = "tokenizer_source: union: the vocabularies differ, and a union of such comes with a later version: write base"


def plan(
    recipe: str | Path | Mapping[str, object] | LoadedRecipe, options: Options | None = None, *, weights: bool = True
) -> Plan:
    """Plan a merge: open the models' headers, check everything, place every output tensor.

    `recipe` is what `load_recipe` takes, or what it returned. With `weights=False` models on the hub are planned
    from their headers and nothing large is downloaded; such a plan cannot be run.

    Raises `RecipeError` for what is wrong in the recipe, `PlanError` for what does not fit the models, each with
    every problem found.

    >>> plan("recipe.yml").bytes_to_write  # doctest: +SKIP
    483400000
    """
    options = options or Options()
    if options.device == "auto":  # here, since the journal and chorus.json name what it ran on
        options = replace(options, device=pick_device("auto"))
    loaded = recipe if isinstance(recipe, LoadedRecipe) else load_recipe(recipe)
    methods = _check_recipe(loaded)
    inputs = _inputs(loaded, options, weights=weights)
    warn_of_base(inputs, loaded.recipe, [method for _, method in methods])
    _check_gradients(loaded, inputs)
    look_beside(inputs)
    beside = side_files(inputs) if options.copy_tokenizer else Beside()
    if not inputs.problems:
        open_auxiliary(inputs, loaded.recipe, list({m.name: m for _, m in methods}.values()))
    generation, differences, problems = generation_settings(loaded.recipe.generation, inputs)
    inputs.problems += problems
    variants = []
    if not inputs.problems:
        variants = [_variant(loaded, inputs, options, output, method, generation) for output, method in methods]
        _check_vocabularies(loaded, inputs, variants)
    problems = list(dict.fromkeys(inputs.problems))
    if problems:
        raise PlanError(problems, source=loaded.source)
    for variant in variants:
        if generation and generation.get("lang_to_id"):  # what transformers would go by where no language is asked for
            variant.config.pop("forced_decoder_ids", None)
        variant.lay_out(options.max_shard_bytes)
    # without one it is 0, so that every recipe repeats; mergekit draws anew unless --random-seed is given
    seed = loaded.recipe.seed if options.seed is None else options.seed
    planned = Plan(
        recipe=loaded,
        options=options,
        references=inputs.references,
        models=inputs.models,
        base=inputs.base,
        donor=inputs.donor,
        tokenizer=inputs.donor if inputs.tokenizer is None else inputs.tokenizer,
        variants=variants,
        footprint=footprint([t for v in variants for t in v.tensors.values()], inputs.sources),
        auxiliary=inputs.auxiliary,
        seed=seed or 0,
        warnings=list(dict.fromkeys(inputs.warnings)),
        generation_differences=differences,
        beside=beside,
    )
    if planned.bytes_per_job > options.memory_budget_bytes:
        planned.warnings.append(
            f"one tensor needs {planned.bytes_per_job / 1e6:.0f} MB of working memory, more than the budget of "
            f"{options.memory_budget_bytes / 1e6:.0f} MB: its method cannot take it in pieces"
        )
    return planned


def _inputs(loaded: LoadedRecipe, options: Options, *, weights: bool) -> Inputs:
    """The recipe's models, opened, tied alike and compared."""
    source = Path(loaded.source)
    within = (*options.within, *([source.resolve()] if source.is_file() else []))
    inputs = open_inputs(loaded.recipe, replace(options, within=within), weights=weights)
    # at once: a model that did not open would be missed by every further check
    if inputs.problems or not inputs.models:
        raise PlanError(inputs.problems or ["the recipe names no model"], source=loaded.source)
    stacked = bool(loaded.recipe.slices) or any(m.slices for m in (loaded.recipe.modules or {}).values())
    _check_tokenizer(loaded, inputs)  # first: it may choose whose config the result has
    tie_inputs(inputs)
    check_inputs(inputs, options, stacked=stacked)
    return inputs


def _check_recipe(loaded: LoadedRecipe) -> list[tuple[Output, Method]]:
    """The variants with their methods; every wrong method, parameter, type and role of the recipe."""
    recipe, problems = loaded.recipe, []
    outputs = recipe.outputs or [Output(name="")]
    pairs: list[tuple[Output, Method]] = []
    for output in outputs:
        name = output.merge_method or recipe.merge_method
        try:
            pairs.append((output, METHODS.get(name)))
        except UsageError as error:
            problems.append(f"merge_method: {unknown_method(name) if name in NOT_HERE else error.message}")
    if not pairs:
        raise RecipeError(list(dict.fromkeys(problems)), source=loaded.source)
    methods = list({m.name: m for _, m in pairs}.values())
    entries = {f"{where}.parameters" for where, _ in sources_of(recipe)}
    # of the whole recipe, since one map may choose the inner method and another set its density
    inner = {m.name: [n for _, settings in _settings(loaded) for n in inner_names(m, settings)] for m in methods}
    for where, settings in _settings(loaded):
        # below, each against its own method
        if where.startswith("outputs."):
            continue
        under_model = where in entries
        found = [check_parameters(m, settings, where, under_model=under_model, inner=inner[m.name]) for m in methods]
        if len(methods) == 1:
            problems += found[0]
        else:  # a shared map may hold what only some of the methods know
            problems += [p for p in found[0] if all(p.split(":")[0] in {q.split(":")[0] for q in f} for f in found)]
    for output, method in pairs:
        if output.name:
            where = f"outputs.{output.name}.parameters"
            problems += check_parameters(method, output.parameters, where, inner=inner[method.name])
        problems += _check_exclude(output.exclude, f"outputs.{output.name}.exclude")
    if recipe.lambda_ is not None:
        if not any("lambda" in m.parameters for m in methods):
            problems.append(f"lambda: {methods[0].name} has no such parameter")
        # short for the global parameter, which goes before it where both are written
        recipe.parameters.setdefault("lambda", recipe.lambda_)
        problems += [
            p
            for m in methods
            if "lambda" in m.parameters
            for p in check_parameters(m, {"lambda": recipe.lambda_}, "recipe")
        ]
    problems += _check_exclude(recipe.exclude, "exclude")
    excluded = recipe.exclude or any(o.exclude for o, _ in pairs)
    if excluded and recipe.base_model is None:
        problems.append("exclude: keeps the base's tensors, so the recipe needs a base_model")
    problems += check_dtypes(recipe, outputs)
    if problems:
        raise RecipeError(list(dict.fromkeys(problems)), source=loaded.source)
    return pairs


def _settings(loaded: LoadedRecipe) -> list[tuple[str, dict[str, object]]]:
    """Every `parameters` map of a recipe, with its place."""
    recipe = loaded.recipe
    found = [("parameters", recipe.parameters)]
    found += [(f"{where}.parameters", entry.parameters) for where, entry in sources_of(recipe)]
    found += [(f"modules.{n}.parameters", m.parameters) for n, m in (recipe.modules or {}).items()]
    found += [(f"slices[{i}].parameters", s.parameters) for i, s in enumerate(recipe.slices or [])]
    return found + [(f"outputs.{o.name}.parameters", o.parameters) for o in recipe.outputs or []]


def _check_gradients(loaded: LoadedRecipe, inputs: Inputs) -> None:
    """A list of values runs over the layers, so there must be some."""
    if sum(stack.count for stack in inputs.layouts[inputs.donor].stacks):
        return
    for where, settings in _settings(loaded):
        for name, setting in settings.items():
            if is_gradient(setting):
                inputs.problems.append(
                    f"{where}.{name}: a gradient over the layers, and {inputs.models[inputs.donor].label} has no layers"
                )


def _check_exclude(exclude: object, where: str) -> list[str]:
    if exclude is None:
        return []
    if not isinstance(exclude, list):
        return [f"{where}: a list of roles, each a map such as {{component: encoder}}"]
    return [p for i, selector in enumerate(exclude) for p in check_selector(selector, f"{where}[{i}]")]


def _check_tokenizer(loaded: LoadedRecipe, inputs: Inputs) -> None:
    """`tokenizer_source` may name the base or an input whose vocabulary is as large as all others'."""
    source = loaded.recipe.tokenizer_source
    # the union of equal vocabularies is that vocabulary: whether they are equal shows later
    if source is None or source == "union":
        return
    if source == "base":
        if inputs.base is None:
            inputs.problems.append("tokenizer_source: base needs a base_model")
        return
    names = [str(r) for r in inputs.references] + [r.path for r in inputs.references]
    if str(source) not in names:
        inputs.problems.append(f"tokenizer_source: {source} is neither base nor one of the models")
        return
    # each model's name stands there twice, whole and as its path alone
    index = names.index(str(source)) % len(inputs.references)
    sizes = {vocabulary_sizes(m) for m in inputs.models}
    if len(sizes) > 1:
        inputs.problems.append(f"tokenizer_source: the vocabularies have different sizes ({sorted(sizes)})")
    elif inputs.base is None:
        # no base says otherwise: config and side files come from where the tokenizer does
        inputs.donor = index
    elif index != inputs.donor:
        inputs.warnings.append(f"tokenizer_source: the tokenizer files are taken from {inputs.models[index].label}")
        inputs.tokenizer = index


def _check_vocabularies(loaded: LoadedRecipe, inputs: Inputs, variants: Sequence[Variant]) -> None:
    """Compare the tokenizers; a union of equal vocabularies is that vocabulary, any other is not made yet."""
    if loaded.recipe.chat_template == "auto":
        giver = inputs.models[inputs.donor if inputs.tokenizer is None else inputs.tokenizer]
        inputs.warnings.append(f"chat_template: auto is the template of {giver.label}, not the commonest of all models")
    told = len(inputs.warnings)
    check_vocabularies(inputs, [t for v in variants for t in v.tensors.values()])
    if loaded.recipe.tokenizer_source == "union" and len(inputs.warnings) > told:
        inputs.problems += [UNION, *inputs.warnings[told:]]


def _variant(
    loaded: LoadedRecipe,
    inputs: Inputs,
    options: Options,
    output: Output,
    method: Method,
    generation: dict[str, object] | None,
) -> Variant:
    """One output model, planned tensor by tensor."""
    slices = output_slices(loaded.recipe, inputs)
    builder = Builder(loaded.recipe, inputs, options, output, method, slices)
    tensors = builder.build()
    config = {} if inputs.problems else output_config(loaded.recipe, inputs, output, slices, tensors, options)
    if not inputs.problems:
        inputs.problems += check_result(config, tensors, inputs.models[inputs.donor])
        inputs.warnings += left_alone(tensors, inputs.models)
    return Variant(output.name, method.name, tensors, config, output_generation(generation, inputs, slices))
