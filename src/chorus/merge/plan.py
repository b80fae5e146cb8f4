"""A merge as a plan: every output tensor with its inputs, method, parameters, bytes and place, no weight read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from chorus.architectures.roles import Role
from chorus.checkpoints.dtypes import itemsize
from chorus.checkpoints.lazy_tensor import Checkpoint
from chorus.checkpoints.model import Model
from chorus.checkpoints.reference import Reference
from chorus.checkpoints.safetensors_header import build_header
from chorus.merge.arithmetic.treatment import MATRIX, matrix_shape
from chorus.merge.options import Options
from chorus.merge.recipes.schema import LoadedRecipe
from chorus.runtime import threads

COPY = "copy"


@dataclass(frozen=True)
class Input:
    """A tensor of an input model."""

    model: int
    tensor: str


@dataclass(frozen=True)
class TensorPlan:
    """How one output tensor comes about.

    `parameters` holds every keyword of the method, `PerModel` ones as tuples in the order of `inputs`. `method`
    is "copy" for what is taken over as it is; `reason` says why. `treatment` is how a subspace method sees the
    tensor: "matrix" or "vector", else empty.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    role: Role
    method: str
    parameters: dict[str, Any]
    inputs: tuple[Input, ...]
    base: Input | None = None
    reason: str = ""
    treatment: str = ""

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.numel * itemsize(self.dtype)

    @property
    def all_inputs(self) -> tuple[Input, ...]:
        return (*self.inputs, self.base) if self.base else self.inputs


@dataclass(frozen=True)
class Shard:
    """One output file: its header, its whole size, where each tensor starts."""

    file: str
    header: bytes
    size: int
    starts: dict[str, int]


@dataclass
class Variant:
    """One output model: the recipe's only one, or one of its `outputs`. `name` is its directory below the output."""

    name: str
    method: str
    tensors: dict[str, TensorPlan]
    config: dict[str, Any]
    generation: dict[str, Any] | None = None
    shards: list[Shard] = field(default_factory=list)

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for t in self.tensors.values())

    def lay_out(self, max_shard_bytes: int) -> None:
        """Assign tensors to files, in the order of their names, none above the limit where it can be kept."""
        groups: list[list[TensorPlan]] = [[]]
        size = 0
        for tensor in self.tensors.values():
            if groups[-1] and size + tensor.nbytes > max_shard_bytes:
                groups.append([])
                size = 0
            groups[-1].append(tensor)
            size += tensor.nbytes
        self.shards = []
        for i, group in enumerate(groups, 1):
            file = "model.safetensors" if len(groups) == 1 else f"model-{i:05d}-of-{len(groups):05d}.safetensors"
            header, starts = build_header([(t.name, t.dtype, t.shape) for t in group])
            self.shards.append(Shard(file, header, len(header) + sum(t.nbytes for t in group), starts))


@dataclass
class Plan:
    """What a merge will do. Open `plan[variant]` or, with a single variant, use it as the checkpoint it makes."""

    recipe: LoadedRecipe
    options: Options
    references: list[Reference]
    models: list[Model]
    base: int | None
    donor: int
    tokenizer: int
    variants: list[Variant]
    seed: int
    warnings: list[str] = field(default_factory=list)
    generation_differences: list[str] = field(default_factory=list)
    duplicates: list[tuple[int, str, str]] = field(default_factory=list)  # (model, stored copy, what it is tied to)

    @property
    def bytes_to_read(self) -> int:
        """Bytes of all input tensors that are used, each counted once."""
        used = {i for v in self.variants for t in v.tensors.values() for i in t.all_inputs}
        return sum(_nbytes(self.models[i.model].checkpoint, i.tensor) for i in used)

    def bytes_of(self, model: int) -> int:
        """Bytes of all tensors of a model, as stored."""
        checkpoint = self.models[model].checkpoint
        return sum(_nbytes(checkpoint, name) for name in checkpoint)

    @property
    def bytes_to_write(self) -> int:
        return sum(v.nbytes for v in self.variants)

    @property
    def jobs(self) -> int:
        """Threads: as asked for, else one a core up to eight, as far as the memory budget carries them."""
        return max(1, min(threads(self.options.jobs), self.options.memory_budget_bytes // max(1, self.bytes_per_job)))

    @property
    def bytes_per_job(self) -> int:
        """Working memory of one thread: a float32 block of every input, and of what a method makes of them."""
        widest = max((len(t.all_inputs) for v in self.variants for t in v.tensors.values()), default=1)
        block = self.options.block_values * 4 * (2 * widest + 4)
        return max([block, *(self._whole(t, v) for v in self.variants for t in v.tensors.values())])

    @property
    def cache_bytes(self) -> int:
        """What the merge would like to keep in the cache: bases and spectra, at most."""
        return sum(self._remembered(t) for v in self.variants for t in v.tensors.values())

    def _remembered(self, tensor: TensorPlan) -> int:
        from chorus.merge.method import METHODS

        if tensor.treatment != MATRIX or "memo" not in METHODS.get(tensor.method).uses:
            return 0
        shape, kept = matrix_shape(tensor.shape), self._directions(tensor)
        return 4 * (sum(shape) * sum(kept) + min(shape) * sum(kept) + 2 * len(kept) * min(shape))

    def _directions(self, tensor: TensorPlan) -> list[int]:
        """How many singular directions a subspace method keeps of each model, at most."""
        from chorus.merge.methods._subspace import kept_rank

        shape, count, given = matrix_shape(tensor.shape), len(tensor.inputs), tensor.parameters
        kept = [kept_rank(shape, count, given.get("rank"), given.get("rank_fraction"))] * count
        for i, factors in enumerate(self._factors(tensor)):
            if factors is not None:
                kept[i] = min(kept[i], factors.a.shape[0] * (2 if factors.start else 1))
        return kept

    def _factors(self, tensor: TensorPlan) -> list[Any]:
        """The adapters' factors of a tensor, model by model; None where a model has none."""
        stored = (self.models[i.model].checkpoint[i.tensor] for i in tensor.inputs)
        return [getattr(t, "factors", None) for t in stored]

    def _matrix_bytes(self, tensor: TensorPlan) -> int:
        """Working memory of a subspace method: a delta and the result, Gram matrices in float64, all tasks' bases."""
        rows, columns = matrix_shape(tensor.shape)
        width = min(sum(self._directions(tensor)), 2 * min(rows, columns))
        adapters = all(f is not None and f.magnitude is None for f in self._factors(tensor))
        dense = 0 if adapters else 12 * rows * columns + 32 * min(rows, columns) ** 2
        return dense + 12 * (rows + columns) * width + 40 * min(width, rows, columns) ** 2

    def _whole(self, tensor: TensorPlan, variant: Variant) -> int:
        """Bytes of a tensor that its method cannot take in blocks."""
        if tensor.method == COPY or split_of(tensor) != "tensor":
            return 0
        if tensor.treatment:
            return self._matrix_bytes(tensor)
        return tensor.numel * 4 * (3 * len(tensor.all_inputs) + 2)

    def checkpoint(self, variant: str | None = None) -> Checkpoint:
        """The merged model as a read-only mapping, each tensor computed as it is read."""
        from chorus.merge.runs.engine import merged_checkpoint

        chosen = self.variants[0] if variant is None else next(v for v in self.variants if v.name == variant)
        return merged_checkpoint(self, chosen)

    def __getitem__(self, name: str) -> Any:
        return self.checkpoint()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.variants[0].tensors)

    def __len__(self) -> int:
        return len(self.variants[0].tensors)


def split_of(tensor: TensorPlan) -> str:
    """Into what the tensor's method lets it be cut."""
    from chorus.merge.method import METHODS

    if tensor.treatment:
        return "tensor" if tensor.treatment == MATRIX else "element"
    if len(tensor.shape) < 2:
        return "element" if METHODS.get(tensor.method).split(tensor.parameters) == "element" else "tensor"
    return METHODS.get(tensor.method).split(tensor.parameters)


def _nbytes(checkpoint: Checkpoint, name: str) -> int:
    tensor = checkpoint[name]
    return math.prod(tensor.shape) * itemsize(getattr(tensor, "stored_dtype", tensor.dtype))
