"""One stage as a recipe of two: the merge x of t models, and the model y that is added.

    fta        x t / (t + 1) + y / (t + 1)           so that all t + 1 count alike, in whatever order they came
    weighted   alpha (l x + (1 - l) y)
    opcm       (s x + P(y)) / s'                     P, s and s' as below

opcm holds the sum S of what was added, divided by s = |S| / mean |y_i| (norms over the whole model), so that the merge
is as far from the base as the models are. P takes from y what would change x's directions (chorus.merge.methods.opcm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from chorus.checkpoints.adapted import same_tensor
from chorus.checkpoints.reference import Reference
from chorus.continual.facts import KEY, ContinualFacts, StageFacts, plain
from chorus.continual.settings import Continuing
from chorus.continual.state import Added, Merged
from chorus.errors import MisfitError
from chorus.linalg.low_rank import LowRank, inner
from chorus.linalg.ranks import RankRule
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.options import Options
from chorus.merge.plan import Plan
from chorus.merge.planning.planner import plan as make_plan
from chorus.merge.runs.as_adapter import run_as_adapter
from chorus.merge.runs.engine import run
from chorus.merge.runs.local import spread
from chorus.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

Recipe = dict[str, object]


@dataclass(frozen=True)
class Multipliers:
    """What x and y are multiplied by."""

    state: float
    new: float

    @classmethod
    def of_mean(cls, count: int) -> Multipliers:
        """The running average after `count` models.

        >>> Multipliers.of_mean(0), Multipliers.of_mean(3)
        (Multipliers(state=0.0, new=1.0), Multipliers(state=0.75, new=0.25))
        """
        return cls(count / (count + 1), 1 / (count + 1))

    @classmethod
    def of_share(cls, share: float, alpha: float, count: int) -> Multipliers:
        """alpha (l x + (1 - l) y); where there is no x yet, y."""
        return cls(alpha * share, alpha * (1 - share)) if count else cls(0.0, 1.0)


def recipe_of_stage(
    begun: Merged, added: Added, weights: Multipliers, settings: Continuing, scale: float = 1.0
) -> Recipe:
    """What `chorus merge` would be given for this stage."""
    models = [] if begun.reference is None else [_entry(begun.reference, weights.state)]
    parameters: Recipe = {}
    if settings.method == "opcm":
        # the sum is scaled as a whole, which a recipe says as lambda; what is no matrix is summed as matrices are
        parameters = {"alpha": settings.protect, "lambda": 1 / scale, "vectors": "sum"}
    return {
        "merge_method": "opcm" if settings.method == "opcm" else "task_arithmetic",
        "base_model": _named(begun.base),
        "models": [*models, _entry(added.reference, weights.new)],
        "parameters": parameters,
        "out_dtype": settings.dtype,
    }


def _entry(reference: Reference, weight: float) -> Recipe:
    above = {"lora": _named(reference.adapter)} if reference.adapter else {}
    return {"model": _named(reference.without_adapter), **above, "parameters": {"weight": weight}}


def _named(reference: Reference) -> object:
    """As a recipe has it: what was given in Python itself, else a map, which paths with any sign in them survive."""
    if reference.given is not None:
        return reference.given.source
    return {"path": reference.path, "revision": reference.revision} if reference.revision else reference.path


def opcm_stage(begun: Merged, added: Added, settings: Continuing, options: Options) -> tuple[Multipliers, float, float]:
    """What x and y are multiplied by, what the sum is divided by, and |y|: one pass over all tensors."""
    stages = begun.facts.stages
    norms = [stage.norm for stage in stages]
    if begun.facts.earlier or None in norms:
        raise MisfitError(
            "not all models of the merge were added by opcm, which needs the norm of each",
            "go on with --method fta or weighted, or begin again at the base with --method opcm",
        )
    # the state is the sum divided by this: multiplied back, the next model is added to the sum itself
    before = stages[-1].scale or 1.0 if stages else 0.0
    weights = Multipliers(before, 1.0)
    whole, new = _norms(make_plan(recipe_of_stage(begun, added, weights, settings), options))
    known = [float(norm or 0) for norm in norms] + [new]
    mean = sum(known) / len(known)
    return weights, (whole / mean if whole and mean else 1.0), new


def _norms(plan: Plan) -> tuple[float, float]:
    """Frobenius norms over the whole model of the plan's merged delta, and of its last model's."""
    assert plan.base is not None
    last = plan.base - 1  # the base comes after the models

    def stays(tensor: TensorPlan) -> bool:
        every = [plan.models[i.model].checkpoint[i.tensor] for i in tensor.all_inputs]
        return all(same_tensor(one, every[0]) for one in every)

    # what nobody changes (of adapters, most of the model) is not read
    changed = [t for t in plan.variant().tensors.values() if t.steps and not stays(t)]

    def one(tensor: TensorPlan) -> tuple[float, float]:
        with plan.session.in_thread():
            return _squares(plan, tensor, last)

    with plan.session.computing():
        found = spread(changed, one, threads=plan.session.threads)
    return sum(a for a, _ in found) ** 0.5, sum(b for _, b in found) ** 0.5


def _squares(plan: Plan, tensor: TensorPlan, last: int) -> tuple[float, float]:
    """Of one tensor the squared norms of the merged delta and of the last model's."""
    plan.session.reader().start()
    work = plan.session.computation(tensor)
    operands = work.steps[0].operands
    # a model may lack a tensor that others have
    place = next((i for i, which in enumerate(tensor.inputs) if which.model == last), None)
    if tensor.steps[-1].treatment == MATRIX:
        own = 0.0 if place is None else _square(operands.matrix(place, factors=True))
        merged = _square(work.merged_delta())
        # as large as the tensor, and wanted once
        for step in work.steps:
            step.release()
        return merged, own
    merged = own = 0.0
    work.prepare()
    for start, stop in work.ranges():
        merged += _square(work.merged_values(start, stop))
        own += 0.0 if place is None else _square(operands.values(start, stop)[place])
    return merged, own


def _square(x: Tensor | LowRank) -> float:
    # of factors without their product; rounding may leave a small square below zero
    return max(inner(x, x), 0.0) if isinstance(x, LowRank) else float(x.double().square().sum())


def merge_stage(
    recipe: Recipe, facts: ContinualFacts, output: Path, options: Options, progress: Progress
) -> tuple[list[str], str]:
    """Write the stage that `facts` end in; returns warnings, and in a clause what was written."""
    stage: StageFacts = facts.stages[-1]
    planned = make_plan(recipe, options)
    # written together with the weights: a state without provenance is none
    planned.facts = {KEY: plain(facts)}
    if stage.form == "model":
        made = run(planned, output, progress)
        return [*planned.warnings, *made.warnings], f"{made.tensors} tensors"
    found = run_as_adapter(planned, output, RankRule(energy=stage.energy), progress, work=facts.asked)
    ranks = [module.rank for module in found.modules]
    told = f"{len(ranks)} modules, rank {min(ranks)} to {max(ranks)}" if ranks else "no module"
    return [*planned.warnings, *found.warnings], f"{told}, {found.parameters:,} parameters"


def facts_after(
    begun: Merged, added: Added, settings: Continuing, weights: Multipliers, identity: str, asked: str, **more: object
) -> ContinualFacts:
    """What is to be said of the merge with the new model in it; `more` are facts of the stage."""
    form = form_of(settings, begun, added)
    stage: Mapping[str, object] = {
        "model": added.name, "identity": identity, "method": settings.method, "weight": weights.new,
        "state_weight": weights.state, "form": form, "energy": settings.energy if form == "adapter" else None, **more,
    }  # fmt: skip
    whole = begun.facts.model_dump()
    return ContinualFacts.model_validate({**whole, "stages": [*whole["stages"], stage], "asked": asked})


def form_of(settings: Continuing, begun: Merged, added: Added) -> str:
    """Whether an adapter or a model is written."""
    if settings.form != "auto":
        return settings.form
    return "adapter" if begun.adapter and added.adapter else "model"
