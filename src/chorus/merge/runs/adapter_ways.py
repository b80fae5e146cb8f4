"""Whether and how a plan's result can be an adapter: each tensor's delta in factors, dense, or whole."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Literal

from chorus.architectures.layouts import layout_of
from chorus.checkpoints.adapted import AdaptedTensor, same_tensor
from chorus.checkpoints.lazy_tensor import Checkpoint, LazyTensor
from chorus.checkpoints.model import Model, OpenOptions
from chorus.checkpoints.open import open_model
from chorus.checkpoints.ties import tied_in
from chorus.errors import PlanError
from chorus.linalg.ranks import RankRule
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.arithmetic.treatment import MATRIX
from chorus.merge.plan import Plan, Variant

Way = Literal["none", "linear", "factors", "dense", "whole"]
# Of full fine-tunes. Where an adapter has tuned one of these, as PEFT can an embedding, it has factors already.
NOT_DECOMPOSED = ("norm", "bias", "position", "embedding")


def check_adapter_plan(plan: Plan, rule: RankRule) -> None:
    """Refuse what cannot become an adapter before any work."""
    problems = []
    base = base_of(plan)
    stands = base.checkpoint
    for model in plan.models:
        adapted = [t for t in model.checkpoint.values() if isinstance(t, AdaptedTensor)]
        if not all(_stands_on(t, model, stands) for t in adapted):
            problems.append(f"{model.label}: its adapter stands on another base than {base.label}")
    for variant in plan.variants:
        if _scales_base(plan, variant):
            problems.append(
                f"{variant.method}: weights that do not sum to one scale the base itself, which no adapter holds; "
                "write normalize: true, or use task_arithmetic"
            )
        for tensor in variant.tensors.values():
            if tensor.name not in stands:
                problems.append(f"{tensor.name}: the base has no such tensor; layers cannot be stacked in an adapter")
            # factors of full rank weigh more than the matrix
            elif not rule.given and len(tensor.shape) > 1 and way_of(plan, tensor, stands) == "dense":
                problems.append(
                    f"{variant.method} on {plan.models[tensor.inputs[0].model].label} makes matrices of full rank: "
                    "say --max-rank, --energy or --budget"
                )
    if problems:
        raise PlanError(list(dict.fromkeys(problems)), source=plan.recipe.source)


def base_of(plan: Plan) -> Model:
    """The model that the result stands on: the recipe's base, or the one base of all its adapters."""
    if plan.base is not None:
        return _with_copies(plan.models[plan.base])
    # the recipe names base+adapter each time, so the base by itself is none of the plan's models
    bases = {r.without_adapter for r in plan.references}
    if len(bases) != 1 or any(r.adapter is None for r in plan.references):
        raise PlanError(["an adapter stands on a base: the recipe needs a base_model"], source=plan.recipe.source)
    options = plan.options
    return _with_copies(open_model(bases.pop(), OpenOptions(options.allow_pickle, options.offline, options.cache_dir)))


def _with_copies(model: Model) -> Model:
    """A base that has its tied copies too: to PEFT they are modules by themselves."""
    copies = {name: model.checkpoint[source] for name, source in tied_in(model).items()}
    return replace(model, checkpoint=Checkpoint({**copies, **model.checkpoint}, model.label))


def tied_copies(plan: Plan, variant: Variant, changed: Collection[str]) -> list[tuple[str, TensorPlan]]:
    """(source, copy) of what stays tied to tensors that change: PEFT changes modules, so that the copy is one too."""
    # the donor ties what the result does
    pairs = {name: source for name, source in tied_in(plan.models[plan.donor]).items() if source in changed}
    roles = layout_of(variant.config, [*variant.tensors, *pairs]).roles if pairs else {}
    return [(source, replace(variant.tensors[source], name=name, role=roles[name])) for name, source in pairs.items()]


def way_of(plan: Plan, tensor: TensorPlan, stands: Checkpoint) -> Way:
    """How a tensor's delta comes about: "none" (no model changes it), "linear", "factors", "dense" or "whole"."""
    base = stands[tensor.name]
    stored = [plan.models[i.model].checkpoint[i.tensor] for i in tensor.inputs]
    if not tensor.steps or all(same_tensor(t, base) for t in stored):
        return "none" if same_tensor(stored[0], base) else "whole"
    adapted = [isinstance(t, AdaptedTensor) and same_tensor(t.base, base) for t in stored]
    tuned = any(isinstance(t, AdaptedTensor) for t in stored)
    if len(tensor.shape) < 2 or (not tuned and tensor.role.kind in NOT_DECOMPOSED):
        return "whole"
    if not all(a or same_tensor(t, base) for a, t in zip(adapted, stored, strict=True)):
        return "dense"
    # DoRA's difference has full rank; in its form diag(t) W + L R only linear methods are exact
    scaled = any(isinstance(t, AdaptedTensor) and t.factors.magnitude is not None for t in stored)
    exact = all(same_tensor(t, base) or row_form(t, base) for t in stored)
    if all(s.definition.linear and s.split(len(tensor.shape)) == "element" for s in tensor.steps):
        return "linear" if exact and len(tensor.steps) == 1 else "dense"
    last = tensor.steps[-1]
    return "factors" if last.definition.low_rank and last.treatment == MATRIX and not scaled else "dense"


def row_form(tensor: LazyTensor, base: LazyTensor) -> bool:
    """Whether a tensor is the base's with rows scaled plus low rank (DoRA on transposed weights scales columns)."""
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return False
    plain = len(tensor.shape) == 2 and not (tensor.factors.transposed or tensor.factors.embedding)
    return tensor.factors.magnitude is None or plain


def _stands_on(tensor: AdaptedTensor, model: Model, stands: Checkpoint) -> bool:
    """Whether an adapter's tensor stands on this base, or on a copy of its own in the adapter's file."""
    return model.is_of_adapter(tensor.base) or (tensor.name in stands and same_tensor(tensor.base, stands[tensor.name]))


def _scales_base(plan: Plan, variant: Variant) -> bool:
    """Whether a mean of weights does not sum to one, so that it changes every tensor of the base."""
    for step in (t.steps[0] for t in variant.tensors.values() if t.steps):
        if step.definition.space != "deltas" and step.parameters.get("normalize") is False:
            weights = step.parameters["weight"]
            assert isinstance(weights, tuple)
            # rounding of shares is far smaller; 0.333 three times does scale the base
            return abs(sum(float(w or 0) for w in weights) - 1) > 1e-6
    return False
