"""From what a recipe says to the value of a parameter for one tensor of one model.

mergekit's rules: the model's own map, then the slice's, the module's, the global one, then the default; a list
of scalars is a gradient over the layers, a list of maps is conditional on a substring of the tensor's name. The
extension: an entry may name a role instead, {role: {component, kind, layers, name}, value}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from chorus.architectures.roles import COMPONENTS, KINDS, Role
from chorus.checkpoints.patterns import found_in
from chorus.errors import RecipeError, nearest
from chorus.files import shown
from chorus.merge.method import Method, Parameter, Value
from chorus.merge.recipes.inner import inner_names, known_parameters, refused
from chorus.merge.recipes.published import unknown_parameter


class Missing:
    """Stands for a value where no setting holds."""


MISSING: Final = Missing()
LARGEST = 1e6  # of any number: a weight of 1e30 is a slip, and a model of noughts or infinities
MAX_VALUES = 1_000  # more than a model has layers, or conditions
ROLE_KEYS = ("component", "kind", "layers", "name")


@dataclass(frozen=True)
class Site:
    """Where a value is asked for: the tensor's name, its role, and its place t along the slice's layers."""

    name: str
    role: Role
    t: float = 0.0


def gradient_position(index: int, count: int) -> float:
    """t of layer `index` of a slice of `count`: 0 at the first, 1 at the last, 1 where there is only one."""
    # a single layer has the list's last value, as in mergekit
    return 1.0 if count == 1 else index / (count - 1)


def resolve(setting: object, site: Site) -> object:
    """The value of a setting at a site, or `MISSING` where no condition holds."""
    if isinstance(setting, Mapping):
        # mergekit takes {value, filter} without a list around it too
        return resolve([setting], site)
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return setting
    # mergekit's empty list is no setting: the search goes on outward
    if not setting:
        return MISSING
    if isinstance(setting[0], Mapping):
        for entry in setting:
            if _holds(entry, site):
                return resolve(entry["value"], site)
        return MISSING
    return _gradient(setting, site.t)


def _gradient(values: Sequence[object], t: float) -> object:
    """Numbers are interpolated, booleans and strings step."""
    position = t * (len(values) - 1)
    below = min(int(position), len(values) - 1)
    numbers = [as_number(v) for v in values]
    if any(n is None for n in numbers):
        # mergekit's step: the element at int(p)
        return values[below]
    above = min(below + 1, len(values) - 1)
    low, high = numbers[below], numbers[above]
    assert low is not None
    assert high is not None
    return low + (high - low) * (position - below)


def is_gradient(setting: object) -> bool:
    """Whether a setting holds a list of values somewhere, which runs over the layers."""
    if isinstance(setting, Mapping):
        return is_gradient(setting.get("value"))
    if not isinstance(setting, Sequence) or isinstance(setting, str):
        return False
    return any(is_gradient(v) for v in setting) if any(isinstance(v, Mapping) for v in setting) else len(setting) > 1


def as_number(value: object) -> float | None:
    """A number, also where YAML 1.1 reads one as text (`1e-3`)."""
    # an int to Python, but a gradient of truths steps from one to the next
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float | str):
        try:
            return float(value)
        except (ValueError, OverflowError):  # no number, or one of hundreds of digits
            return None
    return None


def _holds(entry: Mapping[str, object], site: Site) -> bool:
    role = entry.get("role")
    if isinstance(role, Mapping):
        return matches_role(role, site)
    # a part of the name, case and all, and no pattern: mergekit's rule
    wanted = entry.get("filter")
    return wanted is None or wanted == "*" or str(wanted) in site.name


def matches_role(selector: Mapping[str, object], site: Site) -> bool:
    """Whether a tensor is what {component, kind, layers, name} describes; absent keys admit everything.

    `component` and `kind` may be lists; `layers` is [a, b) or a list of such; `name` is a regular expression.
    """
    role = site.role
    for key, have in (("component", role.component), ("kind", role.kind)):
        if selector.get(key) is not None and have not in _listed(selector[key]):
            return False
    if selector.get("layers") is not None:
        ranges = layer_ranges(selector["layers"])
        if role.layer is None or not any(a <= role.layer < b for a, b in ranges):
            return False
    name = selector.get("name")
    try:
        return name is None or found_in(str(name), site.name)
    except ValueError as error:  # what is no expression was told before; this one takes too long on this name
        raise RecipeError([f"role: {error}"], f"write it without repetitions ({shown(site.name)})") from None


def _listed(value: object) -> list[object]:
    """A list of values, or a value alone, as a list."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def layer_ranges(value: object) -> list[tuple[int, int]]:
    """[a, b) or a list of such; `ValueError` where it is neither.

    >>> layer_ranges([0, 4]), layer_ranges([[0, 1], [3, 4]])
    ([(0, 4)], [(0, 1), (3, 4)])
    """
    listed = _listed(value)
    found = [tuple(_listed(one)) for one in (listed if listed and isinstance(listed[0], Sequence) else [listed])]
    if not all(len(one) == 2 and all(type(n) is int for n in one) for one in found):
        raise ValueError("[first, after the last) or a list of such")
    return cast(list[tuple[int, int]], found)


def check_setting(parameter: Parameter, setting: object, where: str) -> list[str]:
    """Every problem of a parameter's setting: its form, its conditions, its values' types and ranges."""
    if setting is None:
        return [f"{where}: no value; remove the key or give one"]
    if isinstance(setting, Mapping):
        return _check_entry(parameter, setting, where)
    if isinstance(setting, Sequence) and not isinstance(setting, str):
        if len(setting) > MAX_VALUES:
            return [f"{where}: a list of {len(setting):,} values; at most {MAX_VALUES:,} are taken"]
        maps = [isinstance(v, Mapping) for v in setting]
        if any(maps) and not all(maps):
            return [f"{where}: a list holds either values (a gradient) or maps with conditions, not both"]
        if any(maps):
            return [p for i, e in enumerate(setting) for p in _check_entry(parameter, e, f"{where}[{i}]")]
        return [p for i, v in enumerate(setting) for p in _check_value(parameter, v, f"{where}[{i}]")]
    return _check_value(parameter, setting, where)


def _check_entry(parameter: Parameter, entry: Mapping[str, object], where: str) -> list[str]:
    problems = [
        f"{where}.{key}: unknown key{nearest(str(key), ('value', 'filter', 'role'))}"
        for key in entry
        if key not in ("value", "filter", "role")
    ]
    if "value" not in entry:
        return [*problems, f"{where}: a condition needs a value"]
    if "role" in entry:
        problems += check_selector(entry["role"], f"{where}.role")
        if "filter" in entry:
            problems.append(f"{where}: either filter or role, not both")
    value = entry["value"]
    if isinstance(value, Mapping) or (isinstance(value, list) and any(isinstance(v, Mapping) for v in value)):
        return [*problems, f"{where}: conditions within conditions are not allowed"]
    return problems + check_setting(parameter, value, f"{where}.value")


def check_selector(selector: object, where: str) -> list[str]:
    """Every problem of a role selector."""
    if not isinstance(selector, Mapping) or not selector:
        return [f"{where}: a role is a map with some of {', '.join(ROLE_KEYS)}"]
    problems = [f"{where}.{k}: unknown key{nearest(str(k), ROLE_KEYS)}" for k in selector if k not in ROLE_KEYS]
    for key, known in (("component", COMPONENTS), ("kind", KINDS)):
        wanted = selector.get(key, [])
        for value in _listed(wanted):
            if value not in known:
                problems.append(f'{where}.{key}: unknown {key} "{shown(value)}"{nearest(shown(value), known)}')
    layers = selector.get("layers")
    if layers is not None:
        try:
            layer_ranges(layers)
        except ValueError as error:
            problems.append(f"{where}.layers: {error}")
    if "name" in selector:
        try:
            found_in(str(selector["name"]), "")
        except ValueError as error:
            problems.append(f"{where}.name: {error}")
    return problems


def _check_value(parameter: Parameter, value: object, where: str) -> list[str]:
    try:
        convert(parameter, value)
    except ValueError as error:
        return [f"{where}: {error}"]
    return []


def convert(parameter: Parameter, value: object) -> Value:
    """A value in the parameter's type, as leniently as mergekit reads it; `ValueError` says what it must be."""
    if value is None:
        return None
    if parameter.type is bool:
        return _as_bool(value)
    if parameter.choices:
        return _as_choice(parameter, value)
    if parameter.type is str:
        if not isinstance(value, str | int | float) or len(str(value)) > 1000:
            raise ValueError(f"must be a text, got {shown(repr(value))}")
        return str(value)
    # "1e-3" is a text to YAML 1.1; `density: true` is a slip, which pydantic would take for 1
    number = as_number(value)
    if number is None or not math.isfinite(number):
        raise ValueError(f"must be a {'whole ' if parameter.type is int else ''}number, got {shown(repr(value))}")
    if abs(number) > LARGEST:
        raise ValueError(f"must be at most {LARGEST:g}, got {shown(repr(value))}")
    if parameter.between and number not in parameter.between:
        raise ValueError(f"must lie in {parameter.between}, got {value!r}")
    if parameter.type is int:
        if number != int(number):
            raise ValueError(f"must be a whole number, got {value!r}")
        return int(number)
    return number


def _as_bool(value: object) -> bool:
    # what pydantic takes for a truth, which reads mergekit's recipes
    text = str(value).lower()
    if text in ("true", "yes", "on", "1", "1.0", "y", "t"):
        return True
    if text in ("false", "no", "off", "0", "0.0", "n", "f"):
        return False
    raise ValueError(f"must be true or false, got {shown(repr(value))}")


def _as_choice(parameter: Parameter, value: object) -> str:
    if isinstance(value, bool) and "l1" in parameter.choices:  # mergekit's rescale
        return "l1" if value else "none"
    if not isinstance(value, str) or value not in parameter.choices:
        raise ValueError(f"must be one of {', '.join(parameter.choices)}, got {shown(repr(value))}")
    return str(value)


def check_parameters(
    method: Method, settings: Mapping[str, object], where: str, *, under_model: bool = False, inner: Sequence[str] = ()
) -> list[str]:
    """Every problem of a `parameters:` map: unknown names, shared ones under a model, wrong values.

    `inner` are the inner methods that the whole recipe may choose; their parameters are known too.
    """
    named = [*inner, *inner_names(method, settings)]
    wrong = refused(method, named)
    if wrong:  # whose parameters are known then, nobody can say
        return [f"{where}.{one}" for one in wrong] if "inner" in settings else []
    problems = []
    known = known_parameters(method, named)
    for name, setting in settings.items():
        parameter = known.get(name)
        place = f"{where}.{name}"
        if parameter is None:
            told = unknown_parameter(method.name, name, known)
            if name == "weight" and method.models == (1, 1):
                told = f"{method.name} has no such parameter; a single model has no share, scale multiplies it"
            problems.append(f"{place}: {told}")
        # mergekit ignores a lambda under a model without a word
        elif under_model and not parameter.per_model:
            problems.append(f"{place}: holds for the whole merge; move it to the global parameters")
        else:
            problems += check_setting(parameter, setting, place)
    return problems
