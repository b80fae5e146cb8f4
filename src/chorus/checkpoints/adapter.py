"""A PEFT adapter's directory, LoRA or AdaLoRA: factors by module, each checked to be what the config says."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chorus.checkpoints.adapted import Factors
from chorus.checkpoints.adapter_config import AdapterConfig, read_config
from chorus.checkpoints.adapter_kinds import MERGE
from chorus.checkpoints.adapter_names import acts_in_training_only, bare_name, is_embedding, split_name
from chorus.checkpoints.lazy_tensor import FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.pickled import open_pickled_tensors  # which asks for leave first
from chorus.checkpoints.safetensors_header import read_header
from chorus.checkpoints.whereabouts import remedy_in
from chorus.errors import CheckpointError
from chorus.files import present, read_json
from chorus.plain import JsonObject

CONFIG, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
GATHER = (
    "save it again from the trained model, its shards gathered (DeepSpeed: stage3_gather_16bit_weights_on_model_save)"
)
AGAIN = "save the adapter again"


@dataclass
class LoraAdapter:
    """What an adapter directory holds: factors by module, and tensors that replace the base's."""

    label: str
    file: Path
    config: JsonObject
    settings: AdapterConfig
    low_rank: dict[str, Factors] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)


def open_adapter(directory: Path, label: str, *, allow_pickle: bool = False) -> LoraAdapter:
    """Read an adapter directory; what is not base + low rank, or not what its config says, is refused.

    `allow_pickle`: PEFT's older `adapter_model.bin` may be read too, by torch's weights_only.
    """
    if not present(directory / CONFIG):
        remedy = remedy_in(directory, CONFIG) or "name a directory saved by PEFT"
        raise CheckpointError(f"{directory}: not an adapter (no {CONFIG})", remedy)
    config = read_json(directory / CONFIG)
    settings = read_config(config, f"{label}/{CONFIG}")
    file = _weights_of(directory)
    adapter = LoraAdapter(label, file, config, settings)
    where = f"{label}/{file.name}"
    seen: dict[str, str] = {}
    for name, tensor in _tensors(file, where, allow_pickle=allow_pickle).items():
        if not acts_in_training_only(name):
            _sort_in(adapter, name, tensor, seen, where)
    _refuse_empty(adapter, where)
    try:
        for factors in adapter.low_rank.values():
            _check(factors, settings, where)
    except ValueError as error:  # a pattern that takes too long
        raise CheckpointError(f"{settings.where}: {error}", "write the modules' names in its place") from None
    if adapter.low_rank and not adapter.replaced and not any(f.scale for f in adapter.low_rank.values()):
        raise CheckpointError(f"{settings.where}: lora_alpha: 0, so that it would change nothing", AGAIN)
    return adapter


def _weights_of(directory: Path) -> Path:
    """The file that PEFT reads: safetensors where there are both."""
    for name in (WEIGHTS, PICKLED):
        if present(directory / name):
            return directory / name
    raise CheckpointError(f"{directory}: an adapter without weights (no {WEIGHTS})", AGAIN)


def _tensors(file: Path, where: str, *, allow_pickle: bool) -> Mapping[str, LazyTensor]:
    if file.name == PICKLED:  # refused without `allow_pickle`, and loaded with weights_only
        return open_pickled_tensors(file, allow_pickle=allow_pickle)
    header, mapped = read_header(file), MappedFile(file)
    return {entry.name: FileTensor(entry, mapped) for entry in header.entries.values()}


def _sort_in(adapter: LoraAdapter, name: str, tensor: LazyTensor, seen: dict[str, str], where: str) -> None:
    if not math.prod(tensor.shape) and (len(tensor.shape) < 2 or not adapter.settings.adaptive):
        raise CheckpointError(f"{where}: {name} has the shape {list(tensor.shape)}: its values were not saved", GATHER)
    found = split_name(name)
    key = ".".join(found) if found else bare_name(name)
    if key in seen:
        raise CheckpointError(f"{where}: {name} and {seen[key]} are one tensor of one module", f"{AGAIN}, one a file")
    seen[key] = name
    if found is None:
        if ".lora_" in name:
            raise CheckpointError(f"{where}: {name} is of a kind that is not known", MERGE)
        # what `modules_to_save` and `bias` have trained
        adapter.replaced[bare_name(name)] = tensor
        return
    if not tensor.dtype.startswith(("float", "bfloat")):
        raise CheckpointError(f"{where}: {name} holds {tensor.dtype}; factors are floating-point numbers", AGAIN)
    module, slot = found
    factors = adapter.low_rank.setdefault(module, Factors(module))
    setattr(factors, slot, tensor)
    factors.embedding |= is_embedding(name)  # of any of its tensors: their order is the file's


def _refuse_empty(adapter: LoraAdapter, where: str) -> None:
    if not adapter.low_rank and not adapter.replaced:
        raise CheckpointError(f"{where}: holds no tensor: on its base it would change nothing", GATHER)
    if not adapter.low_rank and adapter.config.get("target_modules"):
        raise CheckpointError(f"{where}: no factors, though the config has target_modules", AGAIN)
    if not any(math.prod(t.shape) for f in adapter.low_rank.values() for t in _parts(f)) and not adapter.replaced:
        raise CheckpointError(f"{where}: every module has rank 0: on its base it would change nothing", AGAIN)


def _parts(factors: Factors) -> Iterator[LazyTensor]:
    yield from (t for t in (factors.a, factors.b, factors.e, factors.magnitude, factors.bias) if t is not None)


def _check(factors: Factors, settings: AdapterConfig, where: str) -> None:
    """Whether a module's tensors are all there, of one rank, and what the config says; sets scale and start."""

    def fail(fault: str, remedy: str = AGAIN) -> CheckpointError:
        return CheckpointError(f"{where}: module {factors.module} {fault}", remedy)

    a, b = factors.a, factors.b
    if a is None or b is None:
        raise fail("has only one of its two factors")
    dimensions = 2 if factors.embedding or settings.adaptive else len(a.shape)
    if not 2 <= len(a.shape) == len(b.shape) == dimensions <= 5 or any(n != 1 for n in b.shape[2:]):
        raise fail(f"has factors of shapes {list(a.shape)} and {list(b.shape)}; PEFT's are [r, in] and [out, r]")
    rank = a.shape[0]
    if b.shape[1] != rank or (factors.e is not None and math.prod(factors.e.shape) != rank):
        raise fail(f"has factors of ranks {rank} and {b.shape[1]}")
    expected = settings.rank_of(factors.module)
    if rank != expected:
        keys = "init_r and rank_pattern" if settings.adaptive else "r and rank_pattern"
        raise fail(f"has rank {rank}; {keys} of its config say {expected}, and the scale goes by that")
    for slot, there, wanted in (
        ("lora_E", factors.e is not None, settings.adaptive),
        ("lora_magnitude_vector (use_dora)", factors.magnitude is not None, settings.dora),
        ("lora_B.bias (lora_bias)", factors.bias is not None, settings.bias),
    ):
        if there != wanted:
            raise fail(f"has {'a' if there else 'no'} {slot}, and its config says otherwise")
    factors.scale = settings.scale_of(factors.module, rank)
    factors.start = "" if factors.embedding else settings.start
