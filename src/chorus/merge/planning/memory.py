"""What a merge takes of memory and of the cache: estimated from shapes alone, before any work."""

from __future__ import annotations

from collections.abc import Sequence

from chorus.checkpoints.adapted import AdaptedTensor
from chorus.checkpoints.model import Model
from chorus.merge.arithmetic.tensor_plan import Step, TensorPlan
from chorus.merge.arithmetic.treatment import MATRIX, matrix_shape
from chorus.merge.method import Demand
from chorus.merge.plan import Footprint


def footprint(tensors: Sequence[TensorPlan], models: Sequence[Model]) -> Footprint:
    """The largest that one thread needs at a time, and the sum of what is worth remembering."""
    return Footprint(
        max((len(t.all_inputs) for t in tensors), default=1),
        max((_whole(t, models) for t in tensors), default=0),
        sum(_remembered(t, models) for t in tensors),
    )


def _whole(tensor: TensorPlan, models: Sequence[Model]) -> int:
    """Bytes of a tensor that a step cannot take in blocks."""
    whole = [step for step, split in zip(tensor.steps, tensor.splits(), strict=True) if split == "tensor"]
    needed = [_matrix_bytes(s, tensor, models) for s in whole if s.treatment == MATRIX]
    if len(needed) < len(whole):
        # each input in float32 and once more in float64, and a result in float64
        needed.append(tensor.numel * 4 * (3 * len(tensor.all_inputs) + 2))
    return max(needed, default=0)


def _matrix_bytes(step: Step, tensor: TensorPlan, models: Sequence[Model]) -> int:
    """Working memory of a subspace method: a delta and the result, Gram matrices in float64, all tasks' bases."""
    demand = _demand(step, tensor, models)
    if step.definition.memory is not None:
        return step.definition.memory(demand)
    rows, columns = demand.shape
    width = min(sum(demand.directions), 2 * min(rows, columns))
    # adapters never become a matrix of the model's size, so that many fit side by side into a small budget
    dense = 0 if demand.in_factors else 12 * rows * columns + 32 * min(rows, columns) ** 2
    return dense + 12 * (rows + columns) * width + 40 * min(width, rows, columns) ** 2


def _remembered(tensor: TensorPlan, models: Sequence[Model]) -> int:
    first = tensor.steps[0] if tensor.steps else None
    if first is None or first.treatment != MATRIX or "memo" not in first.definition.uses:
        return 0
    demand = _demand(first, tensor, models)
    shape, kept = demand.shape, sum(demand.directions)
    return 4 * (sum(shape) * kept + min(shape) * kept + 2 * len(demand.directions) * min(shape))


def _demand(step: Step, tensor: TensorPlan, models: Sequence[Model]) -> Demand:
    """How many singular directions a subspace method keeps of each model, at most, and whether all are in factors."""
    from chorus.merge.methods._subspace import kept_rank

    shape, count, given = matrix_shape(tensor.shape), len(tensor.inputs), step.parameters
    rank, share = given.get("rank"), given.get("rank_fraction")
    assert rank is None or isinstance(rank, int)
    assert share is None or isinstance(share, float)
    kept = [kept_rank(shape, count, rank, share)] * count
    stored = [models[i.model].checkpoint[i.tensor] for i in tensor.inputs]
    adapted = [t.factors if isinstance(t, AdaptedTensor) else None for t in stored]
    for i, factors in enumerate(adapted):
        if factors is not None and factors.a is not None:
            # PiSSA and OLoRA add B A - B0 A0, which has twice the rank
            kept[i] = min(kept[i], factors.a.shape[0] * (2 if factors.start else 1))
    in_factors = all(f is not None and f.magnitude is None for f in adapted)
    return Demand(shape, given, tuple(kept), in_factors)
