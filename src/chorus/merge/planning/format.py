"""A recipe as a form of model: planned, and read as the model that it would make."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from chorus.checkpoints.formats import FORMATS
from chorus.checkpoints.model import Model, OpenOptions
from chorus.errors import RecipeError
from chorus.merge.options import Options
from chorus.merge.planning.planner import plan

ENDINGS = (".yml", ".yaml")
MAX_DEPTH = 8  # recipes that name recipes


class RecipeFormat:
    """`recipe.yml`, or `recipe.yml:output` for one of several."""

    def takes(self, path: Path) -> bool:
        return path.suffix.lower() in ENDINGS

    def open(self, path: Path, part: str, label: str, options: OpenOptions) -> Model:
        if path.resolve() in options.within:
            raise RecipeError(["names itself"], "a recipe is made of models and of other recipes", str(path))
        if len(options.within) >= MAX_DEPTH:
            raise RecipeError(
                [f"recipes within recipes, {MAX_DEPTH} deep"], "write one of their results first", str(path)
            )
        # what concerns files is handed on, not how it is computed: a recipe gives the same bytes wherever it is named
        chosen = Options(allow_pickle=options.allow_pickle, offline=options.offline, cache_dir=options.cache_dir)
        planned = plan(path, replace(chosen, within=options.within), weights=options.weights)
        return replace(planned.model(part or None), label=label)


FORMATS.add("recipe", RecipeFormat())
