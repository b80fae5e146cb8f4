"""Run one merge method inside another, on deltas that are in memory."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from chorus.linalg.blocks import Blocks, InMemory
from chorus.merge.method import METHODS, Method, compute_now

if TYPE_CHECKING:
    import torch


def inner_method(name: str, given: Mapping[str, Any]) -> tuple[Method, dict[str, Any]]:
    """The method of this name and its parameters: those given that it knows, else its defaults.

    Raises `ValueError` where it does not work on deltas, or needs a parameter that is not given.
    """
    if name not in METHODS.names():
        raise ValueError(f"inner: no method is called {name}")
    method = METHODS.get(name)
    if method.space != "deltas":
        raise ValueError(f"inner: {name} merges weights; a method on task vectors is needed")
    values = {}
    for parameter in method.parameters.values():
        value = given.get(parameter.keyword)
        if value is None:
            if parameter.required:
                raise ValueError(f"inner: {name} needs {parameter.name}, which cannot be given here")
            count = len(given["weight"])
            value = (parameter.default,) * count if parameter.per_model else parameter.default
        values[parameter.keyword] = value
    return method, values


def statistics_of(method: Method, parameters: Mapping[str, Any], blocks: Blocks, keys: Sequence[int]) -> Any:
    """What a method's own statistics are on these blocks."""
    if method.statistics is None:
        return None
    known = {**parameters, "keys": keys}
    wanted = inspect.signature(method.statistics).parameters
    return method.statistics(blocks, **{k: v for k, v in known.items() if k in wanted})


def run_inner(
    method: Method,
    parameters: Mapping[str, Any],
    deltas: Sequence[Any],
    *,
    keys: Sequence[int],
    statistics: Any = None,
    offset: int = 0,
    treatment: str = "matrix",
) -> torch.Tensor:
    """The method on whole matrices or on blocks of tensors; statistics are gathered where none are given."""
    if statistics is None and method.statistics is not None:
        statistics = statistics_of(method, parameters, InMemory(deltas), keys)
    engine = {
        "statistics": statistics,
        "offset": offset,
        "keys": tuple(keys),
        "treatment": treatment,
        "shape": tuple(deltas[0].shape),
        "memo": compute_now,
    }
    flat = method.subspace is False and treatment == "matrix"
    operands = [d.reshape(-1) for d in deltas] if flat else list(deltas)
    merged = method.function(operands, **parameters, **{k: v for k, v in engine.items() if k in method.uses})
    return merged.reshape(deltas[0].shape) if flat else merged


def check_inner(parameters: Mapping[str, Any], models: int) -> None:
    """Refuse an inner method that does not exist, needs more than can be given here, or refuses what it is given."""
    found, values = inner_method(parameters["inner"], parameters)
    if found.subspace:
        raise ValueError(f"inner: {found.name} is a subspace method itself; choose one that works value by value")
    if found.check is not None:
        found.check(values, models)


def inner_statistics(
    blocks: Blocks,
    *,
    inner: str,
    weight: Sequence[float],
    density: Sequence[float] | None,
    gamma: Sequence[float] | None,
    normalize: bool | None,
    treatment: str,
    keys: Sequence[int],
) -> Any:
    """The inner method's own statistics where a tensor is only merged; a matrix is in memory whole."""
    if treatment == "matrix":
        return None
    found, values = inner_method(inner, given_values(weight, density, gamma, normalize))
    return statistics_of(found, values, blocks, keys)


def given_values(weight: Sequence[float], density: Any, gamma: Any, normalize: bool | None) -> dict[str, Any]:
    each = {k: v if v is None or v[0] is not None else None for k, v in (("density", density), ("gamma", gamma))}
    return {"weight": weight, **each, "normalize": normalize}
