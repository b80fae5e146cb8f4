"""What is said of a plan's parameters in public: plain values."""

from __future__ import annotations

from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.method import Value


def plain_parameters(tensor: TensorPlan) -> dict[str, Value | list[Value]]:
    """A tensor's parameters under the names that a recipe uses, `PerModel` ones as lists."""
    return {k.rstrip("_"): list(v) if isinstance(v, tuple) else v for k, v in tensor.parameters.items()}
