"""What the models of a plan add to each tensor: in factors as far as it is known so, else dense, held or streamed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from chorus.calibrate.groups import Groups
from chorus.checkpoints.adapted import AdaptedTensor, same_tensor
from chorus.errors import PlanError
from chorus.linalg.low_rank import LowRank
from chorus.linalg.spectra import singular_triplets
from chorus.merge.arithmetic.operands import ModelOperands
from chorus.merge.arithmetic.reader import Reader
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.plan import Plan
from chorus.train.live import Deltas, Values

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Kept:
    """How much of the full fine-tunes' matrices is left by a cut to a rank: the squared norms, and what is kept."""

    squares: float = 0.0
    kept: float = 0.0

    @property
    def energy(self) -> float | None:
        return self.kept / self.squares if self.squares else None


def check_bases(plan: Plan) -> None:
    """Refuse adapters that stand on another base than the plan's: what they add to this one is not what was learnt."""
    assert plan.base is not None
    base = plan.models[plan.base]
    for model in plan.models:
        for name, tensor in model.checkpoint.items():
            # on a layer that the adapter's own file replaces (modules_to_save) it stands on nobody's base
            if not isinstance(tensor, AdaptedTensor) or model.is_of_adapter(tensor.base):
                continue
            if name not in base.checkpoint or not same_tensor(tensor.base, base.checkpoint[name]):
                told = f"{model.label}: its adapter stands on another base than {base.label}"
                raise PlanError([told], "name every adapter on the recipe's base_model", plan.recipe.source)


def deltas_of(
    plan: Plan, groups: Groups, *, rank: int | None = None, streamed: bool = False, kept: Kept | None = None
) -> Iterator[Deltas]:
    """The deltas of every merged tensor that some model changes. `rank` cuts those of matrices that are dense.

    Raises `CheckpointError` where a value is not finite.
    """
    for name, group in groups.of.items():
        tensor = plan.variant().tensors[name]
        found = Deltas(name, group, tensor.numel)
        for task in range(len(tensor.inputs)):
            _add(found, tensor, task, plan.session.new_reader(), rank, streamed=streamed, kept=kept or Kept())
        if found.factors or found.dense:
            if found.dense and streamed:
                found.base = _streamed_base(tensor, plan)
            yield found


def _add(
    found: Deltas, tensor: TensorPlan, task: int, reader: Reader, rank: int | None, *, streamed: bool, kept: Kept
) -> None:
    operands = ModelOperands(tensor, reader)
    assert tensor.base is not None
    if same_tensor(reader.tensor(tensor.inputs[task]), reader.tensor(tensor.base)):
        return
    # by the merge's own reader: the same differences, and the same refusal of what is not finite
    delta = operands.matrix(task, factors=True)
    if isinstance(delta, LowRank):
        found.factors[task] = delta.matrix()
    elif rank is not None and min(delta.shape) > rank:
        cut = singular_triplets(delta, rank, projection=True)
        root = cut.values.sqrt()  # half of each value to either factor, so that both stay of one size in bfloat16
        found.factors[task] = LowRank(cut.left * root, (cut.right * root).T, tuple(delta.shape))
        kept.squares += float(delta.double().square().sum())
        kept.kept += float(cut.values.double().square().sum())
    elif not bool(delta.any()):  # a tensor that a training froze, stored again
        return
    elif streamed:
        found.dense[task] = lambda: _whole(operands, task)
    else:
        values = delta.reshape(-1)
        found.dense[task] = lambda: values


def _whole(operands: ModelOperands, task: int) -> Tensor:
    found = operands.matrix(task, factors=False)
    assert not isinstance(found, LowRank)
    return found.reshape(-1)


def _streamed_base(tensor: TensorPlan, plan: Plan) -> Values:
    assert tensor.base is not None
    stored = plan.models[tensor.base.model].checkpoint[tensor.base.tensor]
    return lambda: stored.read().reshape(-1)
