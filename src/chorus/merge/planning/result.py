"""Whether the result is a model: its tensors beside what a reader of its config will look for."""

from __future__ import annotations

from collections.abc import Mapping

from chorus.architectures.layouts import inventory_of
from chorus.checkpoints.model import Model
from chorus.checkpoints.names import some
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
