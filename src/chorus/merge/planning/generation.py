"""Whose generation settings the result takes. For Whisper they are half the model: languages, tasks, suppress lists."""

from __future__ import annotations

from chorus.checkpoints.model import Model
from chorus.checkpoints.reference import parse_reference
from chorus.errors import nearest
from chorus.files import present, read_json
from chorus.merge.planning.inputs import Inputs

# By these a Whisper writes another language, task or text; beams and lengths are for whoever decodes to set.
SHOWN = (
    "lang_to_id",
    "task_to_id",
    "language",
    "task",
    "suppress_tokens",
    "begin_suppress_tokens",
    "no_timestamps_token_id",
    "max_initial_timestamp_index",
    "return_timestamps",
    "forced_decoder_ids",
    "alignment_heads",
    "eos_token_id",
    "pad_token_id",
)


def generation_config(model: Model) -> dict[str, object]:
    """The model's generation settings; empty where it has none."""
    if model.generation is not None:
        return model.generation
    path = model.directory / "generation_config.json" if model.directory else None
    return read_json(path) if path is not None and present(path) else {}


def settings(request: object, inputs: Inputs) -> tuple[dict[str, object] | None, list[str], list[str]]:
    """(the result's generation settings, differences between the inputs, problems).

    `request` is the recipe's `generation`: {source: MODEL, overrides: {...}}, both optional. The donor's settings
    are taken otherwise. None where there are no settings at all.
    """
    problems: list[str] = []
    chosen = inputs.donor
    overrides: dict[str, object] = {}
    if request is not None:
        if not isinstance(request, dict):
            return None, [], ["generation: a map with source and overrides"]
        for key in set(request) - {"source", "overrides"}:
            problems.append(f"generation.{key}: unknown key{nearest(str(key), ('source', 'overrides'))}")
        overrides = request.get("overrides") or {}
        if not isinstance(overrides, dict):
            problems.append("generation.overrides: a map of generation settings")
            overrides = {}
        if request.get("source") is not None:
            try:
                # both calls refuse by ValueError: what is no reference, and what is none of the recipe's
                chosen = inputs.references.index(parse_reference(request["source"]))
            except ValueError:
                problems.append(f"generation.source: {request['source']} is not one of the models")
    configs = [generation_config(m) for m in inputs.models]
    result = {**configs[chosen], **overrides}
    result.pop("forced_decoder_ids", None) if result.get("lang_to_id") else None  # superseded; breaks newer runtimes
    return result or None, _differences(inputs, configs, chosen), problems


def _differences(inputs: Inputs, configs: list[dict[str, object]], chosen: int) -> list[str]:
    found = []
    taken = inputs.models[chosen].label
    for i, config in enumerate(configs):
        if i == chosen:
            continue
        for key in SHOWN:
            mine, theirs = configs[chosen].get(key), config.get(key)
            if mine != theirs:
                found.append(
                    f"{key}: {inputs.models[i].label} has {_short(theirs)}, the result {_short(mine)} from {taken}"
                )
    return found


def _short(value: object) -> str:
    if isinstance(value, dict | list) and len(value) > 6:
        return f"{len(value)} entries"
    return repr(value) if value is not None else "none"
