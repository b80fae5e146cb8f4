"""Reading a recipe: from a file, from text, or from a map; in any dialect that is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chorus.documents import parse_yaml, recipe_text
from chorus.errors import RecipeError
from chorus.files import present
from chorus.merge.recipes.dialects import translated
from chorus.merge.recipes.schema import Recipe, checked_recipe


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe, the map that it was read from, what to call it, and the dialect that the map was translated from."""

    recipe: Recipe
    document: dict[str, object]
    source: str
    dialect: str = ""


def load_recipe(source: str | Path | Mapping[str, object], name: str = "recipe") -> LoadedRecipe:
    """Read a recipe from a file, from YAML text (with a line break in it), or from a dictionary.

    `name` is what messages call a dictionary.

    Raises `RecipeError` with every problem found.

    >>> load_recipe({"merge_method": "karcher", "models": [{"model": "a"}, {"model": "b"}]}).recipe.merge_method
    'karcher'
    """
    if isinstance(source, Mapping):
        documents, name = [dict(source)], name
    else:
        text, name = _read(source)
        documents = _parse(text, name)
    document, dialect = translated(documents, name)
    return LoadedRecipe(checked_recipe(document, name), document, name, dialect)


def _read(source: str | Path) -> tuple[str, str]:
    # no path that anybody writes has a line break
    if isinstance(source, str) and "\n" in source:
        return source, "recipe"
    path = Path(source)
    recipe, colon, output = path.name.rpartition(":")
    if colon and not present(path) and path.with_name(recipe).is_file():
        raise RecipeError(
            [f"all outputs of a recipe are merged in one pass, {output} cannot be alone"],
            f"name the recipe; {path.name} is a model to evaluate, extract, apply and to other recipes",
            str(path.with_name(recipe)),
        )
    return recipe_text(path), str(path)


def _parse(text: str, name: str) -> list[dict[str, object]]:
    documents = parse_yaml(text, name)
    if not documents or not all(isinstance(one, dict) for one in documents):
        raise RecipeError(["a recipe is a map with merge_method and models"], source=name)
    return documents
