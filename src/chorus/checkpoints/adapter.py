"""A PEFT LoRA adapter's directory: factors by module, and the base with them on it.

Names find their places in the base whatever version of transformers has written them; kinds that are not base plus
low rank are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from chorus.checkpoints.adapted import AdaptedTensor, Factors, ShiftedTensor
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.model import Model
from chorus.checkpoints.safetensors_header import read_header
from chorus.errors import CheckpointError
from chorus.files import present, read_json
from chorus.plain import JsonMap, JsonObject

T = TypeVar("T")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
CONVERTED = ("pissa", "olora")  # start from factors of the base, which are computed again
CHANGES_BASE = ("pissa_niter", "lora_ga", "corda", "loftq")  # start from what only the training knew
FACTORS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    # parameters themselves, not modules with a weight
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    # files keep the first form: PEFT turned the parameter into a module and renames on loading and saving
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_B.bias": "bias",
}


@dataclass
class LoraAdapter:
    """What an adapter directory holds: factors by module, and tensors that replace the base's."""

    label: str
    config: JsonObject
    low_rank: dict[str, Factors] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)


def open_adapter(directory: Path, label: str) -> LoraAdapter:
    """Read an adapter directory; kinds that are not base + low rank are refused by name."""
    if not present(directory / CONFIG):
        raise CheckpointError(f"{directory}: not an adapter (no {CONFIG})", "name a directory saved by PEFT")
    if not present(directory / WEIGHTS):
        raise CheckpointError(f"{directory}: no {WEIGHTS}", "save the adapter with safetensors")
    config = read_json(directory / CONFIG)
    _refuse_other_kinds(config, label)
    header = read_header(directory / WEIGHTS)
    file = MappedFile(directory / WEIGHTS)
    adapter = LoraAdapter(label, config)
    for entry in header.entries.values():
        _sort_in(adapter, entry.name, FileTensor(entry, file))
    start = str(config.get("init_lora_weights", "")).lower()
    for module, factors in adapter.low_rank.items():
        factors.start = start if start in CONVERTED and not factors.embedding else ""
        if factors.a is None or factors.b is None:
            raise CheckpointError(f"{label}: module {module} has only one of its two factors", "save the adapter again")
        # the file's rank, not the config's: a `rank_pattern` need not be read for it
        rank = factors.a.shape[0]
        if factors.b.shape[1] != rank:
            raise CheckpointError(
                f"{label}: module {module} has factors of ranks {rank} and {factors.b.shape[1]}",
                "save the adapter again",
            )
        factors.scale = scale_of(config, module, rank)
        # PEFT's embeddings are [tokens, width] whatever this key says: they are turned by `embedding`
        factors.transposed = bool(config.get("fan_in_fan_out")) and not factors.embedding
    return adapter


def scale_of(config: JsonMap, module: str, rank: int) -> float:
    """PEFT's scaling of a module: patterns first, then alpha; over the rank or its square root."""
    # 8: what PEFT takes where a config does not say
    alpha = pattern_value(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def pattern_value(patterns: Mapping[str, T], module: str, default: T) -> T:
    """The value of the first pattern that matches the end of the module's name, as PEFT matches it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):  # in the order of the config: PEFT takes the first that matches
            return value
    return default


def _refuse_other_kinds(config: JsonObject, label: str) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise CheckpointError(
            f"{label}: an adapter of type {kind or 'unknown'}, which is not base + low rank",
            "merge it into its base with PEFT's merge_and_unload, and name the resulting model",
        )
    init = config.get("init_lora_weights")
    # the beginning, because of `pissa_niter_16`: its singular vectors come from a random start
    if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
        raise CheckpointError(
            f"{label}: trained with init_lora_weights={init!r}, which changes the base's weights; against the "
            "original base these factors are not its delta",
            "save it with path_initial_model_for_weight_conversion (see PEFT on PiSSA), which makes a plain LoRA",
        )
    for key in ("megatron_config", "layer_replication", "trainable_token_indices", "target_parameters"):
        if config.get(key):
            raise CheckpointError(f"{label}: {key} is set, which is not supported", "merge it into its base with PEFT")


def _sort_in(adapter: LoraAdapter, name: str, tensor: LazyTensor) -> None:
    bare = name.removeprefix("base_model.model.")
    # by the ending: modules of models are called anything, `lora` too
    for ending, slot in FACTORS.items():
        if bare.endswith(f".{ending}"):
            module = bare[: -len(ending) - 1]
            factors = adapter.low_rank.setdefault(module, Factors(module))
            setattr(factors, slot, tensor)
            factors.embedding |= "embedding" in ending  # of any of its tensors: their order is the file's
            return
    if ".lora_" in bare:
        raise CheckpointError(f"{adapter.label}: tensor {name} is of a kind that is not known", "merge it with PEFT")
    # what `modules_to_save` and `bias` have trained; PEFT's wrappers may stand in the name
    adapter.replaced[bare.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor


def canonical(name: str) -> str:
    """A name without the segments that differ between versions of transformers.

    Files of one model, and adapters trained on it, differ in where `model` and `language_model` stand.

    >>> canonical("language_model.model.layers.0.mlp") == canonical("model.language_model.layers.0.mlp")
    True
    """
    return ".".join(part for part in name.split(".") if part not in ("model", "thinker", "language_model"))


def apply_adapter(base: Model, adapter: LoraAdapter, label: str) -> Model:
    """The base with the adapter on it. Any adapter tensor that finds no place is an error."""
    places: dict[str, list[str]] = {}
    for name in base.checkpoint:
        places.setdefault(canonical(name), []).append(name)
    tensors: dict[str, LazyTensor] = dict(base.checkpoint.items())
    homeless: list[str] = []

    def place(name: str) -> str | None:
        # as it stands first: what `canonical` leaves out may be all that tells two tensors apart
        if name in base.checkpoint:
            return name
        found = places.get(canonical(name), [])
        if len(found) != 1:  # two places are as bad as none
            homeless.append(name)
        return found[0] if len(found) == 1 else None

    for name, tensor in adapter.replaced.items():
        if target := place(name):
            if tensor.shape != base.checkpoint[target].shape:
                raise _other_base(adapter, base, name, tensor.shape, base.checkpoint[target].shape)
            tensors[target] = tensor
    for module, factors in adapter.low_rank.items():  # on what the adapter has replaced, where it saved the layer too
        target = place(f"{module}.weight")
        if target:
            _check_shapes(base.checkpoint[target], factors, adapter, base)
            tensors[target] = AdaptedTensor(tensors[target], factors)
        if factors.bias is not None and (target := place(f"{module}.bias")):
            tensors[target] = ShiftedTensor(tensors[target], factors.bias, factors.scale)
    # never left out with a warning: a model with half of an adapter on it looks like any other
    if homeless:
        shown = ", ".join(homeless[:5]) + (f" and {len(homeless) - 5} more" if len(homeless) > 5 else "")
        raise CheckpointError(
            f"{label}: {len(homeless)} of the adapter's tensors have no place in the base: {shown}",
            f"is this the adapter's base? its config names {adapter.config.get('base_model_name_or_path') or 'none'}",
        )
    return replace(base, label=label, checkpoint=Checkpoint(tensors, label))


def _check_shapes(weight: LazyTensor, factors: Factors, adapter: LoraAdapter, base: Model) -> None:
    assert factors.a is not None
    assert factors.b is not None
    rows, columns = factors.b.shape[0], math.prod(factors.a.shape[1:])
    if factors.embedding or factors.transposed:
        rows, columns = columns, rows
    wanted = (weight.shape[0], math.prod(weight.shape[1:]))
    if (rows, columns) != wanted:
        raise _other_base(adapter, base, factors.module, (rows, columns), wanted)


def _other_base(
    adapter: LoraAdapter, base: Model, name: str, have: tuple[int, ...], want: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{adapter.label}: {name} is for a tensor of shape {list(have)}, the base {base.label} has {list(want)}",
        f"this adapter belongs to another base: {adapter.config.get('base_model_name_or_path') or 'unnamed'}",
    )
