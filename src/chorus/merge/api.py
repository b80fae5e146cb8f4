"""`chorus.merge`: plan if need be, then carry out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from chorus.merge.engine import Progress, Result, run
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planner import plan as make_plan
from chorus.merge.recipe import LoadedRecipe


def merge(
    recipe: str | Path | Mapping[str, Any] | LoadedRecipe | Plan,
    output: str | Path,
    options: Options | None = None,
    *,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Merge the models of a recipe (or of a plan) into the directory `output`.

    The directory appears when it is whole; until then the work lies in `output.partial`, from where a killed
    merge goes on with `Options(resume=True)`. A recipe with `outputs` makes one directory below `output` for each.

    Raises `RecipeError`, `PlanError` (before any work), `CheckpointError`, `OutputError`.

    >>> import chorus
    >>> chorus.merge("recipe.yml", "merged")  # doctest: +SKIP
    Result(directory=PosixPath('merged'), ...)
    """
    if isinstance(recipe, Plan):
        planned = recipe if options is None else replace(recipe, options=options)
    else:
        planned = make_plan(recipe, options)
    return run(planned, Path(output), progress)
