"""Chorus: one speech or language model out of many fine-tuned ones, measured and shipped.

    import chorus

    plan = chorus.plan("recipe.yml")      # every mistake at once, no weight read
    chorus.merge(plan, "merged")          # streams; resumes; same bytes every time
    plan["model.encoder.conv1.weight"]    # a plan is a checkpoint too

Names are loaded when first used: importing chorus imports neither torch nor transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chorus._version import __version__

if TYPE_CHECKING:
    from chorus.checkpoints.open import open_model
    from chorus.errors import ChorusError
    from chorus.evaluate.compare import compare
    from chorus.evaluate.run import evaluate
    from chorus.experiment.load import load_experiment
    from chorus.experiment.run import experiment
    from chorus.merge.api import merge
    from chorus.merge.method import Between, PerModel, method
    from chorus.merge.options import Options
    from chorus.merge.plan import Plan
    from chorus.merge.planning.planner import plan
    from chorus.merge.recipes.loading import load_recipe
    from chorus.train.layers import load_train_config
    from chorus.train.run import train

_HOMES = {
    "load_recipe": "chorus.merge.recipes.loading",
    "plan": "chorus.merge.planning.planner",
    "merge": "chorus.merge.api",
    "merge_into_adapter": "chorus.merge.api",
    "RankRule": "chorus.linalg.ranks",
    "load_train_config": "chorus.train.layers",
    "train": "chorus.train.run",
    "compare": "chorus.evaluate.compare",
    "evaluate": "chorus.evaluate.run",
    "experiment": "chorus.experiment.run",
    "load_experiment": "chorus.experiment.load",
    "extract_lora": "chorus.extract.lora",
    "extract_task_vector": "chorus.extract.task_vector",
    "Selection": "chorus.extract.pair",
    "Plan": "chorus.merge.plan",
    "Options": "chorus.merge.options",
    "method": "chorus.merge.method",
    "PerModel": "chorus.merge.method",
    "Between": "chorus.merge.method",
    "open_model": "chorus.checkpoints.open",
    "ChorusError": "chorus.errors",
}

__all__ = [
    "Between",
    "ChorusError",
    "Options",
    "PerModel",
    "Plan",
    "RankRule",
    "Selection",
    "__version__",
    "compare",
    "evaluate",
    "experiment",
    "extract_lora",
    "extract_task_vector",
    "load_experiment",
    "load_recipe",
    "load_train_config",
    "merge",
    "merge_into_adapter",
    "method",
    "open_model",
    "plan",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'chorus' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__])
