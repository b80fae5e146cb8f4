"""The settings of a merge method: one of them, and all that a grid stands for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from chorus.errors import ChorusError
from chorus.merge.method import METHODS
from chorus.merge.recipes.parameters import check_parameters

MAX_SETTINGS = 2000  # of one method
OURS = ("method", "base")  # keys of a grid that are no parameters


@dataclass(frozen=True)
class Setting:
    """One point of a method's grid: what tables call the method, its name, and its parameters as a recipe has them.

    `with_base`: name the base to methods for which a recipe may leave it out, such as multislerp.
    """

    name: str
    method: str
    parameters: Mapping[str, object]
    with_base: bool = False

    @property
    def label(self) -> str:
        """The method's name in tables, and what its parameters are."""
        told = ",".join(f"{k}={short(v)}" for k, v in self.parameters.items())
        return f"{self.name}[{told}]" if told else self.name


def short(value: object) -> str:
    """A parameter's value in a label."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}"  # 1 and 1.0 are one setting, and one folder
    return str(value).replace(" ", "")


def grid_of(name: str, values: Mapping[str, object]) -> list[Setting]:
    """Every combination of the values that are lists; `{value: [...]}` is a list that is a value (a gradient).

    The keys `method` (where the name in tables is another) and `base` are no parameters.

    >>> [s.label for s in grid_of("ties", {"density": [0.2, 0.5], "lambda": 1.0})]
    ['ties[density=0.2,lambda=1]', 'ties[density=0.5,lambda=1]']
    """
    axes = [[(key, one) for one in points_of(value)] for key, value in values.items() if key not in OURS]
    method, with_base = str(values.get("method", name)), bool(values.get("base", False))
    return [Setting(name, method, dict(point), with_base) for point in product(*axes)]


def points_of(value: object) -> list[object]:
    """The values of one axis.

    >>> points_of(0.5), points_of([0.1, 0.2]), points_of({"value": [0.1, 0.9]})
    ([0.5], [0.1, 0.2], [[0.1, 0.9]])
    """
    points = value if isinstance(value, list) else [value]
    return [p["value"] if isinstance(p, Mapping) and set(p) == {"value"} else p for p in points]


def varied(setting: Setting, parameter: str, values: list[object]) -> list[Setting]:
    """A setting with one parameter at each of these values."""
    return [
        Setting(setting.name, setting.method, {**setting.parameters, parameter: v}, setting.with_base) for v in values
    ]


def grid_problems(where: str, name: str, values: Mapping[str, object]) -> list[str]:
    """Unknown methods and parameters, and values out of range, of every point of a grid; `where` it is written."""
    try:
        method = METHODS.get(str(values.get("method", name)))
    except ChorusError as error:
        return [f"{where}: {error.message}"]
    count = 1  # before anything is unfolded: a slip in a grid may stand for millions
    for key, value in values.items():
        count *= len(points_of(value)) if key not in OURS else 1
    if count > MAX_SETTINGS:
        return [f"{where}: {count} settings are more than {MAX_SETTINGS}"]
    found = [p for point in grid_of(name, values) for p in check_parameters(method, point.parameters, where)]
    return list(dict.fromkeys(found))  # a wrong value of one axis is a problem of every point that has it
