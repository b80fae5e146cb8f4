"""A model's generation settings: as they are written, and whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from chorus.checkpoints.model import Model
from chorus.files import present, read_json
from chorus.models.registry import kind_of
from chorus.plain import JsonMap, JsonObject


def generation_config(model: Model) -> JsonObject:
    """The model's generation settings; empty where it has none."""
    if model.generation is not None:
        return model.generation
    path = model.directory / "generation_config.json" if model.directory else None
    return read_json(path) if path is not None and present(path) else {}


def completed(config: JsonMap, written: JsonObject, ids: Callable[[], Mapping[str, int]]) -> JsonObject:
    """Settings with what the model's kind derives from config and tokenizer, where they lack it.

    `ids` are asked for only where something is missing: reading a vocabulary takes longer than all else here.
    """
    if "lang_to_id" in written or written.get("is_multilingual") is False:  # one that knows its languages is whole
        return written
    kind = kind_of(config)
    if kind is None or kind.generation is None:
        return written
    return kind.generation(config, written, ids())
