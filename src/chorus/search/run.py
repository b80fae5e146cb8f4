"""A search by itself: a recipe's grid evaluated on dev, ranked, the best one chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from chorus.data.choices import needs_of, of_task, with_choices
from chorus.data.manifest import read_manifest
from chorus.data.split import SPLIT_NAMES
from chorus.errors import ChorusError, MisfitError, RecipeError
from chorus.evaluate.results import Evaluation
from chorus.evaluate.run import NORMALISER, why_all_failed
from chorus.merge.recipes.dialects import translated
from chorus.search.grids import Setting, grid_of, grid_problems
from chorus.search.recipes import Recipe, recipe_of, refuse_hidden
from chorus.search.selection import Chosen, macro_rate, short_of
from chorus.search.trials import Trials
from chorus.settings import read_document
from chorus.tasks.registry import TASKS
from chorus.transcribe.conditions import CLEAN
from chorus.transcribe.decoding import Decoding
from chorus.transcribe.test_sets import TestSet, of_rows


@dataclass(frozen=True)
class Trial:
    """A setting and what it reaches on dev: the metric's unweighted mean over domains, and the whole evaluation."""

    setting: Setting
    dev: float
    evaluation: Evaluation


@dataclass(frozen=True)
class Found:
    """What a search ended in: its trials, the best first, and the recipe of the best."""

    trials: list[Trial]
    recipe: Recipe

    @property
    def chosen(self) -> Chosen:
        return Chosen(self.trials[0].setting, self.trials[0].dev)


def search(
    template: str | Path | Mapping[str, object],
    grid: Mapping[str, object],
    dev: TestSet | str | Path,
    out: str | Path,
    *,
    decoding: Decoding | None = None,
    conditions: Sequence[str] = (CLEAN,),
    normaliser: str = NORMALISER,
    device: str = "auto",
    ended: Callable[[str], None] = lambda label: None,
) -> Found:
    """Evaluate every setting of `grid` ({parameter: values}) of a recipe on `dev`, and rank them.

    `template` is a recipe with its `merge_method`, in any dialect that is known; the grid's parameters are laid over
    its own. Results go below `out`, a folder a setting; a search that was killed, given again, goes on. Of equals the
    first of the grid is taken.

    Raises `RecipeError` for everything wrong with the grid before anything is transcribed.
    """
    document, name, _ = read_document(template)
    recipe, _ = translated([document], name)
    method = str(recipe.get("merge_method", ""))
    settings = _settings(recipe, method, grid, name)
    test = dev if isinstance(dev, TestSet) else _dev_set(dev, (decoding or Decoding()).task)
    trials: list[Trial] = []
    with Trials(
        test, Path(out), decoding=decoding, conditions=conditions, normaliser=normaliser, device=device, ended=ended
    ) as merges:
        for setting in settings:
            evaluation = merges.merge(recipe, setting)
            trials.append(Trial(setting, macro_rate(evaluation), evaluation))
    if all(why_all_failed(trial.evaluation) for trial in trials):
        reason = why_all_failed(trials[0].evaluation)
        raise ChorusError(f"every decode of every setting failed: {reason}", f"see {out}")
    best = trials[0].evaluation.task.metrics[0].best
    trials.sort(key=lambda t: short_of(t.dev, best))  # stable: of equals the first stays first
    return Found(trials, recipe_of(recipe, trials[0].setting))


def _dev_set(manifest: str | Path, task: str) -> TestSet:
    """The manifest's dev rows of a task; all of one that is not divided."""
    asked = TASKS.get(task)
    every = of_task(read_manifest(manifest, needs=needs_of(asked)).rows, asked)
    rows = with_choices(every, asked)
    if any(r.split for r in rows):
        rows = [r for r in rows if r.split in SPLIT_NAMES["dev"]]
    if not rows:
        raise MisfitError(f"{manifest}: no dev rows to choose on", "give rows of split dev, or a manifest of dev alone")
    return of_rows(rows)


def _settings(recipe: Mapping[str, object], method: str, grid: Mapping[str, object], name: str) -> list[Setting]:
    """The grid's settings; `RecipeError` with every problem found."""
    if not method:
        raise RecipeError(["merge_method: missing"], "name the method whose parameters are searched", name)
    problems = grid_problems("grid", method, grid)
    if problems:
        raise RecipeError(problems, "chorus methods NAME lists a method's parameters", name)
    settings = grid_of(method, grid)
    for setting in settings:
        refuse_hidden(recipe, setting)
    return settings
