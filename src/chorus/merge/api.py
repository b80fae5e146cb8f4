"""`chorus.merge` and its kin: plan if need be, then carry out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from chorus.checkpoints.adapter_report import AdapterResult
from chorus.checkpoints.open import Source
from chorus.errors import UsageError
from chorus.linalg.ranks import RankRule
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan as make_plan
from chorus.merge.recipes.loading import LoadedRecipe, load_recipe
from chorus.merge.runs.as_salmonn import NAME, makes_salmonn, run_as_salmonn
from chorus.merge.runs.engine import Result, run
from chorus.progress import Progress


def merge(
    recipe: str | Path | Mapping[str, object] | LoadedRecipe | Plan,
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
    planned = _planned(recipe, options)
    if not makes_salmonn(planned):
        return run(planned, Path(output), progress)
    done = run_as_salmonn(planned, Path(output), RankRule(), progress)
    size = sum(path.stat().st_size for path in done.directory.rglob(NAME))
    tensors, read = (
        sum(1 for _ in planned.tensors()),
        sum(p.stat().st_size for m in planned.models for p in m.paths.values()),
    )
    return Result(done.directory, done.variants, tensors, 0, read, size, done.warnings)


def _planned(recipe: str | Path | Mapping[str, object] | LoadedRecipe | Plan, options: Options | None) -> Plan:
    """A plan as it is, or planned again where other options are given: shards, seed and device depend on them."""
    if isinstance(recipe, Plan):
        return recipe if options is None else make_plan(recipe.recipe, options)
    return make_plan(recipe, options)


def merge_into_adapter(
    recipe: str | Path | Mapping[str, object] | LoadedRecipe | Plan,
    output: str | Path,
    options: Options | None = None,
    *,
    ranks: RankRule | None = None,
    progress: Progress = lambda done, total: None,
) -> AdapterResult:
    """Merge into a PEFT adapter directory on the recipe's base, instead of a whole model.

    Deltas of adapters stay factored; `ranks` cuts the result (by default linear and subspace merges of adapters
    keep all their directions). The result tells the rank and the retained energy of every module.

    Raises what `merge` raises, and `PlanError` for what cannot become an adapter.

    >>> import chorus
    >>> chorus.merge_into_adapter("recipe.yml", "adapter", ranks=chorus.RankRule(max_rank=32))  # doctest: +SKIP
    AdapterResult(directory=PosixPath('adapter'), ...)
    """
    from chorus.merge.runs.as_adapter import run_as_adapter

    planned = _planned(recipe, options)
    write = run_as_salmonn if makes_salmonn(planned) else run_as_adapter
    return write(planned, Path(output), ranks or RankRule(), progress)


def apply(
    model: Source,
    deltas: str | Path | Sequence[str | Path],
    output: str | Path,
    options: Options | None = None,
    *,
    weights: float | Sequence[float] = 1.0,
    out_dtype: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Result:
    """Write model + sum_i w_i delta_i, each delta the directory of an adapter or of a task vector; one may stand alone.

    `model` is whatever `chorus.open_model` takes; `weights` are one for all or one for each, and may be negative.

    Raises `UsageError` where their numbers differ, and what `merge` raises.

    >>> import chorus
    >>> chorus.apply("whisper-small", ["noisy", "clean"], "model", weights=[1, -1])  # doctest: +SKIP
    Result(directory=PosixPath('model'), ...)
    """
    recipe = load_recipe(apply_recipe(model, deltas, weights=weights, out_dtype=out_dtype), "apply")
    return merge(recipe, output, options, progress=progress)


def apply_recipe(
    model: Source,
    deltas: str | Path | Sequence[str | Path],
    *,
    weights: float | Sequence[float] = 1.0,
    out_dtype: str | None = None,
) -> dict[str, object]:
    """The recipe of `apply`."""
    deltas = [deltas] if isinstance(deltas, str | Path) else deltas
    each = [weights] * len(deltas) if isinstance(weights, int | float) else list(weights)
    if len(each) != len(deltas):
        raise UsageError(
            f"{len(each)} weights for {len(deltas)} deltas", "give one --weight for all, or one for each"
        )  # fmt: skip
    # recipes know texts, maps, models and plans
    named = str(model) if isinstance(model, Path) else model
    models = [
        {"model": named, "lora": str(delta), "parameters": {"weight": weight}}
        for delta, weight in zip(deltas, each, strict=True)
    ]
    recipe: dict[str, object] = {"merge_method": "task_arithmetic", "base_model": named, "models": models}
    return {**recipe, "out_dtype": out_dtype} if out_dtype else recipe
