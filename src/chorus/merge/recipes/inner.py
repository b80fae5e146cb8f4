"""Methods within methods: which may be another's `inner`, and whose parameters stand in a recipe beside its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from chorus.errors import nearest
from chorus.merge.method import METHODS, Method, Parameter

OUTER_ONLY = ("inner", "lambda", "treat", "vectors")  # in a recipe the outer method's; the inner keeps its defaults


def inner_of(method: Method, name: str) -> Method:
    """The method that `inner: name` names; `ValueError` where it cannot be another's."""
    if name not in METHODS:
        raise ValueError(f"inner: no method is called {name}{nearest(name, METHODS.names())}")
    found = METHODS.get(name)
    if found.space != "deltas":
        raise ValueError(f"inner: {name} merges weights; a method on task vectors is needed")
    # parameters of both stand in one map, where those of a third would have no place
    if found.inner:
        raise ValueError(f"inner: {name} has an inner method itself; choose one that has none")
    if method.inner == "before" and found.subspace:
        raise ValueError(f"inner: {name} is a subspace method itself; choose one that works value by value")
    if found.auxiliary:
        raise ValueError(
            f"inner: {name} needs {', '.join(found.auxiliary)} of each model, which reaches no inner method"
        )
    return found


def inner_names(method: Method, settings: Mapping[str, object]) -> list[str]:
    """Every inner method that a `parameters:` map may choose, whatever the tensor."""
    return [str(value) for value in _values(settings["inner"])] if method.inner and "inner" in settings else []


def _values(setting: object) -> list[object]:
    """What a setting may come to: itself, the values of its conditions, the elements of a gradient."""
    if isinstance(setting, Mapping):
        return _values(setting.get("value"))
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        return [v for one in setting for v in _values(one)]
    return [setting]


def refused(method: Method, inner: Sequence[str]) -> list[str]:
    """Why each of these cannot be the method's inner one, where it cannot."""
    found = []
    for name in dict.fromkeys(inner):
        try:
            inner_of(method, name)
        except ValueError as error:
            found.append(str(error))
    return found


def known_parameters(method: Method, inner: Sequence[str]) -> dict[str, Parameter]:
    """A method's parameters, and those of these inner methods (by default of the one that it would run)."""
    known = dict(method.parameters)
    if not method.inner:
        return known
    for name in inner or [str(method.parameters["inner"].default)]:
        try:
            found = inner_of(method, name)
        except ValueError:
            continue  # told where the value is checked
        known |= {p: v for p, v in found.parameters.items() if p not in known and p not in OUTER_ONLY}
    return known
