"""Which weight of a merge belongs to which group: a model in a part of the network, as a recipe can name it.

scalar      one number, the recipe's lambda
task        a number for each model
component   ... in each component: an audio tower and a language model never share one
group       ... in each component, kind of tensor, and band of layers
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from chorus.architectures.roles import Role
from chorus.calibrate.settings import Granularity
from chorus.checkpoints.lazy_tensor import FileTensor
from chorus.errors import PlanError
from chorus.merge.arithmetic.coefficients import coefficients_of
from chorus.merge.plan import Plan


@dataclass(frozen=True)
class Region:
    """A part of the network; `layers` are [first, after the last). What is None or empty admits everything."""

    component: str = ""
    kind: str = ""
    layers: tuple[int, int] | None = None

    @property
    def selector(self) -> dict[str, object]:
        """How a recipe names it: a role."""
        named: dict[str, object] = {k: v for k, v in (("component", self.component), ("kind", self.kind)) if v}
        return {**named, "layers": list(self.layers)} if self.layers else named

    def __str__(self) -> str:
        if not self.component:
            return "everywhere"
        where = f" {self.layers[0]}-{self.layers[1] - 1}" if self.layers else ""
        return f"{self.component}{where}" + (f" {self.kind}" if self.kind else "")


@dataclass(frozen=True)
class Groups:
    """The groups of a plan, and which of them each merged tensor belongs to; `tasks` are places among its models."""

    every: tuple[Region, ...]
    of: Mapping[str, int]
    tasks: tuple[int, ...]
    shared: bool = False  # one number for all models: their weights among each other stay the recipe's

    def place(self, model: int) -> int:
        """A model's place among the tasks."""
        return self.tasks.index(model)


def groups_of(plan: Plan, granularity: Granularity, bands: int) -> Groups:
    """The groups of a plan that `check_plan` has passed."""
    merged = [tensor for tensor in plan.variant().tensors.values() if tensor.steps]
    counts: dict[str, int] = defaultdict(int)
    for role in (tensor.role for tensor in merged):
        if role.layer is not None:
            counts[role.component] = max(counts[role.component], role.layer + 1)
    found = {tensor.name: _group(tensor.role, granularity, bands, counts) for tensor in merged}
    # those with layers first: a recipe's first condition that holds counts, and one without admits any layer
    every = sorted(set(found.values()), key=lambda g: (g.component, g.layers is None, g.layers or (0, 0), g.kind))
    index = {group: i for i, group in enumerate(every)}
    tasks = tuple(which.model for which in merged[0].inputs)
    return Groups(tuple(every), {n: index[g] for n, g in found.items()}, tasks, granularity == "scalar")


def _group(role: Role, granularity: Granularity, bands: int, counts: Mapping[str, int]) -> Region:
    if granularity in ("scalar", "task"):
        return Region()
    if granularity == "component":
        return Region(role.component)
    if role.layer is None:
        return Region(role.component, role.kind)
    return Region(role.component, role.kind, band_of(role.layer, counts[role.component], bands))


def band_of(layer: int, count: int, bands: int) -> tuple[int, int]:
    """The run of layers that a layer is in, of `count` layers cut into `bands` runs as equal as can be.

    >>> [band_of(i, 6, 4) for i in range(6)]
    [(0, 1), (1, 3), (1, 3), (3, 4), (4, 6), (4, 6)]
    """
    # edges by whole-number division: no rounding decides which band a layer is in
    bands = min(bands, count)
    edges = [i * count // bands for i in range(bands + 1)]
    first = max(edge for edge in edges[:-1] if edge <= layer)
    return first, edges[edges.index(first) + 1]


def starting_weights(plan: Plan, groups: Groups) -> list[list[float]]:
    """The recipe's weights, [task][group]: in each group the mean over its tensors."""
    sums = [[0.0] * len(groups.every) for _ in groups.tasks]
    counts = [0] * len(groups.every)
    for name, group in groups.of.items():
        counts[group] += 1
        for task, value in enumerate(coefficients_of(plan.variant().tensors[name])):
            sums[task][group] += value
    return [[total / counts[group] for group, total in enumerate(row)] for row in sums]


def check_plan(plan: Plan) -> None:
    """Refuse a merge that is no weighted sum of task vectors on a model that lies in a directory."""
    recipe, problems = plan.recipe.recipe, []
    if recipe.models is None or len(plan.variants) != 1 or plan.variants[0].name:
        problems.append("calibration takes the plain form of a recipe: base_model and models, one output")
    # `exclude`d tensors and what no training changes have none, and keep the base's values
    steps = [t.steps for t in plan.tensors() if t.steps]
    if not steps:
        problems.append("no tensor is merged: there is nothing to weigh")
    # a list that is empty is linear too; it is told above
    linear = all(len(s) == 1 and s[0].definition.linear and s[0].definition.space == "deltas" for s in steps)
    if not linear:
        method = plan.variants[0].method
        problems.append(f"{method} is no weighted sum of task vectors: write merge_method: task_arithmetic")
    problems += _base_problems(plan)
    if problems:
        raise PlanError(problems, source=plan.recipe.source)


def _base_problems(plan: Plan) -> list[str]:
    if plan.base is None:
        return ["task vectors are differences to a base_model, which the recipe does not name"]
    base, reference = plan.models[plan.base], plan.references[plan.base]
    # transformers loads the base from its directory, and would know nothing of what is planned on top of it
    if base.method or reference.adapter is not None or reference.given is not None:
        return [f"base_model: {base.label} is a merge or has an adapter on it: merge it into a model first"]
    own = set(base.paths.values())
    stored = all(isinstance(t, FileTensor) and t.file.path in own for t in base.checkpoint.values())
    if base.directory is None or not stored:
        return [f"base_model: {base.label} is no model directory in transformers' form (chorus import makes one)"]
    return []


def labels_of(plan: Plan, groups: Groups) -> list[str]:
    """What the merged models are called, in the order of the tasks."""
    return [plan.references[model].name for model in groups.tasks]


def not_as_calibrated(plan: Plan, groups: Groups, weights: Sequence[Sequence[float]]) -> list[str]:
    """The tensors of a plan whose coefficients are not the calibrated ones: none, where a recipe says all of them."""
    tensors = plan.variant().tensors
    return [
        name for name, group in groups.of.items()
        if any(abs(a - row[group]) > 1e-12 for a, row in zip(coefficients_of(tensors[name]), weights, strict=True))
    ]  # fmt: skip
