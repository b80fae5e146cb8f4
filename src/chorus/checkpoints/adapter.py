"""A PEFT LoRA adapter on its base, as a checkpoint: each tensor is base plus delta, computed as it is read.

    LoRA    W' = W + s B A                          s = alpha / r, or alpha / sqrt(r) with rsLoRA
    DoRA    W' = m (W + s B A) / ||W + s B A||      norm of each output row

    PiSSA, OLoRA: trained on W - s B0 A0, with factors B0, A0 that W alone determines; W' = W + s (B A - B0 A0)

Shapes: A [r, in], B [out, r]; convolutions are flattened to [out, in * k]. Computed in float32 over fixed groups
of rows, so that the values do not depend on how the tensor is cut for reading.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile
from chorus.checkpoints.model import Model, read_json
from chorus.checkpoints.safetensors_header import read_header
from chorus.errors import CheckpointError
from chorus.lazy import lazy
from chorus.linalg.low_rank import LowRank as Factored
from chorus.linalg.spectra import singular_triplets

if TYPE_CHECKING:
    import torch
else:
    torch = lazy("torch")

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
GROUP_VALUES = 1 << 20  # values computed at a time; part of the arithmetic, do not tune by machine
CONVERTED = ("pissa", "olora")  # start from factors of the base, which are computed again
CHANGES_BASE = ("pissa_niter", "lora_ga", "corda", "loftq")  # start from what only the training knew
FACTORS = {
    "lora_A.weight": "a",
    "lora_B.weight": "b",
    "lora_embedding_A": "a",
    "lora_embedding_B": "b",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
    "lora_B.bias": "bias",
}


@dataclass
class LowRank:
    """One module's factors, still unread: delta = scale * B A."""

    module: str
    scale: float = 1.0
    a: LazyTensor | None = None
    b: LazyTensor | None = None
    magnitude: LazyTensor | None = None
    bias: LazyTensor | None = None
    transposed: bool = False  # fan_in_fan_out: the weight is stored [in, out]
    embedding: bool = False
    start: str = ""  # "pissa" or "olora"


@dataclass
class Adapter:
    """What an adapter directory holds: factors by module, and tensors that replace the base's."""

    label: str
    config: dict[str, Any]
    low_rank: dict[str, LowRank] = field(default_factory=dict)
    replaced: dict[str, LazyTensor] = field(default_factory=dict)


def open_adapter(directory: Path, label: str) -> Adapter:
    """Read an adapter directory; kinds that are not base + low rank are refused by name."""
    if not (directory / CONFIG).exists():
        raise CheckpointError(f"{directory}: not an adapter (no {CONFIG})", "name a directory saved by PEFT")
    if not (directory / WEIGHTS).exists():
        raise CheckpointError(f"{directory}: no {WEIGHTS}", "save the adapter with safetensors")
    config = read_json(directory / CONFIG)
    _refuse_other_kinds(config, label)
    header = read_header(directory / WEIGHTS)
    file = MappedFile(directory / WEIGHTS)
    adapter = Adapter(label, config)
    for entry in header.entries.values():
        _sort_in(adapter, entry.name, FileTensor(entry, file))
    start = str(config.get("init_lora_weights", "")).lower()
    for module, factors in adapter.low_rank.items():
        factors.start = start if start in CONVERTED and not factors.embedding else ""
        if factors.a is None or factors.b is None:
            raise CheckpointError(f"{label}: module {module} has only one of its two factors", "save the adapter again")
        rank = factors.a.shape[0]
        if factors.b.shape[1] != rank:
            raise CheckpointError(
                f"{label}: module {module} has factors of ranks {rank} and {factors.b.shape[1]}",
                "save the adapter again",
            )
        factors.scale = scale_of(config, module, rank)
        factors.transposed = bool(config.get("fan_in_fan_out")) and not factors.embedding
    return adapter


def scale_of(config: Mapping[str, Any], module: str, rank: int) -> float:
    """PEFT's scaling of a module: patterns first, then alpha; over the rank or its square root."""
    alpha = pattern_value(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
    return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the module's name, as PEFT matches it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _refuse_other_kinds(config: dict[str, Any], label: str) -> None:
    kind = str(config.get("peft_type", "")).upper()
    if kind != "LORA":
        raise CheckpointError(
            f"{label}: an adapter of type {kind or 'unknown'}, which is not base + low rank",
            "merge it into its base with PEFT's merge_and_unload, and name the resulting model",
        )
    init = config.get("init_lora_weights")
    if isinstance(init, str) and init.lower().startswith(CHANGES_BASE):
        raise CheckpointError(
            f"{label}: trained with init_lora_weights={init!r}, which changes the base's weights; against the "
            "original base these factors are not its delta",
            "save it with path_initial_model_for_weight_conversion (see PEFT on PiSSA), which makes a plain LoRA",
        )
    for key in ("megatron_config", "layer_replication", "trainable_token_indices", "target_parameters"):
        if config.get(key):
            raise CheckpointError(f"{label}: {key} is set, which is not supported", "merge it into its base with PEFT")


def _sort_in(adapter: Adapter, name: str, tensor: LazyTensor) -> None:
    bare = name.removeprefix("base_model.model.")
    for ending, slot in FACTORS.items():
        if bare.endswith(f".{ending}"):
            module = bare[: -len(ending) - 1]
            factors = adapter.low_rank.setdefault(module, LowRank(module))
            setattr(factors, slot, tensor)
            factors.embedding |= "embedding" in ending
            return
    if ".lora_" in bare:
        raise CheckpointError(f"{adapter.label}: tensor {name} is of a kind that is not known", "merge it with PEFT")
    adapter.replaced[bare.replace(".base_layer.", ".").replace(".modules_to_save.", ".")] = tensor


def canonical(name: str) -> str:
    """A name without the segments that differ between versions of transformers.

    Files of one model, and adapters trained on it, differ in where `model` and `language_model` stand.

    >>> canonical("language_model.model.layers.0.mlp") == canonical("model.language_model.layers.0.mlp")
    True
    """
    return ".".join(part for part in name.split(".") if part not in ("model", "thinker", "language_model"))


def apply_adapter(base: Model, adapter: Adapter, label: str) -> Model:
    """The base with the adapter on it. Any adapter tensor that finds no place is an error."""
    places: dict[str, list[str]] = {}
    for name in base.checkpoint:
        places.setdefault(canonical(name), []).append(name)
    tensors: dict[str, LazyTensor] = dict(base.checkpoint.items())
    homeless: list[str] = []

    def place(name: str) -> str | None:
        if name in base.checkpoint:
            return name
        found = places.get(canonical(name), [])
        if len(found) != 1:
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
    if homeless:
        shown = ", ".join(homeless[:5]) + (f" and {len(homeless) - 5} more" if len(homeless) > 5 else "")
        raise CheckpointError(
            f"{label}: {len(homeless)} of the adapter's tensors have no place in the base: {shown}",
            f"is this the adapter's base? its config names {adapter.config.get('base_model_name_or_path') or 'none'}",
        )
    return replace(base, label=label, checkpoint=Checkpoint(tensors, label))


def _check_shapes(weight: LazyTensor, factors: LowRank, adapter: Adapter, base: Model) -> None:
    assert factors.a is not None
    assert factors.b is not None
    rows, columns = factors.b.shape[0], math.prod(factors.a.shape[1:])
    if factors.embedding or factors.transposed:
        rows, columns = columns, rows
    wanted = (weight.shape[0], math.prod(weight.shape[1:]))
    if (rows, columns) != wanted:
        raise _other_base(adapter, base, factors.module, (rows, columns), wanted)


def _other_base(
    adapter: Adapter, base: Model, name: str, have: tuple[int, ...], want: tuple[int, ...]
) -> CheckpointError:
    return CheckpointError(
        f"{adapter.label}: {name} is for a tensor of shape {list(have)}, the base {base.label} has {list(want)}",
        f"this adapter belongs to another base: {adapter.config.get('base_model_name_or_path') or 'unnamed'}",
    )


class AdaptedTensor:
    """Base weight plus low-rank delta, in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, factors: LowRank) -> None:
        self.name, self.shape, self.base, self.factors = base.name, base.shape, base, factors
        self.stored_dtype = base.dtype
        columns = math.prod(self.shape[1:])
        # there the stored rows are inputs, while DoRA's norm runs over outputs
        whole = factors.transposed or (factors.embedding and factors.magnitude is not None)
        self.group_rows = self.shape[0] if whole else max(1, GROUP_VALUES // columns)
        self._matrices: tuple[Any, Any, Any] | None = None
        self._last: tuple[int, Any] | None = None

    def factors_as_stored(self) -> tuple[Any, Any, Any]:
        """Left [rows, r], right [r, columns], magnitude [rows, 1] or None, for W in its stored orientation."""
        if self._matrices is None:
            f = self.factors
            assert f.a is not None
            assert f.b is not None
            a, b = f.a.read().float().flatten(1), f.b.read().float().flatten(1)
            if f.start:
                weight = self.base.read().float().flatten(1)
                a0, b0 = starting_factors(f.start, weight.T if f.transposed else weight, a.shape[0], f.scale)
                a, b = torch.cat([a, a0]), torch.cat([b, -b0], dim=1)
            left, right = (a.T, b.T) if f.embedding or f.transposed else (b, a)
            magnitude = None if f.magnitude is None else f.magnitude.read().float().reshape(-1, 1)
            self._matrices = (left.contiguous(), right.contiguous(), magnitude)
        return self._matrices

    def difference(self, start: int, stop: int) -> Any:
        """What the adapter adds, values `start` to `stop`; None for DoRA, which changes the base's share too."""
        left, right, magnitude = self.factors_as_stored()
        if magnitude is not None:
            return None
        columns = right.shape[1]
        size = self.group_rows * columns
        parts = []
        for index in range(start // size, -(-stop // size)):
            rows = slice(index * self.group_rows, (index + 1) * self.group_rows)
            values = (self.factors.scale * (left[rows] @ right)).reshape(-1)
            parts.append(values[max(0, start - index * size) : stop - index * size])
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def _group(self, index: int) -> Any:
        last_group = self._last
        if last_group is not None and last_group[0] == index:
            return last_group[1]
        columns = math.prod(self.shape[1:])
        first, last = index * self.group_rows, min((index + 1) * self.group_rows, self.shape[0])
        left, right, magnitude = self.factors_as_stored()
        weight = self.base.flat(first * columns, last * columns).float().reshape(last - first, columns)
        weight = weight + self.factors.scale * (left[first:last] @ right)
        if magnitude is not None:
            if self.factors.transposed or self.factors.embedding:
                weight = weight * (magnitude.reshape(1, -1) / weight.norm(dim=0, keepdim=True))
            else:
                weight = weight * (magnitude[first:last] / weight.norm(dim=1, keepdim=True))
        self._last = (index, weight.reshape(-1))
        return weight.reshape(-1)

    def release(self) -> None:
        """Drop what is kept for the next read."""
        self._matrices = self._last = None

    def flat(self, start: int, stop: int) -> Any:
        size = self.group_rows * math.prod(self.shape[1:])
        parts = []
        for index in range(start // size, (stop - 1) // size + 1 if stop > start else start // size):
            offset = index * size
            parts.append(self._group(index)[max(0, start - offset) : stop - offset])
        return torch.cat(parts) if len(parts) != 1 else parts[0]

    def read(self) -> Any:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)


def starting_factors(start: str, weight: Any, rank: int, scale: float) -> tuple[Any, Any]:
    """A0 [r, in] and B0 [out, r] of which an initialisation takes s B0 A0 off the base's weight [out, in]; float32.

    "pissa": the first r singular triplets over s (arXiv 2404.02948); "olora": the first r columns and rows of Q R,
    as they are (arXiv 2406.01775).
    The signs that the decompositions leave open cancel in the product.
    """
    if start == "pissa":
        found = singular_triplets(weight, rank, whole=False)
        return found.right.T, found.left * (found.values / scale)
    q, r = torch.linalg.qr(weight)
    return r[:rank], q[:, :rank]


def row_scaled_delta(tensor: LazyTensor, base: LazyTensor) -> tuple[Any, Factored] | None:
    """The difference of two tensors as diag(t) W + L R, exactly: t [rows] and the factors; None where it is not so.

    DoRA's W' = d (W + s B A) with d = m / |W + s B A| is d - 1 times the rows of W, plus d s B A. For plain LoRA t
    is zero.
    """
    found = low_rank_delta(tensor, base)
    if found is not None:
        return torch.zeros(found.left.shape[0]), found
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return None
    left, right, magnitude = tensor.factors_as_stored()
    tensor.release()
    if magnitude is None or tensor.factors.transposed or tensor.factors.embedding:
        return None
    plain = Factored(left * tensor.factors.scale, right, tensor.shape)
    d = magnitude.reshape(-1) / row_norms(base, plain)
    return d - 1, Factored(plain.left * d[:, None], right, tensor.shape)


def row_norms(base: LazyTensor, factors: Factored, scale: Any = None) -> Any:
    """|(1 + t) W + L R| of each row [rows], in float32, a group of rows at a time."""
    rows, columns = factors.left.shape[0], factors.right.shape[1]
    step = max(1, GROUP_VALUES // columns)
    norms = []
    for first in range(0, rows, step):
        last = min(first + step, rows)
        weight = base.flat(first * columns, last * columns).float().reshape(last - first, columns)
        if scale is not None:
            weight = weight * (1 + scale[first:last, None])
        norms.append((weight + factors.rows(first, last)).norm(dim=1))
    return torch.cat(norms)


def low_rank_delta(tensor: LazyTensor, base: LazyTensor) -> Factored | None:
    """The difference of two tensors as factors, where the one is the other with an adapter on it; None elsewhere.

    A tensor that the adapter does not touch gives factors of rank 0. DoRA's difference is not of low rank.
    """
    if same_tensor(tensor, base):
        rows, columns = base.shape[0], math.prod(base.shape[1:])
        return Factored(torch.zeros(rows, 0), torch.zeros(0, columns), base.shape)
    if not isinstance(tensor, AdaptedTensor) or not same_tensor(tensor.base, base):
        return None
    left, right, magnitude = tensor.factors_as_stored()
    tensor.release()
    return None if magnitude is not None else Factored(left * tensor.factors.scale, right, tensor.shape)


def same_tensor(a: LazyTensor, b: LazyTensor) -> bool:
    """Whether both are the same bytes of the same file."""
    if isinstance(a, FileTensor) and isinstance(b, FileTensor):
        return a.entry == b.entry and (a.file is b.file or a.file.path.resolve() == b.file.path.resolve())
    return a is b


class ShiftedTensor:
    """A bias plus the adapter's scaled bias, in float32."""

    dtype = "float32"

    def __init__(self, base: LazyTensor, shift: LazyTensor, scale: float) -> None:
        self.name, self.shape, self.base, self.shift, self.scale = base.name, base.shape, base, shift, scale
        self.stored_dtype = base.dtype

    def flat(self, start: int, stop: int) -> Any:
        return self.base.flat(start, stop).float() + self.scale * self.shift.flat(start, stop).float()

    def read(self) -> Any:
        return self.flat(0, math.prod(self.shape)).reshape(self.shape)
