"""A plan as plain data: what `chorus plan --json` prints, and its tensors drawn together over the layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NotRequired, TypedDict

from chorus.architectures.classes import architecture
from chorus.checkpoints.lineage import license_text
from chorus.merge.arithmetic.tensor_plan import Input, Step, TensorPlan
from chorus.merge.method import Value
from chorus.merge.plan import Plan
from chorus.merge.planning.published import plain_parameters


class ModelFacts(TypedDict):
    """One input model. `part` is "base" or "model"."""

    model: str
    part: str
    revision: str | None
    architecture: str
    dtype: str
    tensors: int
    bytes: int
    license: str | None


class RoleFacts(TypedDict):
    """What a tensor is for (see chorus.architectures.roles.Role)."""

    component: str
    kind: str
    layer: NotRequired[int | None]
    learned: bool


class StepFacts(TypedDict):
    """One method on the way of a tensor; the method that it runs within itself."""

    method: str
    treatment: NotRequired[str]
    inner: NotRequired[StepFacts]


class TensorFacts(TypedDict):
    """One output tensor; `inputs` and `base` are (model, tensor)."""

    name: str
    shape: list[int]
    dtype: str
    bytes: int
    role: RoleFacts
    method: str
    reason: str
    treatment: str
    parameters: dict[str, Value | list[Value]]
    steps: list[StepFacts]
    inputs: list[tuple[str, str]]
    base: tuple[str, str] | None


class FileFacts(TypedDict):
    """One file of weights."""

    file: str
    bytes: int


class OutputFacts(TypedDict):
    """One output model."""

    name: str
    method: str
    bytes: int
    files: list[FileFacts]
    tensors: list[TensorFacts]


class PlanFacts(TypedDict):
    """Everything that a plan fixes."""

    source: str
    seed: int
    models: list[ModelFacts]
    outputs: list[OutputFacts]
    bytes_to_read: int
    bytes_to_write: int
    jobs: int
    cache_bytes: int
    memory_bytes: int
    side_files: list[str]
    not_carried: dict[str, list[str]]
    warnings: list[str]
    generation_differences: list[str]


def describe(plan: Plan) -> PlanFacts:
    """Everything that a plan fixes, in JSON's types."""
    names = [reference.name for reference in plan.references]
    models: list[ModelFacts] = []
    for i, (model, reference) in enumerate(zip(plan.models, plan.references, strict=True)):
        tensors = list(model.checkpoint.values())
        dtypes = sorted({t.stored_dtype for t in tensors})
        models.append(
            {
                "model": reference.name,
                "part": "base" if i == plan.base else "model",
                "revision": model.revision,
                "architecture": architecture(model.config),
                "dtype": "+".join(dtypes),
                "tensors": len(tensors),
                "bytes": plan.bytes_of(i),
                "license": license_text(model),
            }
        )
    return {
        "source": plan.recipe.source,
        "seed": plan.seed,
        "models": models,
        "outputs": [
            {
                "name": variant.name,
                "method": variant.method,
                "bytes": variant.nbytes,
                "files": [{"file": s.file, "bytes": s.size} for s in variant.shards],
                "tensors": [_tensor(t, names) for t in variant.tensors.values()],
            }
            for variant in plan.variants
        ],
        "bytes_to_read": plan.bytes_to_read,
        "bytes_to_write": plan.bytes_to_write,
        "jobs": plan.jobs,
        "cache_bytes": plan.cache_bytes if plan.options.reuse else 0,
        "memory_bytes": plan.jobs * plan.bytes_per_job,
        "side_files": sorted(plan.beside.carried),
        "not_carried": plan.beside.left,
        "warnings": plan.warnings,
        "generation_differences": plan.generation_differences,
    }


def _tensor(tensor: TensorPlan, names: Sequence[str]) -> TensorFacts:
    role = tensor.role

    def named(which: Input) -> tuple[str, str]:
        return names[which.model], which.tensor

    return {
        "name": tensor.name,
        "shape": list(tensor.shape),
        "dtype": tensor.dtype,
        "bytes": tensor.nbytes,
        "role": {"component": role.component, "kind": role.kind, "layer": role.layer, "learned": role.learned},
        "method": tensor.method,
        "reason": tensor.reason,
        "treatment": tensor.treatment,
        "parameters": plain_parameters(tensor),
        "steps": [_step(step) for step in tensor.steps],
        "inputs": [named(i) for i in tensor.inputs],
        "base": named(tensor.base) if tensor.base else None,
    }


def _step(step: Step) -> StepFacts:
    found: StepFacts = {"method": step.method}
    if step.treatment:
        found["treatment"] = step.treatment
    if step.inner:
        found["inner"] = _step(step.inner)
    return found


def draw_together(tensors: Sequence[TensorFacts]) -> list[tuple[TensorFacts, int]]:
    """Tensors that differ in nothing but their layer's number become one, named `layers.{0-31}.`, with a count."""
    groups: dict[str, list[TensorFacts]] = {}
    for tensor in tensors:
        # the first number is the layer's; a later one (conv_layers.0, experts.3) keeps its tensors apart
        pattern = re.sub(r"\.\d+\.", ".#.", tensor["name"], count=1)
        # all but the place: layers whose values a gradient or a condition sets apart stay apart
        facts: dict[str, object] = {k: v for k, v in tensor.items() if k not in ("name", "inputs", "base")}
        facts["role"] = {k: v for k, v in tensor["role"].items() if k != "layer"}
        groups.setdefault(f"{pattern} {facts}", []).append(tensor)
    drawn = []
    for group in groups.values():
        first = group[0]
        if len(group) > 1:
            numbers = [int(m[1]) for t in group if (m := re.search(r"\.(\d+)\.", t["name"]))]
            name = re.sub(r"\.\d+\.", f".{{{_ranges(numbers)}}}.", first["name"], count=1)
            first = {**first, "name": name}
        drawn.append((first, len(group)))
    return drawn


def _ranges(numbers: list[int]) -> str:
    """Sorted whole numbers as ranges.

    >>> _ranges([0, 1, 2, 5])
    '0-2,5'
    """
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][-1] + 1:
            parts[-1].append(n)
        else:
            parts.append([n])
    return ",".join(f"{p[0]}-{p[-1]}" if len(p) > 1 else str(p[0]) for p in parts)
