"""What a recipe is: mergekit's schema and Chorus's extensions, checked on reading, nothing dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field

from chorus.errors import RecipeError
from chorus.files import printable, shown
from chorus.merge.recipes.published import in_our_words
from chorus.settings import Strict, validated

LIMITS = {"models": 1000, "outputs": 200, "modules": 100, "slices": 2000, "sources of slices": 10_000}
MAX_NAME = 200  # bytes of an output's name
MAX_SEED = 2**63
TEMPLATE = (
    "chat_template: the result takes the template of the model that gives its tokenizer (tokenizer_source): remove the "
    "key; building another comes with a later version"
)


def _no_truth(value: object) -> object:
    # an int to Python, and so to pydantic
    if isinstance(value, bool):
        raise ValueError("must be a whole number, not a truth")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth)]
# an empty `parameters:` is no parameters, as mergekit reads it
Parameters = Annotated[dict[str, object], BeforeValidator(lambda value: {} if value is None else value)]


class ModelEntry(Strict):
    """One model of `models`."""

    model: object
    lora: object = None
    parameters: Parameters = Field(default_factory=dict)
    auxiliary: dict[str, str] = Field(default_factory=dict)  # name -> safetensors file of tensors named as the model's


class Source(ModelEntry):
    """One model of a slice, and which of its layers: [first, after the last)."""

    layer_range: tuple[Whole, Whole]


class Slice(Strict):
    """Output layers, merged from equally many layers of each source."""

    sources: list[Source]
    base_model: object = None
    residual_weight: float | None = None  # in mergekit's schema, used by none of its methods
    parameters: Parameters = Field(default_factory=dict)


class Module(Strict):
    """The recipe of one of a model's modules, such as Whisper's encoder."""

    models: list[ModelEntry] | None = None
    slices: list[Slice] | None = None
    parameters: Parameters = Field(default_factory=dict)


class Output(Strict):
    """A variant: another method or other parameters, made from the same read of the inputs."""

    name: str
    merge_method: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    out_dtype: str | None = None
    exclude: object = None


class Recipe(Strict):
    """A whole recipe, in the words of this schema."""

    name: str | None = None  # a label, which the card has for its title
    merge_method: str
    models: list[ModelEntry] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: object = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer_source: object = None
    chat_template: str | None = None
    parameters: Parameters = Field(default_factory=dict)
    seed: Annotated[Whole, Field(gt=-MAX_SEED, lt=MAX_SEED)] | None = None
    exclude: object = None
    lambda_: object = Field(default=None, alias="lambda")
    outputs: list[Output] | None = None
    generation: object = None


def checked_recipe(document: Mapping[str, object], source: str) -> Recipe:
    """A document as a recipe; `RecipeError` with every problem found."""
    ours, problems = in_our_words(document)
    problems += [TEMPLATE] if ours.get("chat_template") not in (None, "auto") else []
    try:
        recipe = validated(Recipe, ours, source=source)
    except RecipeError as error:
        # told already, with the place where it belongs
        told = {problem.partition(": ")[0] for problem in problems}
        rest = [problem for problem in error.problems if problem.partition(": ")[0] not in told]
        raise RecipeError([*problems, *rest], source=source) from None
    problems += _structure(recipe)
    if problems:
        raise RecipeError(problems, source=source)
    return recipe


def _structure(recipe: Recipe) -> list[str]:
    problems = _too_many(recipe)
    if problems:
        return problems
    forms = [name for name in ("models", "slices", "modules") if getattr(recipe, name)]
    if len(forms) != 1:
        found = " and ".join(forms) or "none"
        problems.append(f"exactly one of models, slices and modules must be given; found {found}")
    for name, module in (recipe.modules or {}).items():
        if bool(module.models) == bool(module.slices):
            problems.append(f"modules.{name}: exactly one of models and slices must be given")
    slices = list(recipe.slices or [])
    for module in (recipe.modules or {}).values():
        slices += module.slices or []
    for i, part in enumerate(slices):
        if part.residual_weight is not None:
            problems.append(f"slices[{i}].residual_weight: has no effect in any method; remove it")
        lengths = {s.layer_range[1] - s.layer_range[0] for s in part.sources}
        if any(length <= 0 for length in lengths):
            problems.append(f"slices[{i}]: a layer_range [a, b) needs b > a")
        elif len(lengths) > 1:
            problems.append(f"slices[{i}]: all sources of a slice must have the same number of layers")
        if not part.sources:
            problems.append(f"slices[{i}]: no sources")
    for name, count in Counter(o.name for o in recipe.outputs or []).items():
        odd = not name or name.startswith(".") or "/" in name or "\\" in name or printable(name) != name
        if count > 1 or odd or len(name.encode("utf-8", "replace")) > MAX_NAME:
            problems.append(f"outputs: {shown(repr(name))} must be a directory's name of its own")
            break
    return problems


def _too_many(recipe: Recipe) -> list[str]:
    """Parts that are more than anybody means: each is planned, tensor by tensor."""
    parts: list[Recipe | Module] = [recipe, *(recipe.modules or {}).values()]
    models = sum(len(one.models or []) for one in parts)
    slices = [part for one in parts for part in one.slices or []]
    counts = {
        "models": models, "outputs": len(recipe.outputs or []), "modules": len(recipe.modules or {}),
        "slices": len(slices), "sources of slices": sum(len(one.sources) for one in slices),
    }  # fmt: skip
    return [f"{n:,} {what}; the limit is {LIMITS[what]:,}" for what, n in counts.items() if n > LIMITS[what]]
