"""Settings files: YAML or JSON read safely, and pydantic's errors in the words of the file."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from chorus.documents import read_yaml
from chorus.errors import RecipeError, nearest
from chorus.files import expanded
from chorus.plain import JsonMap, JsonObject

MAX_NEAREST = 200  # unknown keys of one file whose nearest is looked for: what has more is no settings
SPELLINGS = {"normalizer": "normaliser"}  # what a key is called elsewhere -> here


def read_document(source: str | Path | JsonMap) -> tuple[JsonObject, str, Path]:
    """A map from a YAML or JSON file (or a map as it is), what to call it, and where its paths start."""
    if isinstance(source, Mapping):
        return spelled(source), "settings", Path()
    path = expanded(source)
    # all of them, to refuse a second one: yaml.load would complain in its own words
    documents = read_yaml(path)
    if len(documents) != 1 or not isinstance(documents[0], dict):
        raise RecipeError(["one map of settings is expected"], source=str(path))
    return spelled(documents[0]), str(path), path.parent


def spelled(document: JsonMap) -> JsonObject:
    """A document with each key as Chorus spells it: `normalizer` is taken for `normaliser`."""
    found: JsonObject = {}
    for key, value in document.items():
        name = SPELLINGS.get(key, key)
        if name in found or (name != key and name in document):
            raise RecipeError([f"{key} and {name}: one key, given twice"], "leave one of them out", "settings")
        found[name] = spelled(value) if isinstance(value, Mapping) else value
    return found


class Strict(BaseModel):
    """Settings as a person writes them: a key that is not known is refused, never dropped in silence."""

    model_config = ConfigDict(extra="forbid")


Settings = TypeVar("Settings", bound=BaseModel)


def validated(model: type[Settings], document: JsonMap, *, source: str, hint: str = "") -> Settings:
    """The settings that a document holds; `RecipeError` with every problem, in the words of the file.

    >>> class Cut(Strict):
    ...     seconds: float = 1.0
    >>> validated(Cut, {"seconds": 2}, source="cut.yml")
    Cut(seconds=2.0)
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise RecipeError(explain(error, model), hint, source) from None


def explain(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """Each problem: where, what, and the nearest known key."""
    problems: list[str] = []
    for one in error.errors(include_input=False, include_url=False):
        where = dotted(one["loc"])
        if one["type"] == "extra_forbidden":
            known = sorted(keys_at(model, one["loc"][:-1])) if len(problems) < MAX_NEAREST else []
            problems.append(f"{where}: unknown key{nearest(str(one['loc'][-1]), known)}")
        elif one["type"] == "missing":
            problems.append(f"{where}: missing")
        else:
            message = one["msg"].removeprefix("Value error, ")
            problems.append(f"{where}: {message[0].lower()}{message[1:]}".removeprefix(": "))
    return list(dict.fromkeys(problems))  # each alternative of a union complains for itself


def dotted(location: tuple[int | str, ...]) -> str:
    """A place in a document: `data.train[0].where`; pydantic's own marks of alternatives are left out."""
    parts = [p for p in location if isinstance(p, int) or not ("[" in str(p) or str(p) in ("str", "int", "float"))]
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in parts).lstrip(".")


def keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> set[str]:
    """The keys that are known at a place of a model."""
    models = [model]
    for part in location:
        found: list[type[BaseModel]] = []
        for one in models:
            if part in one.model_fields:
                found += _models_in(one.model_fields[part].annotation)
        models = found or models
    return {field.alias or name for one in models for name, field in one.model_fields.items()}


def _models_in(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if get_origin(annotation) in (Union, types.UnionType, list, dict, tuple):
        return [m for argument in get_args(annotation) for m in _models_in(argument)]
    return []


def leaves(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every dotted key of a model: `train.learning_rate`."""
    for name, field in model.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        inner = _models_in(field.annotation)
        if inner and get_origin(field.annotation) not in (list, dict):
            for one in inner:
                yield from leaves(one, f"{key}.")
        else:
            yield key
