"""Whether the inputs' configs say the same of what no shape shows: heads, activations, rotary positions, norms.

The result has the donor's config. Weights that were trained under another one fit it as far as the two agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from itertools import islice

from chorus.checkpoints.model import Model
from chorus.plain import JsonMap


def _any_of(*patterns: str) -> re.Pattern[str]:
    # one expression for all: somebody's config may have ten thousand keys
    return re.compile("|".join(map(translate, patterns)))


# Refused: the same numbers in the same places would be cut, or bent, another way.
STRUCTURE = _any_of(
    "*attention_heads", "*kv_heads", "num_key_value_heads", "n_head", "n_heads", "num_heads", "head_dim", "*_head_dim",
    "*activation_function", "*_act", "*act_fn", "hidden_activation", "feat_extract_activation", "conv_stride",
    "conv_kernel", "do_stable_layer_norm", "feat_extract_norm", "position_embedding_type", "parallel_attn",
    "use_parallel_residual", "scale_embedding", "multi_query", "alibi", "normalize_before", "encoder_layer_norm_type",
)  # fmt: skip
# Not told: what a training, a saving or a decoding sets, what the shapes show, and what is compared elsewhere.
HARMLESS = _any_of(
    "_*", "architectures", "auto_map", "dtype", "torch_dtype", "model_type", "transformers_version", "*_version",
    "use_cache", "*drop*", "gradient_checkpointing", "*init_*", "*initializer*", "init_std", "*loss*", "mask_*",
    "apply_spec_augment", "output_*", "return_dict*", "use_return_dict", "torchscript", "pruned_heads", "problem_type",
    "finetuning_task", "task_specific_params", "tokenizer_class", "processor_class", "*attn_implementation*", "tie_*",
    "unsloth*", "quantization_config", "vocab_size", "forced_*", "suppress_tokens", "begin_suppress_tokens",
    "max_length", "min_length", "max_new_tokens", "num_beams", "do_sample", "temperature", "top_k", "top_p",
    "early_stopping", "length_penalty", "*repetition_penalty", "no_repeat_ngram_size", "num_return_sequences",
    "bad_words_ids", "prefix", "chunk_size_feed_forward", "pretraining_tp", "name_or_path", "trust_remote_code",
    "freeze_*", "median_filter_width", "num_layers", "*hidden_layers", "encoder_layers", "decoder_layers", "n_layer",
    "router_aux*", "use_bfloat16", "remove_invalid_values", "transformers_weights", "rope_theta", "rope_scaling",
    "rope_parameters", "partial_rotary_factor",
)  # fmt: skip
SMOOTH = ("gelu", "gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh", "gelu_accurate")  # within a thousandth
ROPE, THETA = "rotary positions", 10_000.0  # what a config means that names no base
MAPS = ("id2label", "label2id")
WHOLE = (*MAPS, "rope_scaling", "rope_parameters", "quantization_config")  # no configs of a part
SHOWN = 8  # differences of a model; more are another model
DEPTH = 6  # of configs within configs; real ones have three


@dataclass
class Apart:
    """What two configs say otherwise: by key, the model's value and the donor's."""

    structure: dict[str, tuple[object, object]] = field(default_factory=dict)
    other: dict[str, tuple[object, object]] = field(default_factory=dict)


def check_configs(donor: Model, model: Model, *, stacked: bool, where: str) -> tuple[list[str], list[str]]:
    """(problems, warnings) of a model whose config differs from the donor's; `stacked` layers count otherwise.

    `where`: where a reader finds the donor's config, such as "the result, from base".
    """
    if model.config == donor.config:
        return [], []
    found = apart(model.config, donor.config, stacked=stacked)
    problems = [
        f"{model.label} has {key} {_short(theirs)} in its config, {donor.label} {_short(mine)}: their weights are of "
        "the same shapes, but for different arithmetic"
        for key, (theirs, mine) in islice(found.structure.items(), SHOWN)
    ]
    told = [f"{key} {_short(theirs)}, not {_short(mine)}" for key, (theirs, mine) in found.other.items()]
    told = [*told[:SHOWN], f"{len(told) - SHOWN} more keys otherwise"] if len(told) > SHOWN else told
    if not told:
        return problems, []
    return problems, [f"the config of {model.label} has {'; '.join(told)} as in {where}"]


def apart(theirs: JsonMap, mine: JsonMap, *, stacked: bool) -> Apart:
    """Compare two configs. A key that one of them lacks has a default that is not known here, and is passed over."""
    found = Apart()
    for path, one, other in _sections(theirs, mine):
        for key in sorted({*one} & {*other}, key=str):
            values = one[key], other[key]
            if values[0] == values[1] or (isinstance(values[0], dict) and key not in MAPS) or HARMLESS.match(key):
                continue
            if stacked and any(isinstance(value, list) for value in values):  # one element a layer, it may be
                continue
            if key in DERIVED:  # below, whether they are written or not
                continue
            where = found.structure if STRUCTURE.match(key) and not _alike(*values) else found.other
            where[f"{path}{key}"] = values
        _compare_rope(found, path, one, other)
        for key, values in _derived(one, other).items():
            if values[0] != values[1]:
                found.structure.setdefault(f"{path}{key}", values)
    return found


def _sections(theirs: JsonMap, mine: JsonMap, path: str = "") -> Iterator[tuple[str, JsonMap, JsonMap]]:
    """A config and those within it, where both have them."""
    yield path, theirs, mine
    for key, value in theirs.items():
        other = mine.get(key)
        if not isinstance(value, dict) or not isinstance(other, dict) or key in WHOLE:
            continue
        if path.count(".") < DEPTH:
            yield from _sections(value, other, f"{path}{key}.")


def _derived(one: JsonMap, other: JsonMap) -> dict[str, tuple[object, object]]:
    """Numbers of heads that a config may leave to transformers, where both have or imply one."""
    found = {key: (derive(one), derive(other)) for key, derive in DERIVED.items() if key in one or key in other}
    return {key: values for key, values in found.items() if None not in values}


def _kv_heads(config: JsonMap) -> object:
    return config.get("num_key_value_heads") or config.get("num_attention_heads")


def _head_dim(config: JsonMap) -> object:
    size, heads = config.get("hidden_size"), config.get("num_attention_heads")
    derived = size // heads if isinstance(size, int) and isinstance(heads, int) and heads > 0 else None
    return config.get("head_dim") or derived


DERIVED = {"num_key_value_heads": _kv_heads, "head_dim": _head_dim}


def _compare_rope(found: Apart, path: str, one: JsonMap, other: JsonMap) -> None:
    theirs, mine = _rope(one), _rope(other)
    if theirs is None or mine is None or theirs == mine:
        return
    keys = [key for key in sorted({*theirs} | {*mine}) if theirs.get(key) != mine.get(key)]
    found.other[f"{path}{ROPE}"] = ({k: theirs.get(k) for k in keys}, {k: mine.get(k) for k in keys})


def _rope(config: JsonMap) -> dict[str, object] | None:
    """Base and scaling of the rotary positions, in one form for the keys of transformers 4 and 5; None without them."""
    scaling = config.get("rope_scaling") or config.get("rope_parameters") or {}  # in transformers 5's order
    if not isinstance(scaling, dict) or not ("rope_theta" in config or scaling):
        return None
    if any(isinstance(value, dict) for value in scaling.values()):  # by the kind of layer: as it is written
        return dict(scaling)
    found = {k: v for k, v in scaling.items() if k not in ("rope_type", "type") and v is not None}
    if config.get("partial_rotary_factor") is not None:
        found.setdefault("partial_rotary_factor", config["partial_rotary_factor"])
    # mrope and default are told apart by their sections alone
    kind = scaling.get("rope_type", scaling.get("type")) or "default"
    found["rope_type"] = "default" if kind == "mrope" else kind
    top = config.get("rope_theta")
    base = found.get("rope_theta", top)
    found["rope_theta"] = float(base) if isinstance(base, int | float) else THETA
    if top not in (None, found["rope_theta"]):  # transformers 5 passes over it, others go by it
        found["rope_theta outside rope_parameters"] = top
    return found


def _alike(one: object, other: object) -> bool:
    """Two names of one activation, or of two that give all but the same values; None stands for an unknown default."""
    return None in (one, other) or (one in SMOOTH and other in SMOOTH) or {str(one), str(other)} == {"silu", "swish"}


def _short(value: object) -> str:
    if isinstance(value, dict) and len(value) <= 4 and not any(isinstance(v, dict | list) for v in value.values()):
        return " ".join(f"{key} {_short(one)}" for key, one in value.items())
    if isinstance(value, dict | list) and len(value) > 6:
        return f"of {len(value)} entries"
    return "none" if value is None else str(value)
