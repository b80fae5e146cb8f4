"""What a weighted sum multiplies each model's tensor by."""

from __future__ import annotations

from chorus.linalg.native import Terms
from chorus.merge.arithmetic.tensor_plan import TensorPlan


def has_coefficients(tensor: TensorPlan) -> bool:
    """Whether a tensor is summed with a number for each model, which no value of a tensor decides."""
    if len(tensor.steps) != 1 or tensor.auxiliary:
        return False
    method = tensor.steps[0].definition
    # nuslerp by rows and model_stock by filters are linear too, and have a number for each row
    return method.linear and method.statistics is None and tensor.steps[0].split(len(tensor.shape)) == "element"


def coefficients_of(tensor: TensorPlan) -> tuple[float, ...]:
    """What a plan multiplies each model's tensor, or its difference to the base, by, where it `has_coefficients`."""
    # asked of the method itself: whatever it makes of lambda and normalize, the coefficients are what it multiplies by
    (step,) = tensor.steps
    own = {"role": tensor.role} if "role" in step.definition.uses else {}
    found: tuple[float, ...] = step.definition.function(Terms(len(tensor.inputs)), **step.parameters, **own)
    return found
