"""What is said of a recipe in public: itself, without paths of this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chorus.checkpoints.reference import Reference, parse_reference, public_name


def public_document(value: Any, references: Sequence[Reference] = (), key: str = "") -> Any:
    """A recipe's document as given, with local paths shortened as `references` name them; `key` is a value's place."""
    if isinstance(value, dict):
        return {k: public_document(v, references, str(k)) for k, v in value.items()}
    if isinstance(value, list):
        return [public_document(v, references, key) for v in value]
    value = str(value) if isinstance(value, Path) else value
    # a plan or a model that was given in Python in a model's place
    if isinstance(getattr(value, "label", None), str):
        return value.label
    if isinstance(value, str) and key in ("model", "base_model", "lora", "path", "source", "tokenizer_source"):
        try:
            return _named(parse_reference(value), references) if key != "path" else public_name(value)
        except ValueError:
            return value
    return value


def _named(reference: Reference, references: Sequence[Reference]) -> str:
    """What a reference is called among those of its recipe."""
    adapters = [one.adapter for one in references if one.adapter is not None]
    bases = [one.without_adapter for one in references]
    known = next((one for one in [*references, *bases, *adapters] if one == reference), reference)
    return known.name
