"""From a method and the values of its parameters to the steps of a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from chorus.architectures.roles import Role
from chorus.merge.arithmetic.tensor_plan import Step
from chorus.merge.arithmetic.treatment import treatment_of
from chorus.merge.method import METHODS, Method, Parameter, Resolved
from chorus.merge.recipes.inner import OUTER_ONLY, inner_of

Resolve = Callable[[Method, Parameter], Resolved]


def steps_of(method: Method, resolve: Resolve, *, role: Role, shape: Sequence[int], models: int) -> tuple[Step, ...]:
    """The steps by which a tensor of this role and shape is merged from so many models.

    `resolve(method, parameter)` gives a parameter's value here. Raises `ValueError` for values that a method refuses.
    """
    values = {p.keyword: resolve(method, p) for p in method.parameters.values()}
    step = Step(method.name, values, treatment_of(role, shape, values) if method.subspace else "")
    if not method.inner:
        return (step,)
    found = inner_of(method, str(values["inner"]))
    inner = Step(found.name, {p.keyword: _shared(found, p, resolve, models) for p in found.parameters.values()})
    return (inner, step) if method.inner == "before" else (replace(step, inner=inner),)


def _shared(inner: Method, parameter: Parameter, resolve: Resolve, models: int) -> Resolved:
    # the outer method scales what the inner returns: one lambda for both would count twice
    if parameter.name not in OUTER_ONLY:
        return resolve(inner, parameter)
    default: Resolved = (parameter.default,) * models if parameter.per_model else parameter.default
    return default


def check_steps(steps: Sequence[Step], models: int) -> None:
    """Let each method look at its parameters; `ValueError` is its refusal."""
    for step in steps:
        for one in (step, step.inner):
            check = METHODS.get(one.method).check if one is not None else None
            if one is not None and check is not None:
                check(one.parameters, models)
