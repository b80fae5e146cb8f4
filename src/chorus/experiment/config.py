"""What an experiment is told: base, domains, training, methods with grids, tests; checked before anything runs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from chorus.errors import ChorusError, RecipeError, nearest
from chorus.merge.method import METHODS
from chorus.merge.recipes.parameters import check_parameters
from chorus.settings import Strict, read_document, validated
from chorus.tasks.normalise import NORMALISERS
from chorus.train.config import TrainConfig
from chorus.train.layers import lay_over, load_train_config
from chorus.transcribe.conditions import CLEAN, check_condition
from chorus.transcribe.decoding import PRESETS, Decoding, decoding

MAX_SETTINGS = 2000  # of one method
OURS = ("model", "data", "seed", "output", "logs", "name", "version", "device")  # keys of a training that are set here


class Part(Strict):
    """Rows of one domain: of the experiment's manifest or of its own; other manifests for dev and test if there are."""

    manifest: str | None = None
    where: dict[str, Any] = Field(default_factory=dict)
    columns: dict[str, str] = Field(default_factory=dict)
    audio_dir: str | None = None
    language: str = ""
    dev: str | None = None
    test: str | None = None
    split: str | None = None  # of a test set: which rows; else test
    train: dict[str, Any] = Field(default_factory=dict)  # of this domain's specialist, laid over the experiment's


class Split(Strict):
    """Another division into train, dev and test than the manifest's, by whole groups (see `chorus data split`)."""

    dev: float = Field(default=0.1, gt=0, lt=1)
    test: float = Field(default=0.1, gt=0, lt=1)
    by: str = "speaker"
    stratify: str = ""
    seed: int = 0


class Data(Strict):
    """Where rows come from, unless a domain says otherwise."""

    manifest: str | None = None
    synth: str | None = None  # a recipe of `chorus data synth`
    split: Split | None = None
    by: str = "domain"  # the column that domains given as a list are values of
    columns: dict[str, str] = Field(default_factory=dict)
    audio_dir: str | None = None
    language: str = ""

    @model_validator(mode="after")
    def _one(self) -> Data:
        if self.manifest and self.synth:
            raise ValueError("either manifest or synth")
        if self.split and not self.manifest:
            raise ValueError("split divides a manifest, and none is named")
        return self


class Base(Strict):
    """The base; with `train` it is first fine-tuned itself, on rows that are no domain's."""

    model: str
    train: dict[str, Any] | None = None
    where: dict[str, Any] = Field(default_factory=dict)
    manifest: list[str] | str | None = None


class Selection(Strict):
    """How a setting is chosen: by the lowest unweighted mean of these cells' dev error rates, over all seeds."""

    over: Literal["in-domain", "all"] = "in-domain"


class Tests(Strict):
    """What is heard beside the domains' own test rows."""

    model_config = ConfigDict(populate_by_name=True)

    out_of_domain: dict[str, Part] = Field(default_factory=dict, alias="out-of-domain")
    other_language: dict[str, Part] = Field(default_factory=dict, alias="other-language")


class Experiment(Strict):
    """A whole experiment file."""

    version: Literal[1] = 1
    name: str = "experiment"
    output: str = ""  # else experiments/<name>
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    device: str = "auto"
    parallel: int | None = Field(default=None, ge=1)
    base: Base
    data: Data = Field(default_factory=Data)
    domains: dict[str, Part] = Field(min_length=2)
    train: dict[str, Any] = Field(default_factory=dict)
    joint: dict[str, Any] | bool = True
    methods: dict[str, dict[str, Any]] = Field(min_length=1)
    selection: Selection = Field(default_factory=Selection)
    curves: dict[str, dict[str, list[Any]]] = Field(default_factory=dict)
    tests: Tests = Field(default_factory=Tests)
    preset: str = "default"
    decoding: dict[str, Any] = Field(default_factory=dict)
    normaliser: str = "marks"
    conditions: list[str] = Field(default_factory=lambda: [CLEAN], min_length=1)
    keep: Literal["none", "best", "all"] = "best"

    @field_validator("normaliser")
    @classmethod
    def _a_normaliser(cls, value: str) -> str:
        if value.split(":")[0] not in NORMALISERS:
            raise ValueError(f"one of {', '.join(NORMALISERS)}")
        return value

    @field_validator("preset")
    @classmethod
    def _a_preset(cls, value: str) -> str:
        if value not in PRESETS:
            raise ValueError(f"one of {', '.join(PRESETS)}")
        return value

    @property
    def output_dir(self) -> Path:
        return Path(self.output or f"experiments/{self.name}")

    @property
    def heard_by(self) -> Decoding:
        return decoding(self.preset, self.decoding)


class Setting:
    """One point of a method's grid: a label, the method's name, and its parameters as a recipe has them.

    `with_base`: name the base to methods for which a recipe may leave it out, such as multislerp.
    """

    def __init__(self, name: str, method: str, parameters: Mapping[str, Any], *, with_base: bool = False) -> None:
        self.name, self.method, self.parameters, self.with_base = name, method, dict(parameters), with_base

    @property
    def label(self) -> str:
        """The method's name in the file, and what its parameters are."""
        told = ",".join(f"{k}={short(v)}" for k, v in self.parameters.items())
        return f"{self.name}[{told}]" if told else self.name


def short(value: Any) -> str:
    """A parameter's value in a label."""
    return (
        f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value).replace(" ", "")
    )


def grid_of(name: str, settings: Mapping[str, Any]) -> list[Setting]:
    """Every combination of the values that are lists; `{value: [...]}` is a list that is a value (a gradient).

    The keys `method` (where the name in the file is another) and `base` are no parameters.

    >>> [s.label for s in grid_of("ties", {"density": [0.2, 0.5], "lambda": 1.0})]
    ['ties[density=0.2,lambda=1]', 'ties[density=0.5,lambda=1]']
    """
    method = str(settings.get("method", name))
    axes = []
    for key, value in settings.items():
        if key in ("method", "base"):
            continue
        values = value if isinstance(value, list) else [value]
        axes.append([(key, v["value"] if isinstance(v, Mapping) and set(v) == {"value"} else v) for v in values])
    with_base = bool(settings.get("base", False))
    return [Setting(name, method, dict(point), with_base=with_base) for point in product(*axes)]


def load_experiment(source: str | Path | Mapping[str, Any]) -> Experiment:
    """Read and check an experiment file; `RecipeError` with every problem found.

    Paths count from the working directory.
    """
    document, name, _ = read_document(source)
    document = _listed(_with_variables(dict(document), name))
    made = validated(Experiment, document, source=name)
    problems = _problems(made)
    if problems:
        raise RecipeError(problems, "docs/experiments.md lists the keys", name)
    return made


def _with_variables(value: Any, name: str) -> Any:
    """`${CHORUS_DATA}/digits/manifest.csv` with the environment's variables put in."""
    if isinstance(value, dict):
        return {k: _with_variables(v, name) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_variables(v, name) for v in value]
    if not isinstance(value, str):
        return value

    def put(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise RecipeError([f"{value}: the environment has no {found[1]}"], f"export {found[1]}=...", name)
        return os.environ[found[1]]

    return re.sub(r"\$\{(\w+)\}", put, value)


def _listed(document: dict[str, Any]) -> dict[str, Any]:
    """Domains and test sets given as lists of values of `data.by`; a base given by its name alone."""
    by = (document.get("data") or {}).get("by", "domain") if isinstance(document.get("data"), Mapping) else "domain"

    def parts(value: Any) -> Any:
        if isinstance(value, list):
            return {str(v): {"where": {by: str(v)}} for v in value}
        return value

    if isinstance(document.get("base"), str):
        document["base"] = {"model": document["base"]}
    document["domains"] = parts(document.get("domains"))
    if isinstance(document.get("tests"), Mapping):
        document["tests"] = {group: parts(value) for group, value in document["tests"].items()}
    if isinstance(document.get("methods"), list):
        document["methods"] = {str(m): {} for m in document["methods"]}
    methods = document.get("methods")
    if isinstance(methods, Mapping):
        document["methods"] = {k: {} if v is None else v for k, v in methods.items()}
    return document


def _problems(made: Experiment) -> list[str]:
    found = []
    for name, settings in made.methods.items():
        found += _method_problems(f"methods.{name}", name, settings)
    for name, values in made.curves.items():
        if name not in made.methods:
            found.append(f"curves.{name}: not among the methods{nearest(name, made.methods)}")
        elif len(values) != 1:
            found.append(f"curves.{name}: one parameter with its values")
        else:
            settings = {"method": made.methods[name].get("method", name), **values}
            found += _method_problems(f"curves.{name}", name, settings)
    own = [(f"domains.{name}.train", part.train) for name, part in made.domains.items() if part.train]
    for where, config in (("train", made.train), ("base.train", made.base.train or {}), *_joint(made), *own):
        found += [f"{where}.{key}: set by the experiment" for key in config if key in OURS and key != "model"]
        found += _training_problems(where, config, made)
    try:
        decoding(made.preset, made.decoding)
    except ChorusError as error:
        found.append(error.message)
    for condition in made.conditions:
        try:
            check_condition(condition)
        except ChorusError as error:
            found.append(f"conditions: {error.message}")
    shared = made.data.manifest or made.data.synth
    for group, parts in (("domains", made.domains), *_test_parts(made)):
        found += [
            f"{group}.{name}: no manifest, and data names none" for name, part in parts.items()
            if not (part.manifest or shared)
        ]  # fmt: skip
        found += [f"{group}.{name}: names a folder; no / and no leading ." for name in parts if not _a_folder(name)]
    names = [n for _, parts in (("", made.domains), *_test_parts(made)) for n in parts]
    found += [f"{name}: a domain's name stands twice" for name in dict.fromkeys(names) if names.count(name) > 1]
    return found


def _joint(made: Experiment) -> list[tuple[str, dict[str, Any]]]:
    return [("joint", made.joint)] if isinstance(made.joint, dict) else []


def _test_parts(made: Experiment) -> list[tuple[str, dict[str, Part]]]:
    return [("tests.out-of-domain", made.tests.out_of_domain), ("tests.other-language", made.tests.other_language)]


def _a_folder(name: str) -> bool:
    return bool(name) and "/" not in name and "\\" not in name and not name.startswith(".")


def _method_problems(where: str, name: str, settings: Mapping[str, Any]) -> list[str]:
    """Unknown methods and parameters, and values out of range, of every point of the grid."""
    try:
        method = METHODS.get(str(settings.get("method", name)))
        points = grid_of(name, settings)
    except ChorusError as error:
        return [f"{where}: {error.message}"]
    if len(points) > MAX_SETTINGS:
        return [f"{where}: {len(points)} settings are more than {MAX_SETTINGS}"]
    found = [p for point in points for p in check_parameters(method, point.parameters, where)]
    return list(dict.fromkeys(found))


def _training_problems(where: str, config: Mapping[str, Any], made: Experiment) -> list[str]:
    """What a training with these settings would be refused for."""
    settings = {k: v for k, v in config.items() if k not in OURS}
    try:
        load_train_config(
            {"model": {"base": made.base.model, **config.get("model", {})}, "data": {"train": "x"}, **settings}
        )
    except RecipeError as error:
        return [f"{where}.{problem}" for problem in error.problems]
    return []


def training(made: Experiment, config: Mapping[str, Any], over: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings of a training as a map: `train`, with `joint`'s own keys laid over where given."""
    return lay_over(dict(config), over or {})


def train_config(settings: Mapping[str, Any], **given: Any) -> TrainConfig:
    """A whole training configuration from an experiment's settings and what the experiment decides itself."""
    own = {k: v for k, v in settings.items() if k not in ("model", "data")}
    model = {**settings.get("model", {}), **given.pop("model")}
    return load_train_config({**own, "model": model, **given})
