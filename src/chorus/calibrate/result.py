"""What a calibration leaves: the recipe with its weights by role and layer, its facts, and of adapters one adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from chorus.calibrate.groups import Groups, labels_of, not_as_calibrated
from chorus.checkpoints.reference import parse_reference
from chorus.checkpoints.writer import write_text
from chorus.errors import ChorusError
from chorus.linalg.ranks import RankRule
from chorus.merge.api import merge_into_adapter
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan as make_plan
from chorus.plain import JsonObject

if TYPE_CHECKING:
    from torch import Tensor

RECIPE, ADAPTER = "recipe.yml", "adapter"
HEAD = "# The weights of each model by part of the network, calibrated by Chorus; edit as any recipe.\n"


class _Line(dict[str, object]):
    """A map that YAML writes on one line."""


class _Dumper(yaml.SafeDumper):
    """Conditions on a line each, all else as usual."""


_Dumper.add_representer(_Line, lambda dumper, value: dumper.represent_mapping("tag:yaml.org,2002:map", value, True))


def calibrated_recipe(plan: Plan, groups: Groups, weights: Tensor, factor: float | None) -> JsonObject:
    """The plan's recipe with these weights, [task, group]; `factor` is what scales all of them, where it was learnt."""
    # in our words already, whatever dialect it was written in
    document = plan.recipe.document
    shared = {k: v for k, v in _map(document.get("parameters")).items() if k not in ("weight", "normalize", "lambda")}
    if factor is not None:
        shared["lambda"] = factor
    # the engine multiplies both: the models' own weights stay readable
    rows = (weights / factor if factor else weights).tolist()
    settings = {
        plan.references[model]: _setting(groups, row) for model, row in zip(groups.tasks, rows, strict=True)
    }  # fmt: skip
    models = []
    for entry in _list(document["models"]):
        own = {k: v for k, v in _map(entry.get("parameters")).items() if k != "weight"}
        setting = settings.get(parse_reference(entry["model"], entry.get("lora")))  # None: the base, among its models
        parameters = own if setting is None else {**own, "weight": setting}
        models.append({**entry, **({"parameters": parameters} if parameters else {})})
    whole = {k: v for k, v in document.items() if k not in ("lambda", "parameters")}
    return {**whole, "models": models, **({"parameters": shared} if shared else {})}


def _setting(groups: Groups, row: Sequence[float]) -> object:
    if len(groups.every) == 1 and not groups.every[0].selector:
        return row[0]
    return [
        _Line(role=_Line(group.selector), value=value) for group, value in zip(groups.every, row, strict=True)
    ]  # fmt: skip


def _map(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[JsonObject]:
    return list(value) if isinstance(value, list) else []


def write_recipe(path: Path, document: Mapping[str, object]) -> None:
    """The recipe as YAML for people: a condition a line."""
    text = yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    write_text(path, HEAD + text)


def check_recipe(document: Mapping[str, object], groups: Groups, weights: Tensor, options: Options) -> Plan:
    """The recipe planned, each of its tensors at the calibrated weight."""
    planned = make_plan(_plain(document), options)
    wrong = not_as_calibrated(planned, groups, weights.tolist())
    if wrong:
        raise ChorusError(
            f"the recipe does not say the calibrated weight of {len(wrong)} tensors, such as {wrong[0]}",
            "please report this with the recipe and the granularity",
        )
    return planned


def _plain(document: Mapping[str, object]) -> JsonObject:
    """Without our own classes, as it would be read again."""
    # through YAML, since that is what `chorus merge` will read
    found: JsonObject = yaml.safe_load(yaml.dump(dict(document), Dumper=_Dumper))
    return found


def of_adapters(plan: Plan, groups: Groups) -> bool:
    """Whether all merged models are adapters, so that the result can be one."""
    return all(plan.references[model].adapter is not None for model in groups.tasks)


def write_adapter(plan: Plan, directory: Path, energy: float | None) -> list[str]:
    """One PEFT adapter of the summed rank, or cut to an energy; returns what is to be said of it."""
    return merge_into_adapter(plan, directory, ranks=RankRule(energy=energy)).warnings


def weights_table(plan: Plan, groups: Groups, weights: Tensor, changed: Set[int]) -> list[dict[str, object]]:
    """Each group that some model has `changed` with its weights by model, for JSON."""
    labels = labels_of(plan, groups)
    return [
        {**group.selector, "weights": dict(zip(labels, weights[:, i].tolist(), strict=True))}
        for i, group in enumerate(groups.every) if i in changed
    ]  # fmt: skip
