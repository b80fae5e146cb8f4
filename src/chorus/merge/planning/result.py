"""Whether the result is a model: its tensors beside what a reader of its config will look for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.adapted import same_tensor
from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor
from chorus.checkpoints.model import Model
from chorus.errors import some
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.plain import JsonMap

# what is said of tensors that are one model's by the kind of their role (see chorus.architectures.roles.KEPT)
LEFT = {
    "statistics": "running statistics are not merged, they are those of {}; measure them anew, by letting the result "
    "hear recordings in training mode",
    "position": "computed positions are not merged, they are those of {}; another model has other values, as if they "
    "had been trained",
}
BEGINNING = 1 << 14  # values that are compared: a training changes every row


def check_result(config: JsonMap, tensors: Mapping[str, TensorPlan], donor: Model) -> list[str]:
    """What would load with random values, not at all, or in another shape; each as a sentence for the recipe's user.

    Of an architecture that nobody knows nothing is found.
    """
    try:
        inventory = inventory_of(config, tensors)
    except ValueError as error:
        return [f"the result's config.json: {error}"] if donor.known_as else []
    review = inventory.review({name: tensor.shape for name, tensor in tensors.items()})
    problems = []
    if review.missing:
        problems.append(
            f"the result would lack {some(review.missing)}, which its config.json calls for: layers of another kind "
            "stand where these belong, or a setting of the config does not follow the layers"
        )
    if review.foreign:
        problems.append(
            f"the result's config.json would not call for {some(review.foreign)}: whoever loads it drops them"
        )
    for name, shape, wanted in review.misshapen[:3]:
        problems.append(f"{name} would have the shape {list(shape)}, by the result's config.json it is {list(wanted)}")
    return problems


def left_alone(tensors: Mapping[str, TensorPlan], models: Sequence[Model]) -> list[str]:
    """A warning where what is computed or measured is one model's and others have other values, though weights merge.

    Running means and variances (of batch norms) are measured on what the layers before them give out, which no
    arithmetic on weights knows. Positions are computed, and differ only where somebody trained them all the same.
    """
    if not any(len(t.inputs) + (t.base is not None) > 1 for t in tensors.values()):  # stacked, each layer as it was
        return []
    kept = [t for t in tensors.values() if not t.role.merged and t.dtype in FLOATS and not t.steps]
    found: dict[str, list[tuple[int, str]]] = {kind: [] for kind in LEFT}
    for tensor in kept:
        (which,) = tensor.inputs
        own = models[which.model].checkpoint[which.tensor]
        theirs = [one for one in (model.checkpoint.get(which.tensor) for model in models) if one is not None]
        apart = _begin_apart if tensor.role.kind == "position" else _stored_apart
        if any(apart(one, own) for one in theirs):
            found[tensor.role.kind].append((which.model, tensor.name))
    return [
        f"{some([name for _, name in left])}: {LEFT[kind].format(models[left[0][0]].label)}"
        for kind, left in found.items() if left
    ]  # fmt: skip


def _stored_apart(one: LazyTensor, own: LazyTensor) -> bool:
    return not same_tensor(one, own)


def _begin_apart(one: LazyTensor, own: LazyTensor) -> bool:
    """Whether two files' first values differ; of two types they would by rounding alone."""
    if not (isinstance(one, FileTensor) and isinstance(own, FileTensor) and one.dtype == own.dtype):
        return False
    count = min(BEGINNING, math.prod(one.shape), math.prod(own.shape))
    return bool((one.bytes(0, count) != own.bytes(0, count)).any())
