"""Merges of tensors in memory, through the same code that merges checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import torch

from chorus.architectures.roles import Role
from chorus.checkpoints.lazy_tensor import Checkpoint, FileTensor, LazyTensor, MappedFile, MemoryTensor
from chorus.checkpoints.model import Model
from chorus.checkpoints.safetensors_header import Entry
from chorus.errors import RecipeError
from chorus.linalg.blocks import CHUNK
from chorus.linalg.low_rank import LowRank
from chorus.merge.arithmetic.computation import Computation
from chorus.merge.arithmetic.operands import InMemoryOperands
from chorus.merge.arithmetic.session import Session
from chorus.merge.arithmetic.steps import StepContext, chained
from chorus.merge.arithmetic.tensor_plan import Input, Step, TensorPlan
from chorus.merge.method import METHODS, Method, Parameter, Resolved
from chorus.merge.planning.steps import check_steps, steps_of
from chorus.merge.recipes.parameters import check_parameters, convert

ENCODER = Role("encoder", "attention", "encoder")


def merge_tensors(
    method: str,
    tensors: Sequence[torch.Tensor],
    *,
    base: torch.Tensor | None = None,
    parameters: Mapping[str, object] | None = None,
    auxiliary: Mapping[str, Sequence[torch.Tensor]] | None = None,
    role: Role = ENCODER,
    name: str = "weight",
    seed: int = 0,
    block_values: int = 4 * CHUNK,
    allow_nonfinite: bool = False,
    device: str = "cpu",
    as_files: bool = False,
) -> torch.Tensor:
    """Merge equally shaped tensors [...] as the engine would; the result is in the arithmetic's type.

    With `as_files` they are read as the bytes of a checkpoint, which linear methods combine without torch.
    Per-model parameters are one value for all or a list in the order of `tensors`; `auxiliary` holds, by name, what
    the method takes beside each tensor. Raises what a merge raises.

    >>> merge_tensors("linear", [torch.zeros(2), torch.ones(2)], parameters={"weight": [3, 1]})
    tensor([0.2500, 0.2500])
    """
    planned = _planned(METHODS.get(method), tensors, base is not None, parameters or {}, role, name, auxiliary or {})
    everything = [*tensors, *([base] if base is not None else [])]
    models = [
        Model(f"model {i}", Checkpoint({name: _stored(name, t, as_files)}, f"model {i}"), {}, None)
        for i, t in enumerate(everything)
    ]
    for key, each in (auxiliary or {}).items():
        models += [Model(key, Checkpoint({name: MemoryTensor(name, t)}, key), {}, None) for t in each]
    session = Session(
        models, seed=seed, device=device, allow_nonfinite=allow_nonfinite, block_values=block_values
    )  # fmt: skip
    work = session.work(planned)
    if not isinstance(work, Computation):  # combined from the files' bytes
        work.prepare()
        data = [work.encoded(start, stop).data.copy() for start, stop in work.ranges()]
        return torch.from_numpy(np.concatenate(data)).view(torch.float32).reshape(planned.shape)
    with torch.inference_mode():
        work.prepare()
        parts = [work.compute(start, stop).clone() for start, stop in work.ranges()]
        return torch.cat(parts).reshape(planned.shape).cpu().clone()


def merge_deltas(
    method: str, deltas: Sequence[torch.Tensor | LowRank], parameters: Mapping[str, object] | None = None
) -> torch.Tensor | LowRank:
    """The merged delta [m, n] of deltas in memory, matrices or factors; in factors where the method leaves them so."""
    (rows, columns), count = deltas[0].shape, len(deltas)
    steps = _steps(METHODS.get(method), parameters or {}, count, ENCODER, (rows, columns))
    context = StepContext("weight", (rows, columns), ENCODER, method, 0, 4 * CHUNK)
    return chained(steps, InMemoryOperands(deltas), context)[-1].whole(factors=True)


def _planned(
    method: Method,
    tensors: Sequence[torch.Tensor],
    with_base: bool,
    parameters: Mapping[str, object],
    role: Role,
    name: str,
    auxiliary: Mapping[str, Sequence[torch.Tensor]],
) -> TensorPlan:
    """The plan of one tensor: models 0, 1, ..., then the base, then what is given beside each model."""
    count, shape = len(tensors), tuple(tensors[0].shape)
    steps = _steps(method, parameters, count, role, shape)
    check_steps(steps, count)
    first = count + with_base
    beside: dict[str, tuple[Input | None, ...]] = {
        key: tuple(Input(first + i * count + j, name) for j in range(count)) for i, key in enumerate(auxiliary)
    }
    inputs = tuple(Input(i, name) for i in range(count))
    # in the arithmetic's type, so that no cast hides a difference
    return TensorPlan(
        name, shape, "float32", role, steps, inputs, Input(count, name) if with_base else None, auxiliary=beside
    )  # fmt: skip


def _steps(
    method: Method, given: Mapping[str, object], count: int, role: Role, shape: Sequence[int]
) -> tuple[Step, ...]:
    """The steps for these parameters; `RecipeError` for those that there are not, or that are missing."""
    # a list is one value a model here, in a recipe a gradient: names are checked now, values when they are converted
    flat = {k: 1 if isinstance(v, list) else v for k, v in given.items()}
    problems = check_parameters(method, flat, method.name)
    if problems:
        raise RecipeError(problems, source=method.name)

    def value(owner: Method, parameter: Parameter) -> Resolved:
        if parameter.name not in given and parameter.required:
            raise RecipeError([f"{owner.name} needs {parameter.name}"], source=method.name)
        found = given.get(parameter.name, parameter.default)
        if parameter.per_model:
            each = found if isinstance(found, list | tuple) else [found] * count
            return tuple(convert(parameter, v) for v in each)
        converted: Resolved = convert(parameter, found)
        return converted

    return steps_of(method, value, role=role, shape=shape, models=count)


def _stored(name: str, tensor: torch.Tensor, as_file: bool) -> LazyTensor:
    if not as_file:
        return MemoryTensor(name, tensor)
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy()
    entry = Entry(name, str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), 0, data.nbytes)
    # a path of its own, since tensors of the same entry and path pass for the same bytes
    return FileTensor(entry, cast(MappedFile, SimpleNamespace(bytes=lambda: data, path=Path(str(id(data))))))
