"""What is said of a plan in public: licences, the recipe without paths of this machine, parameters as plain values."""

from __future__ import annotations

from typing import Any

from chorus.checkpoints.reference import parse_reference, public_name
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.method import Value
from chorus.merge.plan import Plan


def public_document(plan: Plan, value: Any = None, key: str = "") -> Any:
    """The recipe as given, with local paths shortened to their last part."""
    # at the top only: a null within the recipe is a value
    value = plan.recipe.document if value is None and not key else value
    if isinstance(value, dict):
        return {k: public_document(plan, v, str(k)) if v is not None else None for k, v in value.items()}
    if isinstance(value, list):
        return [public_document(plan, v, key) if v is not None else None for v in value]
    # a plan or a model that was given in Python in a model's place
    if isinstance(getattr(value, "label", None), str):
        return value.label
    if isinstance(value, str) and key in ("model", "base_model", "lora", "path", "source", "tokenizer_source"):
        try:
            return parse_reference(value).name if key != "path" else public_name(value)
        except ValueError:
            return value
    return value


def plain_parameters(tensor: TensorPlan) -> dict[str, Value | list[Value]]:
    """A tensor's parameters under the names that a recipe uses, `PerModel` ones as lists."""
    return {k.rstrip("_"): list(v) if isinstance(v, tuple) else v for k, v in tensor.parameters.items()}
