"""What is said of a plan in public: licences, the recipe without paths of this machine, parameters as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chorus.checkpoints.reference import parse_reference, public_name
from chorus.merge.arithmetic.tensor_plan import TensorPlan
from chorus.merge.method import Value


def public_document(value: Any, key: str = "") -> Any:
    """A recipe's document as given, with local paths shortened to their last part; `key` is where a value stands."""
    if isinstance(value, dict):
        return {k: public_document(v, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [public_document(v, key) for v in value]
    value = str(value) if isinstance(value, Path) else value
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
