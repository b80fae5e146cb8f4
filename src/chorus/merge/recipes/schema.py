"""What a recipe is: mergekit's schema and Chorus's extensions, checked on reading, nothing dropped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from pydantic import Field

from chorus.errors import RecipeError
from chorus.files import printable, shown
from chorus.settings import Strict, validated

LIMITS = {"models": 1000, "outputs": 200, "modules": 100, "slices": 2000, "sources of slices": 10_000}
MAX_NAME = 200  # bytes of an output's name
LATER = {
    "chat_template": "chat templates are copied from the donor; building one comes with a later version",
    "tokenizer": "building a tokenizer comes with a later version; write tokenizer_source: base",
}


class ModelEntry(Strict):
    """One model of `models`."""

    model: object
    lora: object = None
    parameters: dict[str, object] = Field(default_factory=dict)
    auxiliary: dict[str, str] = Field(default_factory=dict)  # name -> safetensors file of tensors named as the model's


class Source(ModelEntry):
    """One model of a slice, and which of its layers: [first, after the last)."""

    layer_range: tuple[int, int]


class Slice(Strict):
    """Output layers, merged from equally many layers of each source."""

    sources: list[Source]
    base_model: object = None
    residual_weight: float | None = None  # in mergekit's schema, used by none of its methods
    parameters: dict[str, object] = Field(default_factory=dict)


class Module(Strict):
    """The recipe of one of a model's modules, such as Whisper's encoder."""

    models: list[ModelEntry] | None = None
    slices: list[Slice] | None = None
    parameters: dict[str, object] = Field(default_factory=dict)


class Output(Strict):
    """A variant: another method or other parameters, made from the same read of the inputs."""

    name: str
    merge_method: str | None = None
    parameters: dict[str, object] = Field(default_factory=dict)
    out_dtype: str | None = None
    exclude: object = None


class Recipe(Strict):
    """A whole recipe, as written."""

    merge_method: str
    models: list[ModelEntry] | None = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: object = None
    dtype: str | None = None
    out_dtype: str | None = None
    tokenizer: object = None
    tokenizer_source: object = None
    chat_template: str | None = None
    parameters: dict[str, object] = Field(default_factory=dict)
    seed: int | None = None
    exclude: object = None
    lambda_: object = Field(default=None, alias="lambda")
    outputs: list[Output] | None = None
    generation: object = None


def checked_recipe(document: Mapping[str, object], source: str) -> Recipe:
    """A document as a recipe; `RecipeError` with every problem found."""
    problems = _reserved(document)
    try:
        recipe = validated(Recipe, dict(document), source=source)
    except RecipeError as error:
        raise RecipeError([*problems, *error.problems], source=source) from None
    problems += _structure(recipe)
    if problems:
        raise RecipeError(problems, source=source)
    return recipe


def _reserved(document: Mapping[str, object]) -> list[str]:
    problems = [f"{key}: {why}" for key, why in LATER.items() if document.get(key) is not None]
    if document.get("tokenizer_source") == "union":
        problems.append("tokenizer_source: union vocabularies come with a later version; write base")
    if document.get("tokenizer") is not None and document.get("tokenizer_source") is not None:
        problems.append("tokenizer and tokenizer_source cannot both be given")
    return problems


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
