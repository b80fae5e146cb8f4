"""The coefficients of a merge by layer: which task dominates where, by how much, and how evenly they are mixed.

    p_t = |lambda_t| / sum_u |lambda_u|     margin = the largest p minus the next     entropy = -sum p log p / log T

Entropy is 0 where one task stands alone and 1 where all weigh the same. A group's lambda is the mean over its values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from chorus.analyse.weights import in_order, layer_of
from chorus.checkpoints.reference import labelled
from chorus.errors import PlanError
from chorus.merge.arithmetic.coefficients import coefficients_of, has_coefficients
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan as make_plan
from chorus.plain import JsonObject

FORMAT = 1
RECIPE = "recipe.yml"  # what a calibration leaves in its directory


@dataclass(frozen=True)
class Mixture:
    """The coefficients of one tensor, or of a group of `tensors`; None where no task has any weight.

    `dominant` is empty where none weighs more than every other.
    """

    name: str
    tensors: int
    values: int
    weights: dict[str, float]
    dominant: str
    margin: float | None
    entropy: float | None


@dataclass(frozen=True)
class MixedTensor:
    """A tensor's coefficients, and where it stands."""

    component: str
    kind: str
    layer: str
    mixture: Mixture


@dataclass(frozen=True)
class CoefficientAnalysis:
    """The mixtures of a recipe: `groups` are all, component, kind, layer."""

    recipe: str
    method: str
    models: list[str]
    groups: dict[str, list[Mixture]]
    tensors: list[MixedTensor]
    warnings: list[str] = field(default_factory=list)

    @property
    def all(self) -> Mixture:
        """Of the whole model."""
        return self.groups["all"][0]

    def as_dict(self) -> JsonObject:
        """Plain values, for JSON."""
        return {"format": FORMAT, "kind": "coefficients", **asdict(self)}


def analyse_coefficients(
    recipe: str | Path | Mapping[str, object] | Plan, *, options: Options | None = None
) -> CoefficientAnalysis:
    """What a recipe, or a calibration's directory, multiplies each model by, in every layer, component and kind.

    No weight is read. The recipe must be a weighted sum, of models or of their differences to the base.

    Raises `RecipeError` and `PlanError` as planning does, and for methods that have no coefficients.

    >>> import chorus
    >>> chorus.analyse_coefficients("calibrated/recipe.yml").all.dominant  # doctest: +SKIP
    'asr'
    """
    planned = recipe if isinstance(recipe, Plan) else plan_of(recipe, options)
    _refuse_others(planned)
    labels = [one.name for one in labelled(planned.references)]
    merged = [tensor for tensor in planned.variant().tensors.values() if tensor.steps]
    # the base stands among the models of some methods, and is weighed as any other there
    used = sorted({which.model for tensor in merged for which in tensor.inputs})
    sums: dict[str, dict[str, _Sum]] = {"all": {}, "component": {}, "kind": {}, "layer": {}}
    tensors = []
    for tensor in merged:
        weights = dict.fromkeys((labels[i] for i in used), 0.0)
        weights |= {labels[w.model]: c for w, c in zip(tensor.inputs, coefficients_of(tensor), strict=True)}
        role, layer = tensor.role, layer_of(tensor.role)
        for column, key in (("all", "all"), ("component", role.component), ("kind", role.kind), ("layer", layer)):
            # embeddings and heads stand in no layer
            if key:
                sums[column].setdefault(key, _Sum(dict.fromkeys(weights, 0.0))).add(tensor, weights)
        tensors.append(MixedTensor(role.component, role.kind, layer, mixture(tensor.name, 1, tensor.numel, weights)))
    sums["layer"] = dict(sorted(sums["layer"].items(), key=in_order))
    return CoefficientAnalysis(
        planned.label, planned.variant().method, [labels[i] for i in used],
        {column: [one.mixture(name) for name, one in found.items()] for column, found in sums.items()}, tensors,
        list(planned.warnings),
    )  # fmt: skip


def plan_of(recipe: str | Path | Mapping[str, object], options: Options | None = None) -> Plan:
    """The plan of a recipe, or of the one that a calibration has left in its directory; headers alone are read."""
    if isinstance(recipe, str | Path) and (Path(recipe) / RECIPE).is_file():
        recipe = Path(recipe) / RECIPE
    return make_plan(recipe, options, weights=False)


def _refuse_others(planned: Plan) -> None:
    merged = [tensor for tensor in planned.variant().tensors.values() if tensor.steps]
    if not merged:
        raise PlanError(["no tensor is merged: there is no coefficient"], source=planned.recipe.source)
    if not all(map(has_coefficients, merged)):
        told = f"{planned.variant().method} is no weighted sum: it has no coefficients by which models are mixed"
        raise PlanError([told], "analyse weights measures what any merge keeps of its models", planned.recipe.source)


@dataclass
class _Sum:
    """Coefficients times the values that have them."""

    weights: dict[str, float]
    tensors: int = 0
    values: int = 0

    def add(self, tensor: TensorPlan, weights: Mapping[str, float]) -> None:
        self.tensors += 1
        self.values += tensor.numel
        for label, weight in weights.items():
            self.weights[label] += weight * tensor.numel

    def mixture(self, name: str) -> Mixture:
        mean = {label: total / max(1, self.values) for label, total in self.weights.items()}
        return mixture(name, self.tensors, self.values, mean)


def mixture(name: str, tensors: int, values: int, weights: Mapping[str, float]) -> Mixture:
    """Dominant task, margin and entropy of some coefficients.

    >>> found = mixture("fc1", 1, 4, {"asr": 0.75, "kws": -0.25})
    >>> found.dominant, found.margin, round(found.entropy, 3)
    ('asr', 0.5, 0.811)
    """
    total = sum(map(abs, weights.values()))
    if not total:
        return Mixture(name, tensors, values, dict(weights), "", None, None)
    shares = {label: abs(weight) / total for label, weight in weights.items()}
    ranked = sorted(shares, key=lambda label: -shares[label])
    margin = shares[ranked[0]] - (shares[ranked[1]] if len(ranked) > 1 else 0.0)
    # sums of the same numbers in another order differ by rounding: no domination
    dominant = ranked[0] if margin > 1e-9 else ""
    return Mixture(name, tensors, values, dict(weights), dominant, margin, _entropy(list(shares.values())))


def _entropy(shares: Sequence[float]) -> float | None:
    """Of one task alone there is none."""
    if len(shares) < 2:
        return None
    return max(0.0, -sum(p * math.log(p) for p in shares if p > 0) / math.log(len(shares)))
