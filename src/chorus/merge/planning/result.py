"""Whether the result is a model: its tensors beside what a reader of its config will look for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.adapted import same_tensor
from chorus.checkpoints.dtypes import FLOATS
from chorus.checkpoints.model import Model
from chorus.errors import some
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.plain import JsonMap


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


def left_statistics(tensors: Mapping[str, TensorPlan], models: Sequence[Model]) -> list[str]:
    """A warning where running means and variances (of batch norms) are one model's, though the weights are several's.

    They are measured on what the layers before them give out, which no arithmetic on weights knows.
    """
    if not any(len(t.inputs) + (t.base is not None) > 1 for t in tensors.values()):  # stacked, each layer as it was
        return []
    kept = [t for t in tensors.values() if t.role.kind == "statistics" and t.dtype in FLOATS and not t.steps]
    others: list[tuple[int, str]] = []
    for tensor in kept:
        (which,) = tensor.inputs
        own = models[which.model].checkpoint[which.tensor]
        theirs = [model.checkpoint.get(which.tensor) for model in models]
        if any(one is not None and not same_tensor(one, own) for one in theirs):
            others.append((which.model, tensor.name))
    if not others:
        return []
    names, owner = some([name for _, name in others]), models[others[0][0]].label
    return [
        f"{names}: running statistics are not merged, they are those of {owner}; measure them anew, by letting the "
        "result hear recordings in training mode"
    ]
