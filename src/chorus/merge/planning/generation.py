"""Whose generation settings the result takes. For Whisper they are half the model: languages, tasks, suppress lists."""

from __future__ import annotations

from chorus.checkpoints.reference import parse_reference
from chorus.checkpoints.vocabulary import vocabulary_of
from chorus.errors import nearest, some
from chorus.merge.planning.inputs import Inputs
from chorus.models.generation import completed, generation_config

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


def settings(request: object, inputs: Inputs) -> tuple[dict[str, object] | None, list[str], list[str]]:
    """(the result's generation settings, differences between the inputs, problems).

    `request` is the recipe's `generation`: {source: MODEL, overrides: {...}}, both optional. Otherwise the donor's
    settings are taken, or those of the first model that has some. None where there are no settings at all.
    """
    source, overrides, problems = _requested(request, inputs)
    written = [generation_config(model) for model in inputs.models]
    chosen = inputs.donor if source is None else source
    if source is None and not written[chosen]:
        chosen = next((i for i, one in enumerate(written) if one), chosen)
        if chosen != inputs.donor:
            inputs.warnings.append(
                f"{inputs.models[inputs.donor].label} has no generation_config.json: the result takes "
                f"{inputs.models[chosen].label}'s"
            )
    configs = [_whole(inputs, i, one) if i == chosen or not one else one for i, one in enumerate(written)]
    if configs[chosen] and not written[chosen]:
        inputs.warnings.append(
            f"{inputs.models[chosen].label} has no generation_config.json: the result's is made of its config and "
            "tokenizer"
        )
    result = {**configs[chosen], **overrides}
    result.pop("forced_decoder_ids", None) if result.get("lang_to_id") else None  # superseded; breaks newer runtimes
    told = [_difference(inputs, configs, i, chosen, bare=not written[i]) for i in range(len(configs)) if i != chosen]
    return result or None, [line for line in told if line], problems


def _requested(request: object, inputs: Inputs) -> tuple[int | None, dict[str, object], list[str]]:
    """(the model that the recipe names, its overrides, problems)."""
    if request is None:
        return None, {}, []
    if not isinstance(request, dict):
        return None, {}, ["generation: a map with source and overrides"]
    problems = []
    for key in set(request) - {"source", "overrides"}:
        problems.append(f"generation.{key}: unknown key{nearest(str(key), ('source', 'overrides'))}")
    overrides = request.get("overrides") or {}
    if not isinstance(overrides, dict):
        problems.append("generation.overrides: a map of generation settings")
        overrides = {}
    source = None
    if request.get("source") is not None:
        try:
            # both calls refuse by ValueError: what is no reference, and what is none of the recipe's
            source = inputs.references.index(parse_reference(request["source"]))
        except ValueError:
            problems.append(f"generation.source: {request['source']} is not one of the models")
    return source, overrides, problems


def _whole(inputs: Inputs, i: int, written: dict[str, object]) -> dict[str, object]:
    """A model's settings with what its kind derives from config and tokenizer, where they lack it."""

    def ids() -> dict[str, int]:
        tokenizer = inputs.donor if inputs.tokenizer is None else inputs.tokenizer
        found = vocabulary_of(inputs.beside[i].carried) or vocabulary_of(inputs.beside[tokenizer].carried)
        return found.ids if found else {}

    return completed(inputs.models[i].config, written, ids)


def _difference(inputs: Inputs, configs: list[dict[str, object]], i: int, chosen: int, *, bare: bool) -> str:
    """What another model's settings say otherwise, in a line; empty where it is nothing."""
    mine, theirs = configs[chosen], configs[i]
    # of a model without settings what its config states: that it lacks the rest is told by a word
    keys = [key for key in SHOWN if theirs.get(key) != mine.get(key) and not (bare and theirs.get(key) is None)]
    parts = [f"{key} {_apart(theirs.get(key), mine.get(key))}" for key in keys]
    if not parts:
        return ""
    own = " (no generation_config.json)" if bare else ""
    return f"{inputs.models[i].label}{own} has {'; '.join(parts)}; the result has {inputs.models[chosen].label}'s"


def _apart(theirs: object, mine: object) -> str:
    """A value, and what the result has in its place; of two maps the keys that differ."""
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = sorted(str(k) for k in {*theirs, *mine} if theirs.get(k) != mine.get(k))
        return f"with other {some(keys, 4)}"
    return f"{_short(theirs)}, not {_short(mine)}"


def _short(value: object) -> str:
    if isinstance(value, dict | list) and len(value) > 6:
        return f"{len(value)} entries"
    return repr(value) if value is not None else "none"
