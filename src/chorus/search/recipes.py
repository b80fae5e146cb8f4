"""From a template and a setting to the recipe of one trial.

A template is a recipe without what the search varies: the models and the base, perhaps a method and parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.errors import RecipeError
from chorus.merge.method import METHODS
from chorus.search.grids import Setting

Recipe = dict[str, object]


def template_of(base: str, models: Sequence[str]) -> Recipe:
    """What every merge of a base's fine-tunes has in common."""
    return {"base_model": base, "models": [{"model": name} for name in models]}


def recipe_of(template: Mapping[str, object], setting: Setting) -> Recipe:
    """A trial's merge, as a recipe that `chorus merge` takes; in float32 unless the template says otherwise.

    The base is left out for methods that need none, unless the setting asks for it or the template is a recipe of this
    very method. A required `weight` that nobody gives is 1.
    """
    method = METHODS.get(setting.method)
    recipe: Recipe = {"merge_method": setting.method, **{k: v for k, v in template.items() if k != "merge_method"}}
    if not (method.base == "required" or setting.with_base or template.get("merge_method") == setting.method):
        recipe.pop("base_model", None)
    given = template.get("parameters")
    parameters = {**(given if isinstance(given, Mapping) else {}), **setting.parameters}
    weight = method.parameters.get("weight")
    # alike for all models, as the papers' means and sums are; a recipe must say it, a grid need not
    if weight is not None and weight.required and "weight" not in parameters and not own_keys(template, "weight"):
        parameters["weight"] = 1.0
    if parameters:
        recipe["parameters"] = parameters
    return {**recipe, "out_dtype": recipe.get("out_dtype", "float32")}


def own_keys(template: Mapping[str, object], key: str) -> bool:
    """Whether a model of the template sets this parameter itself."""
    models = template.get("models")
    every = [m.get("parameters") for m in models if isinstance(m, Mapping)] if isinstance(models, list) else []
    return any(isinstance(one, Mapping) and key in one for one in every)


def refuse_hidden(template: Mapping[str, object], setting: Setting) -> None:
    """`RecipeError` where a model's own parameter would hide the one that is searched."""
    hidden = [key for key in setting.parameters if own_keys(template, key)]
    if hidden:
        raise RecipeError([f"{key}: a model sets it itself, so that the grid would change nothing" for key in hidden],
                          "leave it out of the template's models")  # fmt: skip
